//! What the binary tells the API server.

use std::sync::Arc;

use ipnetwork::IpNetwork;
use skep_store::Store;

use crate::audit::Audit;

/// Everything the API server needs; there is no other source of settings.
#[derive(Clone)]
pub struct Config {
    pub store: Arc<dyn Store>,
    pub services: ServiceNetwork,
    /// Where clients outside reach the server, as `host:port`; shown in discovery and behind the `kubernetes` Service.
    pub advertise: std::net::SocketAddr,
    /// PEM of the CA that client certificates must chain to.
    pub client_ca: String,
    pub tokens: TokenKeys,
    pub node_tls: NodeTls,
    pub front_proxy: FrontProxy,
    /// Without it nothing is told of requests.
    pub audit: Option<Audit>,
}

/// Addresses and ports of Services.
#[derive(Clone, Debug)]
pub struct ServiceNetwork {
    /// At most one of each family; the first is the default family.
    pub cidrs: Vec<IpNetwork>,
    pub node_ports: std::ops::RangeInclusive<u16>,
}

/// Kubernetes' usual range of node ports.
pub const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// Keys of service account tokens: PEM of an EC P-256 key in PKCS#8, and of its public half.
#[derive(Clone)]
pub struct TokenKeys {
    pub private: String,
    pub public: String,
    pub issuer: String,
}

/// How the server speaks for its users to other API servers: its client certificate, by which names of whose CA.
#[derive(Clone)]
pub struct FrontProxy {
    pub certificate: String,
    pub key: String,
    pub ca: String,
    /// Common names of certificates that may speak for users.
    pub names: Vec<String>,
}

/// How the server reaches the nodes' kubelet API: its client certificate, and the CA of the nodes' certificates.
#[derive(Clone)]
pub struct NodeTls {
    pub certificate: String,
    pub key: String,
    pub ca: String,
}
