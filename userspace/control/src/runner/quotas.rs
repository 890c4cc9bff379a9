//! Counts what is used of ResourceQuotas. One job a namespace; it counts when a quota is new or changed, when something
//! in the namespace ended, and every minute, since not every end is heard of here. Without quotas it does nothing.

use std::{
    collections::{BTreeMap, HashMap},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};
use serde_json::Value;
use skep_api::quota::Meter;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    Heard,
    discovery::{Resource, discover},
};
use crate::{
    controllers::resource_quota::{Found, Step, decide, is_behind, meters},
    meta,
    view::{Change, Object},
};

/// Objects often end in bursts; one count answers a burst.
const SETTLE: Duration = Duration::from_millis(50);
const AGAIN: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);

/// The version of a quota, and since when it is known.
type Seen = (String, Instant);
type Known = Arc<Vec<Resource>>;

#[derive(Default)]
struct Namespace {
    quotas: HashMap<String, Seen>,
    due: Option<Instant>,
    working: bool,
}

#[derive(Default)]
struct State {
    namespaces: HashMap<String, Namespace>,
    resources: Known,
}

struct Done {
    namespace: String,
    /// When to count again.
    again: Duration,
    resources: Known,
}

/// `gone`: namespaces in which an object ended that the runner does not watch.
pub(crate) async fn run(
    client: Client,
    mut heard: mpsc::UnboundedReceiver<Heard>,
    mut gone: mpsc::UnboundedReceiver<String>,
) {
    let quotas = Api::<ResourceQuota>::all(client.clone());
    let mut quotas = pin!(watcher(quotas, watcher::Config::default()).default_backoff());
    let (mut state, mut jobs) = (State::default(), JoinSet::new());
    loop {
        state.start(&client, &mut jobs);
        let wake = state.next_due();
        tokio::select! {
            Some(event) = quotas.next() => match event {
                Ok(event) => state.quota(event),
                Err(error) => tracing::info!(%error, "watch quotas"),
            },
            told = heard.recv() => match told {
                Some(Heard::Change(change)) => state.heard(&change),
                Some(Heard::Synced) => {}
                None => return,
            },
            Some(namespace) = gone.recv() => state.soon(&namespace, SETTLE),
            Some(done) = jobs.join_next() => match done {
                Ok(done) => state.done(done),
                Err(error) => tracing::error!(%error, "counting for quotas ended without an answer"),
            },
            () = async { match wake { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => {}
        }
    }
}

impl State {
    fn quota(&mut self, event: watcher::Event<ResourceQuota>) {
        match event {
            watcher::Event::Apply(quota) | watcher::Event::InitApply(quota) => self.quota_is(&quota),
            watcher::Event::Delete(quota) => {
                let of = self.namespaces.get_mut(meta::namespace(&quota.metadata));
                if let Some(namespace) = of {
                    namespace.quotas.remove(meta::name(&quota.metadata));
                }
                self.namespaces.retain(|_, namespace| !namespace.quotas.is_empty() || namespace.working);
            }
            watcher::Event::Init | watcher::Event::InitDone => {}
        }
    }

    fn quota_is(&mut self, quota: &ResourceQuota) {
        let name = meta::namespace(&quota.metadata).to_owned();
        let namespace = self.namespaces.entry(name.clone()).or_default();
        let version = quota.metadata.resource_version.clone().unwrap_or_default();
        let first =
            namespace.quotas.insert(meta::name(&quota.metadata).to_owned(), (version, Instant::now()));
        if first.is_none() || is_behind(&serde_json::to_value(quota).unwrap_or_default()) {
            self.soon(&name, SETTLE);
        }
    }

    /// Counts in a namespace, if it has quotas.
    fn soon(&mut self, namespace: &str, after: Duration) {
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            let at = Instant::now() + after;
            namespace.due = Some(namespace.due.map_or(at, |due| due.min(at)));
        }
    }

    fn heard(&mut self, change: &Change) {
        let Some(object) = change.object() else { return };
        let ended = change.new.is_none();
        let less = match (&change.old, &change.new) {
            (Some(Object::Pod(old)), Some(Object::Pod(new))) => is_over(new) && !is_over(old),
            (Some(_), Some(Object::Service(_) | Object::PersistentVolumeClaim(_))) => true,
            _ => false,
        };
        if ended || less {
            self.soon(meta::namespace(object.meta()), SETTLE);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.namespaces
            .values()
            .filter(|namespace| !namespace.working)
            .filter_map(|namespace| namespace.due)
            .min()
    }

    fn start(&mut self, client: &Client, jobs: &mut JoinSet<Done>) {
        let now = Instant::now();
        for (name, namespace) in &mut self.namespaces {
            if namespace.working || namespace.due.is_none_or(|due| due > now) {
                continue;
            }
            (namespace.working, namespace.due) = (true, None);
            let (client, name, seen) = (client.clone(), name.clone(), namespace.quotas.clone());
            let resources = self.resources.clone();
            jobs.spawn(async move {
                let mut job = Job { client, namespace: name, seen, resources, found: BTreeMap::new() };
                let again = job.count().await.unwrap_or_else(|error| {
                    tracing::info!(namespace = job.namespace, %error, "not counted yet");
                    RETRY
                });
                Done { namespace: job.namespace, again, resources: job.resources }
            });
        }
    }

    fn done(&mut self, done: Done) {
        self.resources = done.resources;
        if let Some(namespace) = self.namespaces.get_mut(&done.namespace) {
            namespace.working = false;
        }
        self.soon(&done.namespace, done.again);
        self.namespaces.retain(|_, namespace| !namespace.quotas.is_empty() || namespace.working);
    }
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

struct Job {
    client: Client,
    namespace: String,
    seen: HashMap<String, Seen>,
    resources: Known,
    found: BTreeMap<Meter, Found>,
}

impl Job {
    /// Counts for all quotas of the namespace; when to do so again.
    async fn count(&mut self) -> kube::Result<Duration> {
        let quotas = self.list("", "v1", "resourcequotas", "").await?;
        let mut again = AGAIN;
        for quota in items(quotas) {
            for meter in meters(&quota) {
                if !self.found.contains_key(&meter) {
                    let found = self.find(&meter).await?;
                    self.found.insert(meter, found);
                }
            }
            match decide(&quota, &self.found, self.age(&quota), Timestamp::now()) {
                Step::Nothing => {}
                Step::Wait(wait) => again = again.min(wait),
                Step::Write(status) => {
                    if !self.write(quota, status).await? {
                        again = again.min(SETTLE);
                    }
                }
            }
        }
        Ok(again)
    }

    /// How long a quota is known to be in its present version.
    fn age(&self, quota: &Value) -> Duration {
        let metadata = &quota["metadata"];
        let seen = self.seen.get(metadata["name"].as_str().unwrap_or_default());
        let same = seen.filter(|(version, _)| metadata["resourceVersion"] == version.as_str());
        same.map_or(Duration::ZERO, |(_, since)| since.elapsed())
    }

    async fn find(&mut self, meter: &Meter) -> kube::Result<Found> {
        let Some(version) = self.version(meter).await? else { return Ok(Found::Number(0)) };
        if !meter.is_number() {
            return Ok(Found::Objects(items(self.list(&meter.group, &version, &meter.plural, "").await?)));
        }
        // The server knows how many there are; one of them is enough to see.
        let list = self.list(&meter.group, &version, &meter.plural, "?limit=1").await?;
        let more = list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0);
        Ok(Found::Number(more + items(list).len() as u64))
    }

    /// The version in which the server has a resource, if it has it.
    async fn version(&mut self, meter: &Meter) -> kube::Result<Option<String>> {
        if meter.group.is_empty() {
            return Ok(Some("v1".to_owned()));
        }
        let is = |resource: &&Resource| {
            resource.namespaced && resource.api.group == meter.group && resource.api.plural == meter.plural
        };
        if !self.resources.iter().any(|resource| is(&resource)) {
            self.resources = Arc::new(discover(&self.client).await?);
        }
        Ok(self.resources.iter().find(is).map(|resource| resource.api.version.clone()))
    }

    async fn list(&self, group: &str, version: &str, plural: &str, query: &str) -> kube::Result<Value> {
        let root = if group.is_empty() { "/api".to_owned() } else { format!("/apis/{group}") };
        let path = format!("{root}/{version}/namespaces/{}/{plural}{query}", self.namespace);
        let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        self.client.request(request).await
    }

    /// False if somebody else wrote the quota, or it is gone.
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
