//! Ends pods that use more disk than they may.
//!
//! In: the pods, the sizes of their volumes, logs and writable layers. Out: the uid of each pod over its limits, and the
//! message that its status shows. The node's own pressure is not its matter.

mod limits;
mod usage;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::context::NodeContext;
use crate::cri::{CONTAINER_NAME, POD_UID};
use crate::names;
use crate::plan::is_terminal;
use limits::Usage;

/// Pause between two measurements; one reads every folder of the pods that have a limit.
const INTERVAL: Duration = Duration::from_secs(30);

/// A pod to end, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Eviction {
    pub(crate) uid: String,
    pub(crate) message: String,
}

/// Measures until `stop`.
pub(crate) async fn run(
    context: Arc<NodeContext>,
    evictions: mpsc::Sender<Eviction>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        for eviction in measure(&context).await {
            tracing::info!(uid = eviction.uid, message = eviction.message, "pod exceeds its disk limit");
            if evictions.send(eviction).await.is_err() {
                return;
            }
        }
    }
}

async fn measure(context: &Arc<NodeContext>) -> Vec<Eviction> {
    let pods: Vec<Pod> = context.pods().into_iter().filter(|pod| !is_terminal(pod)).collect();
    let layers =
        if pods.iter().any(limits::limits_containers) { layers(context).await } else { Layers::new() };
    let context = context.clone();
    let measured = tokio::task::spawn_blocking(move || {
        let over = |pod: &Pod| {
            let message = limits::exceeded(pod, &usage_of(&context, pod, &layers))?;
            Some(Eviction { uid: names::of(pod).2, message })
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

fn usage_of(context: &NodeContext, pod: &Pod, layers: &Layers) -> Usage {
    let (_, _, uid) = names::of(pod);
    let folder = context.volumes.pod_folder(&uid);
    let mut usage = Usage { own: usage::of_file(&folder.join("etc-hosts")), ..Default::default() };
    // Termination messages: the containers write them, too.
    usage.own = usage.own.saturating_add(folder_bytes(&folder.join("containers")));
    let limited = limits::limits_containers(pod);
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
