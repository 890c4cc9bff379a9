//! One call of a provider's program: a request on its input, an answer on its output.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::cache::{KeyType, Login};
use super::settings::Provider;

const TIMEOUT: Duration = Duration::from_secs(60);
/// The agent's own secret, which is no program's.
const BOOTSTRAP_TOKEN: &str = "SKEP_TOKEN";

pub(super) struct Answer {
    pub(super) key: KeyType,
    /// `None`: as the configuration says.
    pub(super) lifetime: Option<SignedDuration>,
    pub(super) logins: Vec<Login>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum PluginError {
    #[error("run: {0}")]
    Run(#[from] io::Error),
    #[error("it did not end within {} s", TIMEOUT.as_secs())]
    Timeout,
    #[error("{status}: {output}")]
    Failed { status: ExitStatus, output: String },
    #[error("decode its answer: {0}")]
    Answer(#[from] serde_json::Error),
    #[error("its answer is a {0}")]
    OtherKind(String),
    #[error("cacheDuration of its answer: {0}")]
    Lifetime(#[from] jiff::Error),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    api_version: String,
    kind: String,
    cache_key_type: KeyType,
    cache_duration: Option<String>,
    #[serde(default)]
    auth: BTreeMap<String, Auth>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Auth {
    username: String,
    password: String,
}

pub(super) async fn run(program: &Path, provider: &Provider, image: &str) -> Result<Answer, PluginError> {
    let request = json!({
        "apiVersion": provider.api_version, "kind": "CredentialProviderRequest", "image": image,
    });
    let mut child = Command::new(program)
        .args(&provider.args)
        .env_remove(BOOTSTRAP_TOKEN)
        .envs(provider.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let input = child.stdin.take();
    let called = async {
        if let Some(mut input) = input {
            // A program may know its answer without reading.
            let _ = input.write_all(request.to_string().as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(TIMEOUT, called).await.map_err(|_| PluginError::Timeout)??;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(PluginError::Failed { status: output.status, output: text });
    }
    answer(&output.stdout, &provider.api_version)
}

fn answer(text: &[u8], api_version: &str) -> Result<Answer, PluginError> {
    let response: Response = serde_json::from_slice(text)?;
    if response.api_version != api_version || response.kind != "CredentialProviderResponse" {
        return Err(PluginError::OtherKind(format!("{} {}", response.api_version, response.kind)));
    }
    let lifetime = response.cache_duration.map(|text| text.parse()).transpose()?;
    let login = |(pattern, Auth { username, password })| Login { pattern, username, password };
    Ok(Answer {
        key: response.cache_key_type,
        lifetime,
        logins: response.auth.into_iter().map(login).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_the_version_of_the_request() {
        let version = "credentialprovider.kubelet.k8s.io/v1";
        let text = json!({
            "apiVersion": version, "kind": "CredentialProviderResponse", "cacheKeyType": "Registry",
            "cacheDuration": "1h0m0s", "auth": {"a.io": {"username": "u", "password": "p"}},
        })
        .to_string();
        let found = answer(text.as_bytes(), version).expect("an answer");
        assert_eq!((found.key, found.lifetime), (KeyType::Registry, Some(SignedDuration::from_hours(1))));
        assert_eq!(found.logins[0].username, "u");
        for (from, to, wanted) in [
            ("k8s.io/v1", "k8s.io/v2", "its answer is a credentialprovider.kubelet.k8s.io/v2"),
            ("1h0m0s", "soon", "cacheDuration of its answer: "),
            ("Registry", "Country", "decode its answer: "),
        ] {
            let error = answer(text.replace(from, to).as_bytes(), version).err().map(|e| e.to_string());
            assert!(error.as_ref().is_some_and(|error| error.starts_with(wanted)), "{error:?}");
        }
    }
}
