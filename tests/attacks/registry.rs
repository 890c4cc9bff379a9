//! A registry with one private image, for tests.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use skep_tests::image::{Image, build};
use tempfile::TempDir;

const CREDENTIALS: &str = "user:word";
const IMAGE: &str = "private/app";

/// The registry, until the test's runtime ends.
pub(crate) struct Registry {
    address: SocketAddr,
}

/// The image's files, by digest.
struct Content {
    folder: TempDir,
    manifest: String,
}

impl Registry {
    pub(crate) async fn start() -> Result<Registry> {
        let folder = tempfile::tempdir()?;
        let archive = folder.path().join("image.tar");
        build(&Image { name: "private:1", command: &["/bin/sh"], files: &[] }, &archive)?;
        let unpacked = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(folder.path()).status()?;
        anyhow::ensure!(unpacked.success(), "unpack the image");
        let index: Value = serde_json::from_slice(&std::fs::read(folder.path().join("index.json"))?)?;
        let manifest = index["manifests"][0]["digest"].as_str().context("a digest")?.to_owned();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let content = std::sync::Arc::new(Content { folder, manifest });
        let router = Router::new().fallback(answer).with_state(content);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Registry { address })
    }

    pub(crate) fn image(&self) -> String {
        format!("{}/{IMAGE}:1", self.address)
    }

    /// A Secret with the registry's credentials.
    pub(crate) fn secret(&self, name: &str) -> Value {
        let (user, password) = CREDENTIALS.split_once(':').unwrap_or_default();
        let auths = json!({"auths": {(self.address.to_string()): {"username": user, "password": password}}});
        let data = json!({".dockerconfigjson": BASE64_STANDARD.encode(auths.to_string())});
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "type": "kubernetes.io/dockerconfigjson", "data": data})
    }
}

async fn answer(State(content): State<std::sync::Arc<Content>>, request: Request) -> Response {
    let given = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    if given != Some(&format!("Basic {}", BASE64_STANDARD.encode(CREDENTIALS))) {
        return reply(401, "www-authenticate", "Basic realm=\"test\"", Vec::new());
    }
    let path = request.uri().path().trim_start_matches("/v2/");
    let Some((kind, reference)) =
        path.strip_prefix(IMAGE).and_then(|rest| rest.strip_prefix('/')?.split_once('/'))
    else {
        return reply(200, "content-type", "application/json", b"{}".to_vec());
    };
    let digest = if reference == "1" { &content.manifest } else { reference };
    match std::fs::read(blob(content.folder.path(), digest)) {
        Ok(bytes) if kind == "manifests" => {
            let mut answer = reply(200, "content-type", "application/vnd.oci.image.manifest.v1+json", bytes);
            if let Ok(digest) = digest.parse() {
                answer.headers_mut().insert("docker-content-digest", digest);
            }
            answer
        }
        Ok(bytes) => reply(200, "content-type", "application/octet-stream", bytes),
        Err(_) => reply(404, "content-type", "text/plain", Vec::new()),
    }
}

fn blob(folder: &Path, digest: &str) -> std::path::PathBuf {
    folder.join("blobs").join(digest.replace(':', "/"))
}

fn reply(status: u16, header: &str, value: &str, body: Vec<u8>) -> Response {
    let built = Response::builder().status(status).header(header, value).body(Body::from(body));
    built.unwrap_or_default()
}
