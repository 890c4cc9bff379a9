//! Counts the usage of ResourceQuotas. One job a namespace. It counts when a quota is new or changed, when an object of
//! the namespace was deleted, and every minute, since not every deletion is seen here. Without quotas it does nothing.

mod count;
mod decide;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::cache::{Change, Key, Object};
use crate::discovery::Discovered;
use crate::guard::caught_async;
use crate::hub::{InformerEvent, Lenient, Subscription};
use crate::meta;
use count::{CountJob, Version};
use decide::is_behind;

/// Objects are often deleted in bursts; one count answers a burst.
const BURST_PAUSE: Duration = Duration::from_millis(50);
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// After a panic.
const FAULT_RETRY_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Default)]
struct QuotaNamespace {
    /// By name.
    quotas: HashMap<String, Version>,
    /// When to count next.
    due: Option<Instant>,
    counting: bool,
}

#[derive(Default)]
struct Quotas {
    namespaces: HashMap<String, QuotaNamespace>,
    resources: Arc<Discovered>,
}

struct CountResult {
    namespace: String,
    /// Pause before the next count.
    pause: Duration,
    resources: Arc<Discovered>,
}

/// Counts until the future is dropped or the hub is gone. `ended`: namespaces in which an object was deleted that the hub
/// does not watch.
pub(crate) async fn run(
    client: Client,
    mut subscription: Subscription,
    ended: &mut mpsc::UnboundedReceiver<String>,
) {
    let quotas = Api::<Lenient<ResourceQuota>>::all(client.clone());
    let mut quotas = pin!(watcher(quotas, watcher::Config::default()).default_backoff());
    let (mut state, mut jobs) = (Quotas::default(), JoinSet::new());
    loop {
        state.start(&client, &mut jobs);
        let due = state.next_due();
        tokio::select! {
            Some(event) = quotas.next() => match event {
                Ok(event) => state.quota(event),
                Err(error) => tracing::info!(%error, "watch of quotas failed"),
            },
            event = subscription.next() => match event {
                Some(InformerEvent::Change(change)) => state.change(&change),
                Some(InformerEvent::Listed(_)) => {}
                None => return,
            },
            Some(namespace) = ended.recv() => state.count_after(&namespace, BURST_PAUSE),
            Some(done) = jobs.join_next() => match done {
                Ok(done) => state.done(done),
                Err(error) => tracing::error!(%error, "count quotas failed"),
            },
            () = async { match due { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => {}
        }
    }
}

impl Quotas {
    fn quota(&mut self, event: watcher::Event<Lenient<ResourceQuota>>) {
        match event {
            watcher::Event::Apply(Lenient::Object(quota))
            | watcher::Event::InitApply(Lenient::Object(quota)) => self.quota_changed(&quota),
            watcher::Event::Apply(Lenient::Unreadable { meta, error })
            | watcher::Event::InitApply(Lenient::Unreadable { meta, error }) => {
                tracing::warn!(kind = "ResourceQuota", object = %Key::of(&meta), error,
                    "decode object failed; it is skipped");
            }
            watcher::Event::Delete(quota) => {
                if let Some(namespace) = self.namespaces.get_mut(meta::namespace(quota.meta())) {
                    namespace.quotas.remove(meta::name(quota.meta()));
                }
                self.namespaces.retain(|_, namespace| !namespace.quotas.is_empty() || namespace.counting);
            }
            watcher::Event::Init | watcher::Event::InitDone => {}
        }
    }

    fn quota_changed(&mut self, quota: &ResourceQuota) {
        let name = meta::namespace(&quota.metadata).to_owned();
        let namespace = self.namespaces.entry(name.clone()).or_default();
        let version = Version {
            resource_version: quota.metadata.resource_version.clone().unwrap_or_default(),
            since: Instant::now(),
        };
        let known = namespace.quotas.insert(meta::name(&quota.metadata).to_owned(), version);
        if known.is_none() || is_behind(&serde_json::to_value(quota).unwrap_or_default()) {
            self.count_after(&name, BURST_PAUSE);
        }
    }

    /// Counts in a namespace after a pause, if it has quotas.
    fn count_after(&mut self, namespace: &str, pause: Duration) {
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            let at = Instant::now() + pause;
            namespace.due = Some(namespace.due.map_or(at, |due| due.min(at)));
        }
    }

    fn change(&mut self, change: &Change) {
        let Some(object) = change.object() else { return };
        let deleted = change.new.is_none();
        let may_use_less = match (&change.old, &change.new) {
            (Some(Object::Pod(old)), Some(Object::Pod(new))) => is_finished(new) && !is_finished(old),
            (Some(_), Some(Object::Service(_) | Object::PersistentVolumeClaim(_))) => true,
            _ => false,
        };
        if deleted || may_use_less {
            self.count_after(meta::namespace(object.meta()), BURST_PAUSE);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.namespaces
            .values()
            .filter(|namespace| !namespace.counting)
            .filter_map(|namespace| namespace.due)
            .min()
    }

    fn start(&mut self, client: &Client, jobs: &mut JoinSet<CountResult>) {
        let now = Instant::now();
        for (name, namespace) in &mut self.namespaces {
            if namespace.counting || namespace.due.is_none_or(|due| due > now) {
                continue;
            }
            (namespace.counting, namespace.due) = (true, None);
            let mut job =
                CountJob::new(client.clone(), name.clone(), namespace.quotas.clone(), self.resources.clone());
            jobs.spawn(async move {
                let pause = match caught_async(job.count()).await {
                    Ok(Ok(pause)) => pause,
                    Ok(Err(error)) => {
                        tracing::info!(namespace = job.namespace, %error, "count quotas failed; it is retried");
                        RETRY_INTERVAL
                    }
                    Err(error) => {
                        tracing::error!(namespace = job.namespace, %error, "count quotas failed; it is retried");
                        FAULT_RETRY_INTERVAL
                    }
                };
                CountResult { namespace: job.namespace, pause, resources: job.resources }
            });
        }
    }

    fn done(&mut self, done: CountResult) {
        self.resources = done.resources;
        if let Some(namespace) = self.namespaces.get_mut(&done.namespace) {
            namespace.counting = false;
        }
        self.count_after(&done.namespace, done.pause);
        self.namespaces.retain(|_, namespace| !namespace.quotas.is_empty() || namespace.counting);
    }
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
