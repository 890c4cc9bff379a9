//! The `scale` subresource of any kind.
//!
//! In: a reference by API version, kind and name. Out: its scale, and writes of the number of replicas. Errors are texts for
//! conditions and Events.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec};
use k8s_openapi::api::autoscaling::v2::CrossVersionObjectReference;
use kube::Client;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::controllers::horizontal_pod_autoscaler::Target;
use crate::controllers::horizontal_pod_autoscaler::error::AutoscalerError;
use crate::discovery::{Discovered, Resource, discover};

/// A kind that is not known is looked for again after so long.
const MIN_DISCOVERY_INTERVAL: Duration = Duration::from_secs(10);
/// Writes that meet another writer's.
const MAX_ATTEMPTS: u32 = 5;

/// Reads and writes scales.
pub(super) struct Scales {
    client: Client,
    /// The resources of the server, and when they were asked for.
    discovered: Mutex<Option<(Instant, Arc<Discovered>)>>,
}

/// A scale and its path.
pub(super) struct FoundScale {
    path: String,
    scale: Scale,
}

impl FoundScale {
    pub(super) fn target(&self) -> Target {
        let Scale { spec, status, .. } = &self.scale;
        Target {
            replicas: spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0),
            status_replicas: status.as_ref().map_or(0, |status| status.replicas),
            selector: status.as_ref().and_then(|status| status.selector.clone()).unwrap_or_default(),
        }
    }
}

impl Scales {
    pub(super) fn new(client: Client) -> Scales {
        Scales { client, discovered: Mutex::default() }
    }

    /// The resources of a group and kind, in the server's order of preference.
    pub(super) async fn resources(&self, group: &str, kind: &str) -> Result<Vec<Resource>, AutoscalerError> {
        let mut discovered = self.discovered.lock().await;
        let find = |all: &Discovered| -> Vec<Resource> { all.of_kind(group, kind).cloned().collect() };
        if let Some((at, known)) = &*discovered {
            let found = find(known);
            if !found.is_empty() || at.elapsed() < MIN_DISCOVERY_INTERVAL {
                return Ok(found);
            }
        }
        let all = Arc::new(discover(&self.client).await.map_err(text)?);
        let found = find(&all);
        *discovered = Some((Instant::now(), all));
        Ok(found)
    }

    /// The scale of an object in a namespace.
    pub(super) async fn get(
        &self,
        namespace: &str,
        reference: &CrossVersionObjectReference,
    ) -> Result<FoundScale, AutoscalerError> {
        let api_version = reference.api_version.as_deref().unwrap_or_default();
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        if api_version.matches('/').count() > 1 {
            return Err(format!("unexpected GroupVersion string: {api_version}").into());
        }
        let resources = self.resources(group, &reference.kind).await?;
        let mut first = None;
        for resource in resources.iter().filter(|resource| resource.namespaced) {
            let collection = resource.path_in(namespace);
            let path = format!("{collection}/{}/scale", encoded(&reference.name));
            match self.read(&path).await {
                Ok(scale) => return Ok(FoundScale { path, scale }),
                Err(error) => drop(first.get_or_insert(error)),
            }
        }
        Err(first.unwrap_or_else(|| no_kind(group, &reference.kind)))
    }

    async fn read(&self, path: &str) -> Result<Scale, AutoscalerError> {
        let request = Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
        self.client.request(request).await.map_err(text)
    }

    /// Sets the number of replicas, whatever else changes meanwhile.
    pub(super) async fn set(&self, found: &mut FoundScale, replicas: i32) -> Result<(), AutoscalerError> {
        let mut attempt = 1;
        loop {
            found.scale.spec = Some(ScaleSpec { replicas: Some(replicas) });
            let body = serde_json::to_vec(&found.scale).map_err(|error| error.to_string())?;
            let request = Request::put(&found.path).header("content-type", "application/json").body(body);
            let request = request.map_err(|error| error.to_string())?;
            match self.client.request::<Scale>(request).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 && attempt < MAX_ATTEMPTS => {
                    attempt += 1;
                    found.scale = self.read(&found.path).await?;
                }
                Err(error) => return Err(text(error)),
            }
        }
    }
}

/// As upstream's mapper says it.
pub(super) fn no_kind(group: &str, kind: &str) -> AutoscalerError {
    format!("no matches for kind {kind:?} in group {group:?}").into()
}

/// The server's words, where it answered.
pub(super) fn text(error: kube::Error) -> AutoscalerError {
    AutoscalerError(match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    })
}

/// A segment of a path or a value of a query (RFC 3986, 2.1).
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
