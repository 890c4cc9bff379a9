//! The agent's settings and inputs. Only the binary reads flags and files; everything arrives here as values.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use skep_api::flow_log::QueryError;
use skep_api::watch::WatchEvent;
use skep_cni::NetworkState;
use skep_holder::Holder;
use skep_tunnel::Keeper;
use tokio::sync::{mpsc, watch};

use crate::eviction::EvictionSettings;
use crate::images::{ImageSettings, ProviderSettings};
use crate::shutdown::ShutdownSettings;

/// Everything the agent needs. Use [`AgentConfig::new`] for the usual values and change what differs.
#[derive(Clone)]
pub struct AgentConfig {
    /// The Node's name.
    pub name: String,
    /// Client of the API server; in process or over TLS.
    pub client: kube::Client,
    /// containerd's gRPC socket, which serves CRI v1.
    pub containerd_socket: PathBuf,
    /// Has the connection to containerd too, so that calls in flight outlive the agent. `None`: they are cancelled.
    pub runtime_holder: Option<Arc<Holder>>,
    /// The agent's own folder: `pods/` (volumes, checkpoints), `volumes/` (local-path volumes), `images/*.tar` (imported at start), `logs/`.
    pub root_dir: PathBuf,
    /// Parent cgroup of every pod sandbox, such as `/skep/NODE`. Empty means containerd's default.
    pub cgroup_parent: String,
    /// The node's InternalIPs; the first is the pods' `hostIP` and where the API server reaches [`AgentConfig::listen`].
    pub node_ips: Vec<IpAddr>,
    /// Labels in addition to kubernetes.io/hostname, os and arch.
    pub labels: BTreeMap<String, String>,
    /// Taints to register with, as `key=value:Effect`.
    pub taints: Vec<String>,
    /// Where the kubelet API listens.
    pub listen: SocketAddr,
    pub tls: ServingTls,
    /// Name servers and domain for pods with `dnsPolicy: ClusterFirst`. Without servers such pods get the addresses of the Service
    /// `kube-system/kube-dns`, or else the node's resolv.conf.
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    pub max_pods: u32,
    /// How often the Lease is renewed, and for how long a renewal is valid.
    pub lease_interval: Duration,
    pub lease_duration: Duration,
    /// How often an unchanged Node status is sent.
    pub status_interval: Duration,
    /// A container's log is rotated when it passes this size, in bytes; this many files are kept.
    pub log_max_size: u64,
    pub log_max_files: u32,
    pub limits: PodLimits,
    /// When pods are evicted because the node runs short.
    pub eviction: EvictionSettings,
    /// How long pods have when the node is shut down; `None`: a shutdown does not wait.
    pub shutdown: Option<ShutdownSettings>,
    /// When unused images are removed.
    pub images: ImageSettings,
    pub system_logs: SystemLogs,
    /// Programs that give credentials for pulls.
    pub credential_providers: Option<ProviderSettings>,
    /// The folder of static pods' manifests; `None`: there are none.
    pub static_pods: Option<PathBuf>,
}

/// The node's own logs, which /logs of the kubelet API serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemLogs {
    pub folder: PathBuf,
    /// Whether queries are answered (KEP-2258).
    pub query: bool,
    /// The journal's folder; `None`: the machine's.
    pub journal: Option<PathBuf>,
}

impl Default for SystemLogs {
    fn default() -> SystemLogs {
        SystemLogs { folder: PathBuf::from("/var/log"), query: false, journal: None }
    }
}

/// What every pod may do.
#[derive(Debug, Clone)]
pub struct PodLimits {
    /// Sysctls that pods may set in addition to the safe ones: names, or prefixes that end with `*`.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// A container without a seccomp profile gets the runtime's; otherwise none.
    pub seccomp_default: bool,
    /// How many processes and threads a pod may have; `None`: as many as the node.
    pub max_pids: Option<u64>,
    /// A stream of exec, attach or port-forward that carries nothing for so long is closed.
    pub streaming_idle_timeout: Duration,
}

impl Default for PodLimits {
    fn default() -> PodLimits {
        PodLimits {
            allowed_unsafe_sysctls: Vec::new(),
            seccomp_default: false,
            max_pids: None,
            streaming_idle_timeout: Duration::from_secs(4 * 3600),
        }
    }
}

impl AgentConfig {
    /// The defaults of a Kubernetes node, with a Lease renewed every 10 s.
    pub fn new(
        name: impl Into<String>,
        client: kube::Client,
        root_dir: PathBuf,
        listen: SocketAddr,
        tls: ServingTls,
    ) -> Self {
        Self {
            name: name.into(),
            client,
            containerd_socket: PathBuf::from("/run/containerd/containerd.sock"),
            runtime_holder: None,
            root_dir,
            cgroup_parent: String::new(),
            node_ips: vec![listen.ip()],
            labels: BTreeMap::new(),
            taints: Vec::new(),
            listen,
            tls,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            max_pods: 110,
            lease_interval: Duration::from_secs(10),
            lease_duration: Duration::from_secs(40),
            status_interval: Duration::from_secs(300),
            log_max_size: 10 << 20,
            log_max_files: 5,
            limits: PodLimits::default(),
            eviction: EvictionSettings::default(),
            shutdown: None,
            images: ImageSettings::default(),
            system_logs: SystemLogs::default(),
            credential_providers: None,
            static_pods: None,
        }
    }
}

/// PEM texts of the kubelet API: what it serves with, and the CA that its clients' certificates must chain to.
#[derive(Clone)]
pub struct ServingTls {
    pub certificate: String,
    pub key: String,
    pub client_ca: String,
}

/// The tunnels to API servers, and where these are.
pub struct ServerTunnels {
    pub keeper: Keeper,
    /// Those of the `kubernetes` Service.
    pub slices: Events<EndpointSlice>,
}

/// A subscription to a shared informer. The agent takes the
/// objects that a list did not contain for deleted.
pub type Events<K> = mpsc::Receiver<WatchEvent<Arc<K>>>;

/// What the agent follows while it runs.
pub struct Inputs {
    /// The pods that are bound to this node, and no others.
    pub pods: Events<Pod>,
    /// All Services of the cluster.
    pub services: Events<Service>,
    /// `None`: API servers reach neither the kubelet API nor pods.
    pub tunnels: Option<ServerTunnels>,
    /// Whether pods can have a network. `None`: the node is ready when containerd reports that its CNI is.
    pub network: Option<watch::Receiver<NetworkState>>,
    pub others: OtherParts,
}

/// What the kubelet API shows of the agent's other parts.
#[derive(Default)]
pub struct OtherParts {
    /// Adds their metrics to `/metrics`, in Prometheus' text format.
    pub metrics: Vec<MetricsSource>,
    /// The network's flow log; `None`: there is none.
    pub flows: Option<FlowSource>,
}

/// Answers a query with lines of JSON.
pub type FlowSource = Arc<dyn Fn(&str) -> Result<FlowLines, QueryError> + Send + Sync>;

/// Lines of JSON as they come.
pub type FlowLines = Pin<Box<dyn Stream<Item = String> + Send + Sync>>;

/// Appends lines.
pub type MetricsSource = Arc<dyn Fn(&mut String) + Send + Sync>;
