//! What every part of the agent uses: the runtime, the API client, volumes, events, facts of the node, and the pods as
//! the workers see them.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use serde_json::Value;
use tokio::sync::watch;

use crate::admit::Admission;
use crate::allocation::Allocations;
use crate::cgroup::PodCgroups;
use crate::config::{OtherParts, SystemLogs};
use crate::cri::Cri;
use crate::cri::client::Features;
use crate::cri::sandbox::NodeSettings;
use crate::downward::Allocatable;
use crate::events::Recorder;
use crate::eviction::signals::Shortage;
use crate::images::{CredentialProviders, PullRecords};
use crate::plan::NodeView;
use crate::probe_counts::ProbeCounts;
use crate::server::access::Access;
use crate::services::Services;
use crate::static_pods::Mirrors;
use crate::stats::Stats;
use crate::volumes::VolumeManager;
use skep_cni::NetworkState;
use skep_tunnel::Keeper;

/// Shared by the main loop, the workers and the kubelet API.
pub(crate) struct NodeContext {
    /// The Node's name.
    pub(crate) node: String,
    pub(crate) client: Client,
    pub(crate) cri: Cri,
    pub(crate) settings: NodeSettings,
    pub(crate) node_view: NodeView,
    pub(crate) allocatable: Allocatable,
    pub(crate) volumes: VolumeManager,
    pub(crate) services: Services,
    pub(crate) events: Recorder,
    pub(crate) network: watch::Receiver<NetworkState>,
    pub(crate) root: PathBuf,
    /// The uid of the pod that a sandbox or container belongs to, by its id.
    pub(crate) owners: Mutex<HashMap<String, String>>,
    /// The pods with the status that their workers computed, by uid; what the kubelet API shows.
    pub(crate) pods: Mutex<HashMap<String, Pod>>,
    /// Counts the changes of [`NodeContext::pods`].
    pub(crate) pod_changes: watch::Sender<u64>,
    /// Which pods the node runs.
    pub(crate) admission: Admission,
    /// What the node runs short of.
    pub(crate) shortages: watch::Receiver<BTreeSet<Shortage>>,
    /// Whether the node is being shut down.
    pub(crate) shutting_down: watch::Receiver<bool>,
    /// What the pods have of the node.
    pub(crate) allocations: Allocations,
    /// The Node object as this node last wrote it; `None` until then.
    pub(crate) node_object: watch::Receiver<Option<Node>>,
    /// What the runtime can do.
    pub(crate) features: Features,
    /// What the node and its pods use.
    pub(crate) stats: Stats,
    pub(crate) pod_cgroups: PodCgroups,
    /// Which pods may use which images.
    pub(crate) pulls: PullRecords,
    /// Programs that know the credentials of registries.
    pub(crate) providers: CredentialProviders,
    pub(crate) streaming_idle_timeout: Duration,
    /// The tunnels to API servers, for their counts.
    pub(crate) tunnels: Option<Keeper>,
    /// The results of probes.
    pub(crate) probes: ProbeCounts,
    /// Panics of pods' workers and their actions.
    pub(crate) panics: AtomicU64,
    pub(crate) others: OtherParts,
    /// Who may use the kubelet API.
    pub(crate) access: Access,
    /// The agent's settings as the kubelet API shows them.
    pub(crate) configuration: Value,
    pub(crate) system_logs: SystemLogs,
    /// The API's view of static pods.
    pub(crate) mirrors: Mirrors,
}

impl NodeContext {
    /// Whether the pod with this uid has ended, as its worker sees it.
    pub(crate) fn has_ended(&self, uid: &str) -> bool {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.get(uid).is_some_and(crate::plan::is_terminal)
    }

    /// Records the pod of a sandbox or container, so that the runtime's events reach its worker.
    pub(crate) fn set_owner(&self, id: &str, uid: &str) {
        lock(&self.owners).insert(id.to_owned(), uid.to_owned());
    }

    pub(crate) fn owner(&self, id: &str) -> Option<String> {
        lock(&self.owners).get(id).cloned()
    }

    /// Replaces the set of a pod's sandboxes and containers.
    pub(crate) fn set_owned<'a>(&self, uid: &str, ids: impl Iterator<Item = &'a str>) {
        let mut owners = lock(&self.owners);
        owners.retain(|_, owner| owner != uid);
        owners.extend(ids.map(|id| (id.to_owned(), uid.to_owned())));
    }

    pub(crate) fn count_panic(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn show_pod(&self, uid: &str, pod: Option<Pod>) {
        let mut pods = lock(&self.pods);
        match pod {
            Some(pod) => drop(pods.insert(uid.to_owned(), pod)),
            None => drop(pods.remove(uid)),
        }
        drop(pods);
        self.pod_changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// A receiver that changes whenever any pod changes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.pod_changes.subscribe()
    }

    pub(crate) fn pods(&self) -> Vec<Pod> {
        lock(&self.pods).values().cloned().collect()
    }

    /// The pod of that uid, as its worker sees it.
    pub(crate) fn pod_of(&self, uid: &str) -> Option<Pod> {
        lock(&self.pods).get(uid).cloned()
    }

    /// Whether one of the pods is such.
    pub(crate) fn has_pod(&self, is_such: impl FnMut(&Pod) -> bool) -> bool {
        lock(&self.pods).values().any(is_such)
    }

    /// The pod of that name, as its worker sees it.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<Pod> {
        let is = |pod: &&Pod| {
            pod.metadata.name.as_deref() == Some(name) && pod.metadata.namespace.as_deref() == Some(namespace)
        };
        lock(&self.pods).values().find(is).cloned()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
