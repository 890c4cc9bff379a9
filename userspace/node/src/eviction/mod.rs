//! Ends pods that use more disk than they may, and pods for which a node that runs short has no room.
//!
//! In: the pods, the sizes of their volumes, logs and writable layers, what the machine has left. Out: the uid of each pod to
//! end and the message that its status shows, the node's conditions of pressure, images to remove.

mod limits;
mod observe;
pub mod pressure;
pub mod rank;
mod settings;
pub mod signals;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::NodeContext;
use crate::cri::{CONTAINER_NAME, POD_UID};
use crate::images::ImageCollector;
use crate::names;
use crate::plan::{EVICTED, Termination, is_terminal};
use limits::Usage;
use pressure::Pressures;
use rank::Candidate;
pub use settings::EvictionSettings;
use signals::{Shortage, Signal};

/// What an evicted pod has to end.
const GRACE: SignedDuration = SignedDuration::from_secs(1);
/// Pause between two measurements of limits; one reads every folder of the pods that have a limit.
const LIMITS_INTERVAL: Duration = Duration::from_secs(30);
/// Pause between two observations of the machine.
const PRESSURE_INTERVAL: Duration = Duration::from_secs(10);
/// After an eviction the node waits so long for what the pod gives back.
const MAX_CLEANUP: Duration = Duration::from_secs(30);

/// A pod to end, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Eviction {
    pub(crate) uid: String,
    pub(crate) why: Termination,
}

impl Eviction {
    /// Of a pod for which the node has no room.
    fn new(uid: String, message: String) -> Eviction {
        let why = Termination { grace: Some(GRACE), ..Termination::new(EVICTED, message) };
        Eviction { uid, why }
    }
}

/// Watches over limits and the machine until `stop`.
pub(crate) struct Evictor {
    context: Arc<NodeContext>,
    settings: EvictionSettings,
    images: ImageCollector,
    /// The conditions of the node.
    shortages: watch::Sender<BTreeSet<Shortage>>,
    evictions: mpsc::Sender<Eviction>,
}

