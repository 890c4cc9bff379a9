//! Images: import of OCI archives through containerd's services, and the credentials for pulls.

mod access;
mod archive;
mod collect;
mod import;
mod providers;
mod settings;

pub(crate) use access::{PullRecords, SecretId};
pub use archive::ArchiveError;
pub(crate) use collect::ImageCollector;
pub use import::{ImportError, import_folder};
pub(crate) use providers::CredentialProviders;
pub use providers::{ProviderError, ProviderSettings};
pub use settings::ImageSettings;

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{Api, Client};
use serde::Deserialize;

use crate::cri::api;
use crate::names;

#[derive(Deserialize)]
struct DockerConfig {
    auths: HashMap<String, DockerAuth>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct DockerAuth {
    username: String,
    password: String,
    auth: String,
}

/// Credentials for a registry, and the Secret that holds them.
pub(crate) struct Credentials {
    pub(crate) secret: SecretId,
    pub(crate) auth: api::AuthConfig,
}

/// The credentials that the pod's imagePullSecrets hold for the image's registry, in their order.
pub(crate) async fn credentials(client: &Client, pod: &Pod, image: &str) -> Vec<Credentials> {
    let (_, namespace, _) = names::of(pod);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let mut found = Vec::new();
    for reference in pull_secrets(pod) {
        let Ok(Some(secret)) = secrets.get_opt(reference).await else { continue };
        if let Some(auth) = secret.data.as_ref().and_then(|data| from_secret(data, image)) {
            let uid = secret.metadata.uid.unwrap_or_default();
            let secret = SecretId { uid, namespace: namespace.clone(), name: reference.to_owned() };
            found.push(Credentials { secret, auth });
        }
    }
    found
}

/// The pod's pull Secrets that exist. While the API server cannot be reached, all count as existing.
pub(crate) async fn secret_ids(client: &Client, pod: &Pod) -> Vec<SecretId> {
    let (_, namespace, _) = names::of(pod);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let mut ids = Vec::new();
    for name in pull_secrets(pod) {
        let uid = match secrets.get_metadata_opt(name).await {
            Ok(Some(secret)) => secret.metadata.uid.unwrap_or_default(),
            Ok(None) | Err(kube::Error::Api(_)) => continue,
            Err(_) => String::new(),
        };
        ids.push(SecretId { uid, namespace: namespace.clone(), name: name.to_owned() });
    }
    ids
}

fn pull_secrets(pod: &Pod) -> impl Iterator<Item = &str> {
    let secrets = pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten());
    secrets.map(|reference| reference.name.as_str())
}

fn from_secret(
    data: &std::collections::BTreeMap<String, k8s_openapi::ByteString>,
    image: &str,
) -> Option<api::AuthConfig> {
    let auths = match (data.get(".dockerconfigjson"), data.get(".dockercfg")) {
        (Some(text), _) => serde_json::from_slice::<DockerConfig>(&text.0).ok()?.auths,
        (None, Some(text)) => serde_json::from_slice(&text.0).ok()?,
        (None, None) => return None,
    };
    let full = normalize(image);
    let best = auths.into_iter().filter_map(|(registry, auth)| {
        let bare = registry.trim_start_matches("https://").trim_start_matches("http://");
        let bare = bare.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
        let bare = if bare == "index.docker.io" { "docker.io" } else { bare };
        let matches = full.strip_prefix(bare).is_some_and(|rest| rest.starts_with('/'));
        matches.then_some((bare.len(), auth))
    });
    let (_, auth) = best.max_by_key(|(length, _)| *length)?;
    // containerd compares a server address with the host that it asks: Docker Hub's differs from the image's.
    Some(api::AuthConfig {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        ..Default::default()
    })
}

/// The full name of an image as containerd stores it: registry, repository, tag.
pub fn normalize(image: &str) -> String {
    let (first, rest) = image.split_once('/').unwrap_or(("", image));
    let has_host = first.contains(['.', ':']) || first == "localhost";
    let mut full = match (has_host, first) {
        (true, _) => image.to_owned(),
        (false, "") => format!("docker.io/library/{rest}"),
        (false, _) => format!("docker.io/{image}"),
    };
    let last = full.rsplit('/').next().unwrap_or_default();
    if !last.contains(':') && !full.contains('@') {
        full.push_str(":latest");
    }
    full
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed() {
        let cases = [
            ("busybox", "docker.io/library/busybox:latest"),
            ("a/b:1", "docker.io/a/b:1"),
            ("localhost/skep/web:1", "localhost/skep/web:1"),
            ("h:5000/x", "h:5000/x:latest"),
            ("h.io/x@sha256:0", "h.io/x@sha256:0"),
        ];
        for (given, expected) in cases {
            assert_eq!(normalize(given), expected);
        }
    }
}
