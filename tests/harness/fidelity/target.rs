//! An API server that is asked: by kubeconfig, by address, or in this process.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::{Method, Request};
use http_body_util::BodyExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

use super::answer::{Answer, warning_text};

const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// A server that does not answer within it gets the code 0.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Where objects of one kind are.
#[derive(Clone, Debug)]
pub struct Resource {
    /// `/api/v1` or `/apis/GROUP/VERSION`.
    pub root: String,
    pub plural: String,
    pub namespaced: bool,
    pub can_create: bool,
}

impl Resource {
    pub fn collection(&self, namespace: &str) -> String {
        if self.namespaced {
            format!("{}/namespaces/{namespace}/{}", self.root, self.plural)
        } else {
            format!("{}/{}", self.root, self.plural)
        }
    }
}

/// By apiVersion and kind.
pub type Resources = HashMap<(String, String), Resource>;

#[derive(Clone)]
pub struct Target {
    client: kube::Client,
}

impl Target {
    pub fn new(client: kube::Client) -> Target {
        Target { client }
    }

    pub async fn of_kubeconfig(file: &Path) -> Result<Target> {
        let kubeconfig = Kubeconfig::read_from(file).with_context(|| format!("read {}", file.display()))?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Target::of_config(config)
    }

    /// Without credentials, such as `kubectl proxy`.
    pub fn of_address(address: &str) -> Result<Target> {
        let mut config = kube::Config::new(address.parse().context("address of the server")?);
        config.accept_invalid_certs = true;
        Target::of_config(config)
    }

    fn of_config(mut config: kube::Config) -> Result<Target> {
        // An answer is what the server said, not what a later attempt got.
        config.default_retry = false;
        Ok(Target::new(kube::Client::try_from(config)?))
    }

    /// Sends a body of a media type. No answer in time is an answer with the code 0.
    pub async fn send(&self, method: Method, path: &str, media_type: &str, body: Vec<u8>) -> Result<Answer> {
        let context = || format!("{method} {path}");
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header("Content-Type", media_type)
            .header("Accept", "application/json")
            .header("User-Agent", "fidelity")
            .body(body.into())?;
        let read = async {
            let (parts, body) = self.client.send(request).await.with_context(context)?.into_parts();
            let bytes = body.collect().await.with_context(context)?.to_bytes();
            anyhow::Ok((parts, bytes))
        };
        let Ok(read) = tokio::time::timeout(ANSWER_TIMEOUT, read).await else {
            eprintln!("no answer within {ANSWER_TIMEOUT:?}: {method} {path}");
            return Ok(Answer::default());
        };
        let (parts, bytes) = read?;
        let warnings = parts.headers.get_all("Warning").iter();
        let warnings =
            warnings.map(|value| warning_text(&String::from_utf8_lossy(value.as_bytes()))).collect();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Ok(Answer { code: parts.status.as_u16(), warnings, body, managers: Value::Null })
    }

    pub async fn send_json(&self, method: Method, path: &str, body: &Value) -> Result<Answer> {
        self.send(method, path, "application/json", serde_json::to_vec(body)?).await
    }

    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, "application/json", Vec::new()).await
    }

    /// Removes what a new server of Skep has and the reference has not: default classes, which claims and Ingresses would get.
    pub async fn remove_default_classes(&self) -> Result<()> {
        for path in [
            "/apis/storage.k8s.io/v1/storageclasses/local-path",
            "/apis/networking.k8s.io/v1/ingressclasses/skep",
        ] {
            let answer = self.send(Method::DELETE, path, "application/json", Vec::new()).await?;
            ensure!(answer.succeeded(), "delete {path}: {}", answer.body);
        }
        Ok(())
    }

    /// Every kind that the server serves.
    pub async fn resources(&self) -> Result<Resources> {
        let mut resources = Resources::new();
        for root in ["/api", "/apis"] {
            let request = Request::get(root).header("Accept", DISCOVERY).body(Vec::new().into())?;
            let body = self.client.send(request).await?.into_body().collect().await?.to_bytes();
            let document: Value = serde_json::from_slice(&body).context("discovery document")?;
            for group in document["items"].as_array().context("discovery without items")? {
                add_group(group, &mut resources);
            }
        }
        ensure!(!resources.is_empty(), "the server serves nothing");
        Ok(resources)
    }

    /// Waits until `ready` accepts the object at the path; false after `timeout`.
    pub async fn wait(&self, path: &str, timeout: Duration, ready: impl Fn(&Value) -> bool) -> Result<bool> {
        let deadline = Instant::now() + timeout;
        loop {
            let answer = self.get(path).await?;
            if answer.succeeded() && ready(&answer.body) {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

fn add_group(group: &Value, resources: &mut Resources) {
    let name = group["metadata"]["name"].as_str().unwrap_or_default();
    for version in group["versions"].as_array().into_iter().flatten() {
        let number = version["version"].as_str().unwrap_or_default();
        let (root, api_version) = match name {
            "" => (format!("/api/{number}"), number.to_owned()),
            _ => (format!("/apis/{name}/{number}"), format!("{name}/{number}")),
        };
        for resource in version["resources"].as_array().into_iter().flatten() {
            let kind = resource["responseKind"]["kind"].as_str().unwrap_or_default();
            let verbs = resource["verbs"].as_array();
            let found = Resource {
                root: root.clone(),
                plural: resource["resource"].as_str().unwrap_or_default().to_owned(),
                namespaced: resource["scope"] == "Namespaced",
                can_create: verbs.is_some_and(|verbs| verbs.iter().any(|verb| verb == "create")),
            };
            resources.insert((api_version.clone(), kind.to_owned()), found);
        }
    }
}