impl Evictor {
    pub(crate) fn new(
        (context, settings, images): (Arc<NodeContext>, EvictionSettings, ImageCollector),
        shortages: watch::Sender<BTreeSet<Shortage>>,
        evictions: mpsc::Sender<Eviction>,
    ) -> Evictor {
        Evictor { context, settings, images, shortages, evictions }
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut pressures = Pressures::new(self.settings.thresholds.clone(), self.settings.transition);
        let mut limits_at = Instant::now() + LIMITS_INTERVAL;
        let mut evicted: Option<(String, Instant)> = None;
        loop {
            self.relieve(&mut pressures, &mut evicted).await;
            if limits_at <= Instant::now() {
                limits_at = Instant::now() + LIMITS_INTERVAL;
                for eviction in measure(&self.context).await {
                    tracing::info!(
                        uid = eviction.uid,
                        message = eviction.why.message,
                        "pod exceeds its disk limit"
                    );
                    if self.evictions.send(eviction).await.is_err() {
                        return;
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PRESSURE_INTERVAL) => {}
            }
        }
    }

    /// Observes the machine. When it runs short, images go first, and then one pod at a time.
    async fn relieve(&mut self, pressures: &mut Pressures, evicted: &mut Option<(String, Instant)>) {
        let observations = observe::observe(&self.context).await;
        let now = Timestamp::now();
        self.images.collect_if_due(&self.context, &observations, now).await;
        let verdict = pressures.observe(&observations, now);
        self.shortages.send_if_modified(|known| {
            let changed = *known != verdict.shortages;
            known.clone_from(&verdict.shortages);
            changed
        });
        if let Some((uid, at)) = evicted.as_ref() {
            let runs = self.context.has_pod(|pod| names::of(pod).2 == *uid && !is_terminal(pod));
            if runs && at.elapsed() < MAX_CLEANUP {
                return;
            }
            *evicted = None;
        }
        let Some(threshold) = verdict.starved else { return };
        let resource = threshold.signal.resource();
        let text = format!("Attempting to reclaim {resource}");
        self.context.events.node(&self.context.node, true, "EvictionThresholdMet", text);
        if threshold.signal.shortage() == Shortage::Disk {
            self.images.collect_all(&self.context, now).await;
            let again = observe::observe(&self.context).await;
            if again.get(&threshold.signal).is_some_and(|observed| !threshold.is_met(observed)) {
                return;
            }
        }
        let candidates = candidates(&self.context, threshold.signal).await;
        let Some(victim) = rank::victim(candidates, threshold.signal) else {
            tracing::warn!(resource, "the node runs short and has no pod to evict");
            return;
        };
        let uid = names::of(&victim.pod).2;
        let message = rank::message(&victim, &threshold, &observations);
        tracing::warn!(uid, message, "evict pod because the node runs short");
        *evicted = Some((uid.clone(), Instant::now()));
        let _ = self.evictions.send(Eviction::new(uid, message)).await;
    }
}

/// The pods that run, with what they use of the resource.
async fn candidates(context: &Arc<NodeContext>, signal: Signal) -> Vec<Candidate> {
    let is_candidate = |pod: &Pod| !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none();
    let pods: Vec<Pod> = context.pods().into_iter().filter(is_candidate).collect();
    let without = |pods: Vec<Pod>| pods.into_iter().map(|pod| Candidate { pod, usage: Vec::new() }).collect();
    match signal {
        Signal::Memory => {
            let used = memory(context).await;
            let usage = |pod: &Pod| {
                let uid = names::of(pod).2;
                let own = used.iter().filter(|((of, _), _)| *of == uid);
                own.map(|((_, name), bytes)| (name.clone(), *bytes)).collect()
            };
            pods.into_iter().map(|pod| Candidate { usage: usage(&pod), pod }).collect()
        }
        Signal::NodeFs | Signal::ImageFs => {
            let layers = layers(context).await;
            let context = context.clone();
            let measured = tokio::task::spawn_blocking(move || {
                let usage = |pod: &Pod| {
                    let used = usage_of(&context, pod, &layers, true);
                    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
                    let volumes = used.volumes.values().map(|bytes| (String::new(), signed(*bytes)));
                    let containers =
                        used.containers.iter().map(|(name, bytes)| (name.clone(), signed(*bytes)));
                    containers.chain(volumes).collect()
                };
                pods.into_iter().map(|pod| Candidate { usage: usage(&pod), pod }).collect()
            });
            measured.await.unwrap_or_default()
        }
        Signal::NodeFsInodes | Signal::ImageFsInodes | Signal::Pids => without(pods),
    }
}

/// Bytes of the working sets, by pod uid and container name.
async fn memory(context: &NodeContext) -> BTreeMap<(String, String), i64> {
    let stats = context.cri.container_stats().await.unwrap_or_default();
    let used = stats.into_iter().filter_map(|stat| {
        let attributes = stat.attributes?;
        let label = |key: &str| attributes.labels.get(key).cloned().unwrap_or_default();
        let bytes = stat.memory?.working_set_bytes?.value;
        Some(((label(POD_UID), label(CONTAINER_NAME)), i64::try_from(bytes).unwrap_or(i64::MAX)))
    });
    used.collect()
}

async fn measure(context: &Arc<NodeContext>) -> Vec<Eviction> {
    let pods: Vec<Pod> = context.pods().into_iter().filter(|pod| !is_terminal(pod)).collect();
    let layers =
        if pods.iter().any(limits::limits_containers) { layers(context).await } else { Layers::new() };
    let context = context.clone();
    let measured = tokio::task::spawn_blocking(move || {
        let over = |pod: &Pod| {
            let message = limits::exceeded(pod, &usage_of(&context, pod, &layers, false))?;
            Some(Eviction::new(names::of(pod).2, message))
        };
        pods.iter().filter_map(over).collect()
    });
    measured.await.unwrap_or_else(|error| {
        tracing::error!(%error, "measure disk usage of pods failed");
        Vec::new()
    })
}

/// Bytes of writable layers, by pod uid and container name.
type Layers = BTreeMap<(String, String), u64>;

async fn layers(context: &NodeContext) -> Layers {
    let stats = context.cri.container_stats().await.unwrap_or_default();
    let mut layers = Layers::new();
    for stat in stats {
        let Some(attributes) = stat.attributes else { continue };
        let label = |key: &str| attributes.labels.get(key).cloned().unwrap_or_default();
        let used = stat.writable_layer.and_then(|layer| layer.used_bytes).map_or(0, |used| used.value);
        let sum = layers.entry((label(POD_UID), label(CONTAINER_NAME))).or_default();
        *sum = used.saturating_add(*sum);
    }
    layers
}

/// What the pod uses; without `all`, of that which has a limit.
fn usage_of(context: &NodeContext, pod: &Pod, layers: &Layers, all: bool) -> Usage {
    let (_, _, uid) = names::of(pod);
    let folder = context.volumes.pod_folder(&uid);
    let mut usage = Usage { own: usage::of_file(&folder.join("etc-hosts")), ..Default::default() };
    // Termination messages: the containers write them, too.
    usage.own = usage.own.saturating_add(folder_bytes(&folder.join("containers")));
    let limited = all || limits::limits_containers(pod);
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        let Some(source) = &volume.empty_dir else { continue };
        // The kernel bounds a tmpfs.
        if source.medium.as_deref() == Some("Memory") || !(limited || source.size_limit.is_some()) {
            continue;
        }
        let path = context.volumes.host_path(pod, volume);
        usage.volumes.insert(volume.name.clone(), path.as_deref().map_or(0, folder_bytes));
    }
    if limited {
        let logs = PathBuf::from(&context.settings.log_root).join(names::log_folder(pod));
        for container in
            pod.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()))
        {
            let layer = layers.get(&(uid.clone(), container.name.clone())).copied().unwrap_or(0);
            let logged = folder_bytes(&logs.join(&container.name));
            usage.containers.insert(container.name.clone(), layer.saturating_add(logged));
        }
    }
    usage
}

/// The bytes that a folder takes; 0 if they cannot be measured.
pub(crate) fn folder_bytes(folder: &Path) -> u64 {
    usage::of_folder(folder).unwrap_or_else(|error| {
        tracing::debug!(path = %folder.display(), %error, "measure folder failed");
        0
    })
}
