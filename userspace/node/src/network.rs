//! The network half of the node: from the API server's watches and the CNI plugin's calls to the datapath.
//!
//! In: a `kube::Client`, the agent's unix socket. Out: maps, routes and pods' interfaces, and whether pods can have a
//! network now. What is to be written is decided by [`skep_netplan`]; [`engine`] performs it, one change after the
//! other. When the API server is away everything stays as it is; after a restart nothing is touched until every kind
//! has been listed.

pub mod allocations;
mod announce;
pub mod bandwidth;
pub mod condition;
pub mod dataplane;
mod duties;
pub mod engine;
mod feed;
mod health;
pub mod kernel;
mod node_health;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::NetworkState;
pub use feed::KINDS;

use allocations::AllocationError;
use dataplane::Dataplane;
use engine::Engine;

/// kube-proxy's.
const HEALTH_PORT: u16 = 10_256;

/// How the network half runs.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// The Node's name.
    pub node: String,
    /// The node's addresses beside those of its Node object; node ports stand on all of them.
    pub node_addrs: Vec<IpAddr>,
    /// Where pods' addresses come from. Empty: the podCIDRs of the Node object.
    pub pod_cidrs: Vec<IpNetwork>,
    /// Where `skep-cni` finds the agent.
    pub cni_socket: PathBuf,
    /// Folder of `allocations.json`: which sandbox has which address.
    pub state_dir: PathBuf,
    /// The interface on whose link addresses of load balancers are answered for; none without one.
    pub uplink: Option<String>,
    /// Of pods' interfaces, in bytes; 0: what the uplink allows.
    pub mtu: u32,
    /// Whether other nodes' pods are reached by an overlay; as the datapath is told.
    pub overlay: bool,
    /// Where balancers ask whether this node takes traffic; 0: nowhere.
    pub health_port: u16,
    /// How long changes are gathered before they are written together.
    pub coalesce: Duration,
    /// How long an ADD waits for its pod to be known.
    pub patience: Duration,
}

impl NetworkConfig {
    pub fn new(node: impl Into<String>, cni_socket: PathBuf, state_dir: PathBuf) -> Self {
        NetworkConfig {
            node: node.into(),
            node_addrs: Vec::new(),
            pod_cidrs: Vec::new(),
            cni_socket,
            state_dir,
            uplink: None,
            mtu: 1500,
            overlay: false,
            health_port: HEALTH_PORT,
            coalesce: Duration::from_millis(2),
            patience: Duration::from_secs(20),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("read back the maps: {0}")]
    Observe(String),
    #[error(transparent)]
    Allocations(#[from] AllocationError),
    #[error("listen on {path}: {source}")]
    Socket { path: PathBuf, source: std::io::Error },
    #[error("CNI server: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Runs until `stop` is cancelled; the kernel goes on alone after that. `state` says when pods can have a network.
pub async fn run<D: Dataplane>(
    config: NetworkConfig,
    dataplane: D,
    client: kube::Client,
    state: watch::Sender<NetworkState>,
    stop: CancellationToken,
) -> Result<(), NetworkError> {
    let (send, receive) = mpsc::channel(1024);
    let socket = config.cni_socket.clone();
    let (node, uplink, health_port) = (config.node.clone(), config.uplink.clone(), config.health_port);
    let mut engine = Engine::open(config, dataplane).await?;
    let listener = crate::cni::listen(&socket)?;
    let stop = stop.child_token();
    // Whichever part ends, the others end with it.
    let _all = stop.clone().drop_guard();
    let mut watches = feed::spawn(&client, send.clone(), &stop);
    let condition = tokio::spawn(condition::report(client, node, state.subscribe(), stop.clone()));
    let mut helpers = JoinSet::new();
    helpers.spawn(health::run(engine.duties(), state.subscribe()));
    if health_port != 0 {
        helpers.spawn(node_health::run(health_port, engine.duties(), state.subscribe()));
    }
    if let Some(uplink) = uplink {
        helpers.spawn(announce::run(uplink, engine.duties()));
    }
    let serve = crate::cni::serve(listener, send, stop.clone());
    let result = tokio::select! {
        () = engine.run(receive, state, stop.clone()) => Ok(()),
        served = serve => served.map_err(NetworkError::from),
    };
    stop.cancel();
    watches.shutdown().await;
    helpers.shutdown().await;
    condition.abort();
    result
}
