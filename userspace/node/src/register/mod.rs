//! The node in the API.
//!
//! In: facts of the machine, the state of runtime and network. Out: the Node object with its conditions, and its Lease.

mod lease;
pub mod machine;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeSpec, NodeStatus, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cri::Cri;
use crate::cri::client::Features;
use crate::eviction::signals::Shortage;
use crate::plan::status::seconds;
use machine::Capacity;
use skep_api::local_path::FOLDER_ANNOTATION;
use skep_cni::NetworkState;

pub use lease::LeaseTimes;

/// The facts of the Node that do not change while the agent runs.
#[derive(Clone)]
pub struct Identity {
    pub name: String,
    pub ips: Vec<IpAddr>,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<String>,
    pub port: u16,
    pub max_pods: u32,
    pub capacity: Capacity,
    pub root: PathBuf,
    pub status_interval: Duration,
    pub features: Features,
}

/// Keeps the Node object up to date; see [`new`].
pub struct Registration {
    client: Client,
    cri: Cri,
    identity: Identity,
    network: watch::Receiver<NetworkState>,
    /// What the node runs short of.
    shortages: watch::Receiver<BTreeSet<Shortage>>,
    shutting_down: watch::Receiver<bool>,
    /// Set once the Node exists.
    registered: watch::Sender<Option<Node>>,
    /// Changes when the API server can be reached again: it may have marked the node as unreachable meanwhile.
    reconnected: watch::Receiver<()>,
}

/// The registration, and the task that keeps the Lease. Both run until `stop`. `registered` gets the Node whenever it was
/// written.
pub fn new(
    client: Client,
    cri: Cri,
    identity: Identity,
    (network, shortages, shutting_down): (
        watch::Receiver<NetworkState>,
        watch::Receiver<BTreeSet<Shortage>>,
        watch::Receiver<bool>,
    ),
    registered: watch::Sender<Option<Node>>,
    times: LeaseTimes,
    stop: CancellationToken,
) -> (Registration, impl Future<Output = ()> + Send + use<>) {
    let node = registered.subscribe();
    let (reconnected_in, reconnected) = watch::channel(());
    let lease = lease::keep(client.clone(), identity.name.clone(), node, times, reconnected_in, stop);
    (
        Registration { client, cri, identity, network, shortages, shutting_down, registered, reconnected },
        lease,
    )
}

/// How often the machine's state is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Health {
    problem: Option<String>,
    shortages: BTreeSet<Shortage>,
}

