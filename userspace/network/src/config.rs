//! The network agent's settings. Only the binary reads flags and files; everything arrives here as values.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::flows::FlowLogLevel;

/// kube-proxy's health port.
const HEALTH_PORT: u16 = 10_256;

/// How the network agent runs.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// The Node's name.
    pub node: String,
    /// The node's addresses in addition to those of its Node object, until the datapath finds others; node ports are open on all
    /// of them.
    pub node_addrs: Vec<IpAddr>,
    /// Networks of the node's addresses on which node ports are open; empty: all addresses.
    pub node_port_networks: Vec<IpNetwork>,
    /// Where pods' addresses come from. Empty: the podCIDRs of the Node object.
    pub pod_cidrs: Vec<IpNetwork>,
    /// The unix socket on which `skep-cni` calls the agent.
    pub cni_socket: PathBuf,
    /// Folder of `allocations.json`: which sandbox has which address.
    pub state_dir: PathBuf,
    /// The interfaces on which the node answers for load balancers' addresses, until the datapath finds others.
    pub uplinks: Vec<String>,
    /// MTU of pods' interfaces, in bytes; 0: what every uplink allows.
    pub mtu: u32,
    /// Whether an overlay reaches other nodes' pods; the same value as the datapath's.
    pub overlay: bool,
    /// Port of the node's own health check for load balancers; 0: none.
    pub health_port: u16,
    /// The unix socket on which the flow log is read; `None`: it is read by the kubelet API only.
    pub flows_socket: Option<PathBuf>,
    /// Which flow events the programs send while the flow log has no reader.
    pub flow_log: FlowLogLevel,
    /// How long after a write changes are collected and then written together; afterwards a change is written at once.
    pub coalesce_window: Duration,
    /// How long an ADD waits until the API server's pod is known.
    pub pod_timeout: Duration,
}

impl NetworkConfig {
    pub fn new(node: impl Into<String>, cni_socket: PathBuf, state_dir: PathBuf) -> Self {
        NetworkConfig {
            node: node.into(),
            node_addrs: Vec::new(),
            node_port_networks: Vec::new(),
            pod_cidrs: Vec::new(),
            cni_socket,
            state_dir,
            uplinks: Vec::new(),
            mtu: 1500,
            overlay: false,
            health_port: HEALTH_PORT,
            flows_socket: None,
            flow_log: FlowLogLevel::default(),
            coalesce_window: Duration::from_millis(2),
            pod_timeout: Duration::from_secs(20),
        }
    }
}
