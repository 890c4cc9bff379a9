//! One count of all quotas of a namespace: lists what they limit, decides, and writes their status.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::{Api, Client};
use serde_json::Value;
use skep_api::quota::Meter;
use tokio::time::Instant;

use super::decide::{QuotaDecision, Usage, decide, meters};
use crate::discovery::{Discovered, discover};

const MAX_COUNT_INTERVAL: Duration = Duration::from_secs(60);
/// Before the next count when another writer wrote the quota.
const CONFLICT_PAUSE: Duration = Duration::from_millis(50);

/// Before the next count when a server of some resource does not answer.
const UNDISCOVERED_PAUSE: Duration = Duration::from_secs(10);

/// A version of a quota, and since when it is known.
#[derive(Clone)]
pub(super) struct Version {
    pub(super) resource_version: String,
    pub(super) since: Instant,
}

pub(super) struct CountJob {
    client: Client,
    pub(super) namespace: String,
    /// By the name of the quota.
    versions: HashMap<String, Version>,
    /// Discovered resources; discovered again when one is not among them, or is no longer served.
    pub(super) resources: Arc<Discovered>,
    usage: BTreeMap<Meter, Usage>,
}

/// Why a count ended early; the quota keeps its last usage.
#[derive(Debug, thiserror::Error)]
pub(super) enum CountError {
    #[error(transparent)]
    Request(#[from] kube::Error),
    /// Its objects exist and cannot be counted.
    #[error("discovery of group {0} failed")]
    Undiscovered(String),
}

impl CountJob {
    pub(super) fn new(
        client: Client,
        namespace: String,
        versions: HashMap<String, Version>,
        resources: Arc<Discovered>,
    ) -> Self {
        CountJob { client, namespace, versions, resources, usage: BTreeMap::new() }
    }

    /// Counts for all quotas of the namespace; returns the pause before the next count.
    pub(super) async fn count(&mut self) -> Result<Duration, CountError> {
        let quotas = self.list("", "v1", "resourcequotas", "").await?;
        let mut pause = MAX_COUNT_INTERVAL;
        for quota in items(quotas) {
            match self.measure_all(&quota).await {
                Ok(()) => {}
                Err(error @ CountError::Undiscovered(_)) => {
                    tracing::info!(namespace = self.namespace, %error, "count quota failed; it is retried");
                    pause = pause.min(UNDISCOVERED_PAUSE);
                    continue;
                }
                Err(error) => return Err(error),
            }
            match decide(&quota, &self.usage, self.age(&quota), Timestamp::now()) {
                QuotaDecision::Nothing => {}
                QuotaDecision::Wait(wait) => pause = pause.min(wait),
                QuotaDecision::Write(status) => {
                    if !self.write(quota, status).await? {
                        pause = pause.min(CONFLICT_PAUSE);
                    }
                }
            }
        }
        Ok(pause)
    }

    /// Measures what the quota limits and was not measured yet.
    async fn measure_all(&mut self, quota: &Value) -> Result<(), CountError> {
        for meter in meters(quota) {
            if !self.usage.contains_key(&meter) {
                let usage = self.measure(&meter).await?;
                self.usage.insert(meter, usage);
            }
        }
        Ok(())
    }

    /// For how long the quota is known to have its present version.
    fn age(&self, quota: &Value) -> Duration {
        let metadata = &quota["metadata"];
        let known = self.versions.get(metadata["name"].as_str().unwrap_or_default());
        let same = known.filter(|version| metadata["resourceVersion"] == version.resource_version.as_str());
        same.map_or(Duration::ZERO, |version| version.since.elapsed())
    }

    async fn measure(&mut self, meter: &Meter) -> Result<Usage, CountError> {
        let Some(version) = self.version(meter).await? else { return Ok(Usage::Number(0)) };
        let measured = self.measure_version(meter, &version).await;
        if let Err(kube::Error::Api(status)) = &measured
            && status.code == 404
        {
            // The version is no longer served; the next count uses another one.
            self.resources = Arc::default();
        }
        Ok(measured?)
    }

    async fn measure_version(&self, meter: &Meter, version: &str) -> kube::Result<Usage> {
        if !meter.is_count() {
            return Ok(Usage::Objects(items(self.list(&meter.group, version, &meter.plural, "").await?)));
        }
        // A list of one object carries the number of the others.
        let list = self.list(&meter.group, version, &meter.plural, "?limit=1").await?;
        let more = list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0);
        Ok(Usage::Number(more + items(list).len() as u64))
    }

    /// The version in which the server serves a resource, if it serves it.
    async fn version(&mut self, meter: &Meter) -> Result<Option<String>, CountError> {
        if meter.group.is_empty() {
            return Ok(Some("v1".to_owned()));
        }
        let version = |resources: &Discovered| {
            let mut found = resources.preferred().filter(|resource| {
                resource.namespaced
                    && resource.api.group == meter.group
                    && resource.api.plural == meter.plural
            });
            found.next().map(|resource| resource.api.version.clone())
        };
        if let Some(known) = version(&self.resources) {
            return Ok(Some(known));
        }
        self.resources = Arc::new(discover(&self.client).await?);
        let found = version(&self.resources);
        if found.is_none() && self.resources.has_failed(&meter.group) {
            return Err(CountError::Undiscovered(meter.group.to_string()));
        }
        Ok(found)
    }

    async fn list(&self, group: &str, version: &str, plural: &str, query: &str) -> kube::Result<Value> {
        let root = if group.is_empty() { "/api".to_owned() } else { format!("/apis/{group}") };
        let path = format!("{root}/{version}/namespaces/{}/{plural}{query}", self.namespace);
        let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        self.client.request(request).await
    }

    /// False if another writer changed the quota, or it is gone.
    async fn write(&self, mut quota: Value, status: Value) -> kube::Result<bool> {
        quota["status"] = status;
        let name = quota["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let Ok(quota) = serde_json::from_value::<ResourceQuota>(quota) else { return Ok(true) };
        let api = Api::<ResourceQuota>::namespaced(self.client.clone(), &self.namespace);
        match api.replace_status(&name, &Default::default(), &quota).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn items(mut list: Value) -> Vec<Value> {
    match list["items"].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}
