//! An image registry on loopback: the pulls of the OCI distribution specification, over plain HTTP.
//!
//! containerd takes registries of the name `localhost` without TLS.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::{Path as UrlPath, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use xtask::image::{Image, build};

/// Blobs and manifests by digest; the digests of manifests by `NAME:TAG`.
#[derive(Default)]
struct Content {
    blobs: HashMap<String, Vec<u8>>,
    tags: HashMap<String, String>,
    /// Answered requests for manifests.
    manifests_served: u64,
    /// As `USER:PASSWORD`; `None`: everyone is served.
    credentials: Option<String>,
}

type Shared = Arc<Mutex<Content>>;

pub struct Registry {
    /// `localhost:PORT`, with which the names of its images begin.
    pub host: String,
    content: Shared,
    task: JoinHandle<()>,
}

impl Registry {
    pub async fn start() -> Result<Registry> {
        Registry::start_with(None).await
    }

    /// A registry that serves only who has these credentials.
    pub async fn start_private(user: &str, password: &str) -> Result<Registry> {
        Registry::start_with(Some(format!("{user}:{password}"))).await
    }

    async fn start_with(credentials: Option<String>) -> Result<Registry> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let host = format!("localhost:{}", listener.local_addr()?.port());
        let content = Shared::new(Mutex::new(Content { credentials, ..Content::default() }));
        let router = Router::new()
            .route("/v2/", get(|| async {}))
            .route("/v2/{*path}", get(answer))
            .layer(from_fn_with_state(content.clone(), check))
            .with_state(content.clone());
        let task = tokio::spawn(async move { drop(axum::serve(listener, router).await) });
        Ok(Registry { host, content, task })
    }

    /// Serves an image of busybox with these files; returns its full name. An image of the same name and tag is replaced.
    pub fn push(&self, name: &str, files: &[(&str, &[u8])]) -> Result<String> {
        self.push_image(&Image { name, command: &["/bin/sh"], files, stop_signal: None })
    }

    /// Serves the image under its name in this registry; returns the full name.
    pub fn push_image(&self, image: &Image<'_>) -> Result<String> {
        let folder = tempfile::tempdir()?;
        let archive = folder.path().join("image.tar");
        let full = format!("{}/{}", self.host, image.name);
        build(&Image { name: &full, ..*image }, &archive)?;
        let mut content = self.content.lock().unwrap();
        let manifest = read_archive(&archive, &mut content.blobs)?;
        content.tags.insert(image.name.to_owned(), manifest);
        Ok(full)
    }

    /// A Secret with the registry's credentials.
    pub fn secret(&self, name: &str) -> Value {
        let credentials = self.content.lock().unwrap().credentials.clone().unwrap_or_default();
        let (user, password) = credentials.split_once(':').unwrap_or_default();
        let auths = json!({"auths": {(self.host.as_str()): {"username": user, "password": password}}});
        let data = json!({".dockerconfigjson": BASE64_STANDARD.encode(auths.to_string())});
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "type": "kubernetes.io/dockerconfigjson", "data": data})
    }

    /// How often a manifest was asked for.
    pub fn manifests_served(&self) -> u64 {
        self.content.lock().unwrap().manifests_served
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Adds the archive's blobs; returns the digest of its manifest.
fn read_archive(archive: &Path, blobs: &mut HashMap<String, Vec<u8>>) -> Result<String> {
    let mut manifest = None;
    for entry in tar::Archive::new(std::fs::File::open(archive)?).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        if let Some(digest) = path.strip_prefix("blobs/sha256/") {
            blobs.insert(format!("sha256:{digest}"), bytes);
        } else if path == "index.json" {
            let index: Value = serde_json::from_slice(&bytes)?;
            manifest = index["manifests"][0]["digest"].as_str().map(str::to_owned);
        }
    }
    manifest.context("the archive names a manifest")
}

async fn check(State(content): State<Shared>, request: Request, next: Next) -> Response {
    let wanted =
        content.lock().unwrap().credentials.as_ref().map(|c| format!("Basic {}", BASE64_STANDARD.encode(c)));
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if wanted.is_some() && given != wanted.as_deref() {
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=\"test\"")])
            .into_response();
    }
    next.run(request).await
}

/// `NAME/manifests/TAG-OR-DIGEST` and `NAME/blobs/DIGEST`.
async fn answer(State(content): State<Shared>, UrlPath(path): UrlPath<String>) -> Response {
    let mut content = content.lock().unwrap();
    let (digest, kind) = if let Some((name, reference)) = path.split_once("/manifests/") {
        content.manifests_served += 1;
        let tagged = content.tags.get(&format!("{name}:{reference}"));
        (tagged.cloned().unwrap_or(reference.to_owned()), "application/vnd.oci.image.manifest.v1+json")
    } else if let Some((_, digest)) = path.split_once("/blobs/") {
        (digest.to_owned(), "application/octet-stream")
    } else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match content.blobs.get(&digest) {
        Some(bytes) => {
            let digest_header = header::HeaderName::from_static("docker-content-digest");
            ([(header::CONTENT_TYPE, kind.to_owned()), (digest_header, digest)], bytes.clone())
                .into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