impl Registration {
    /// Creates or updates the Node, then keeps its status fresh.
    pub async fn run(mut self, stop: CancellationToken) {
        let runtime = loop {
            match self.cri.version().await {
                Ok(version) => break format!("{}://{}", version.runtime_name, version.runtime_version),
                Err(error) => tracing::warn!(%error, "read runtime version failed"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY_INTERVAL) => {}
            }
        };
        let mut sent: Option<(Health, Instant)> = None;
        loop {
            let health = self.health().await;
            let due = sent
                .as_ref()
                .is_none_or(|(last, at)| *last != health || at.elapsed() >= self.identity.status_interval);
            let mut wait = CHECK_INTERVAL;
            if due {
                match self.send(&runtime, &health).await {
                    Ok(node) => {
                        self.registered.send_replace(Some(node));
                        sent = Some((health, Instant::now()));
                    }
                    Err(error) => {
                        tracing::debug!(%error, "send node status failed");
                        wait = RETRY_INTERVAL;
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = self.network.changed() => {}
                Ok(()) = self.shortages.changed() => {}
                Ok(()) = self.shutting_down.changed() => {}
                Ok(()) = self.reconnected.changed() => sent = None,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn health(&self) -> Health {
        let problem = match self.cri.conditions().await {
            Err(error) => Some(format!("container runtime is down: {error}")),
            Ok(conditions) => {
                let bad = conditions.iter().find(|c| !c.status);
                bad.map(|c| {
                    let (kind, reason, message) = (&c.r#type, &c.reason, &c.message);
                    format!("container runtime not ready: {kind}=false reason:{reason} message:{message}")
                })
            }
        };
        let network = match &*self.network.borrow() {
            NetworkState::NotReady(why) => Some(format!("network is not ready: {why}")),
            NetworkState::Ready => None,
        };
        let shutdown = self.shutting_down.borrow().then(|| "node is shutting down".to_owned());
        Health { problem: shutdown.or(problem).or(network), shortages: self.shortages.borrow().clone() }
    }

    async fn send(&self, runtime: &str, health: &Health) -> Result<Node, kube::Error> {
        let api: Api<Node> = Api::all(self.client.clone());
        let node = match api.get_opt(&self.identity.name).await? {
            Some(node) => self.update_metadata(&api, node).await?,
            None => api.create(&PostParams::default(), &self.new_node()).await?,
        };
        let old = node.status.clone().unwrap_or_default();
        let mut node = node;
        node.status = Some(self.status(&old, runtime, health, Timestamp::now()).await);
        let body = node.clone();
        api.replace_status(&self.identity.name, &PostParams::default(), &body).await
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.identity.labels.clone();
        let own = [
            ("kubernetes.io/hostname", self.identity.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", machine::architecture()),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", machine::architecture()),
        ];
        labels.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
        labels
    }

    /// Where the node's local-path volumes are.
    fn annotations(&self) -> BTreeMap<String, String> {
        let folder = crate::volumes::local_path::folder(&self.identity.root);
        BTreeMap::from([(FOLDER_ANNOTATION.to_owned(), folder.display().to_string())])
    }

    fn new_node(&self) -> Node {
        let taints: Vec<Taint> = self.identity.taints.iter().filter_map(|text| parse_taint(text)).collect();
        Node {
            metadata: ObjectMeta {
                name: Some(self.identity.name.clone()),
                labels: Some(self.labels()),
                annotations: Some(self.annotations()),
                ..Default::default()
            },
            spec: Some(NodeSpec { taints: (!taints.is_empty()).then_some(taints), ..Default::default() }),
            status: None,
        }
    }

    async fn update_metadata(&self, api: &Api<Node>, node: Node) -> Result<Node, kube::Error> {
        let (labels, annotations) = (self.labels(), self.annotations());
        let has = |present: &Option<BTreeMap<String, String>>, wanted: &BTreeMap<String, String>| {
            wanted.iter().all(|(key, value)| present.as_ref().and_then(|all| all.get(key)) == Some(value))
        };
        if has(&node.metadata.labels, &labels) && has(&node.metadata.annotations, &annotations) {
            return Ok(node);
        }
        let patch = serde_json::json!({"metadata": {"labels": labels, "annotations": annotations}});
        api.patch(&self.identity.name, &Default::default(), &kube::api::Patch::Merge(patch)).await
    }

    async fn status(&self, old: &NodeStatus, runtime: &str, health: &Health, now: Timestamp) -> NodeStatus {
        let capacity = self.identity.capacity;
        let amounts = |memory: i64, disk: i64| {
            BTreeMap::from([
                ("cpu".to_owned(), Quantity(capacity.cpus.to_string())),
                ("memory".to_owned(), Quantity(format!("{}Ki", memory >> 10))),
                ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", disk >> 10))),
                ("pods".to_owned(), Quantity(self.identity.max_pods.to_string())),
            ])
        };
        let address = |kind: &str, address: String| NodeAddress { address, type_: kind.to_owned() };
        let mut addresses: Vec<NodeAddress> =
            self.identity.ips.iter().map(|ip| address("InternalIP", ip.to_string())).collect();
        addresses.push(address("Hostname", self.identity.name.clone()));
        NodeStatus {
            addresses: Some(addresses),
            capacity: Some(amounts(capacity.memory, capacity.disk)),
            allocatable: Some(amounts(capacity.allocatable_memory(), capacity.allocatable_disk())),
            conditions: Some(conditions(old, health, now)),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint { port: self.identity.port.into() }),
            }),
            node_info: Some(machine::system_info(runtime)),
            images: Some(self.images().await),
            features: Some(NodeFeatures {
                supplemental_groups_policy: Some(self.identity.features.supplemental_groups_policy),
            }),
            ..old.clone()
        }
    }

    /// The images on the node, largest first; at most 50, as upstream.
    async fn images(&self) -> Vec<ContainerImage> {
        let mut images = self.cri.images().await.unwrap_or_default();
        images.sort_by_key(|image| std::cmp::Reverse(image.size));
        let named = images.into_iter().map(|image| ContainerImage {
            names: Some(image.repo_digests.into_iter().chain(image.repo_tags).take(5).collect()),
            size_bytes: i64::try_from(image.size).ok(),
        });
        named.take(50).collect()
    }
}

fn conditions(old: &NodeStatus, health: &Health, now: Timestamp) -> Vec<NodeCondition> {
    let before = old.conditions.as_deref().unwrap_or_default();
    let make = |kind: &str, status: bool, reason: &str, message: &str| {
        let status = if status { "True" } else { "False" };
        let same = before.iter().find(|c| c.type_ == kind && c.status == status);
        NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(seconds(now)),
            last_transition_time: same
                .and_then(|c| c.last_transition_time.clone())
                .or_else(|| Some(seconds(now))),
        }
    };
    let pressure = |kind: &str, high: bool, what: &str| match high {
        true => make(kind, true, &format!("KubeletHas{what}"), &format!("kubelet has {}", in_words(what))),
        false => {
            let (reason, message) = match what {
                "InsufficientMemory" => {
                    ("KubeletHasSufficientMemory", "kubelet has sufficient memory available")
                }
                "DiskPressure" => ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                _ => ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            };
            make(kind, false, reason, message)
        }
    };
    let ready = match &health.problem {
        None => make("Ready", true, "KubeletReady", "kubelet is posting ready status"),
        Some(problem) => make("Ready", false, "KubeletNotReady", problem),
    };
    let ours = [
        pressure("MemoryPressure", health.shortages.contains(&Shortage::Memory), "InsufficientMemory"),
        pressure("DiskPressure", health.shortages.contains(&Shortage::Disk), "DiskPressure"),
        pressure("PIDPressure", health.shortages.contains(&Shortage::Pids), "InsufficientPID"),
        ready,
    ];
    let others = before.iter().filter(|c| ours.iter().all(|o| o.type_ != c.type_)).cloned();
    others.chain(ours.iter().cloned()).collect()
}

fn in_words(camel: &str) -> String {
    match camel {
        "InsufficientMemory" => "insufficient memory available",
        "DiskPressure" => "disk pressure",
        _ => "insufficient PID available",
    }
    .to_owned()
}

/// Parses `key=value:Effect` or `key:Effect`.
fn parse_taint(text: &str) -> Option<Taint> {
    let (front, effect) = text.rsplit_once(':')?;
    let (key, value) = front.split_once('=').map_or((front, None), |(k, v)| (k, Some(v.to_owned())));
    Some(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}
