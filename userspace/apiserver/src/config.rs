//! The configuration of the API server.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use skep_store::Store;

use crate::admission::OptionalPlugin;
use crate::audit::Audit;
use crate::authn::{TokenKeys, TokenWebhookOptions};

/// All settings; the server reads no flags and no environment, and only the files that are named here.
#[derive(Clone)]
pub struct Config {
    pub store: Arc<dyn Store>,
    /// Whether other servers may use the store too: then each keeps a lease, and all living ones are endpoints of the
    /// `kubernetes` Service.
    pub shared_store: bool,
    pub services: ServiceNetwork,
    /// The address at which clients reach the server; for discovery and the endpoint of the `kubernetes` Service.
    pub advertise: std::net::SocketAddr,
    /// PEM of the CA that client certificates must chain to.
    pub client_ca: String,
    pub tokens: TokenKeys,
    pub access: AccessRules,
    pub node_tls: NodeTls,
    pub front_proxy: FrontProxy,
    /// `None`: requests are not audited.
    pub audit: Option<Audit>,
    /// Other parts of the process.
    pub neighbours: Vec<Arc<dyn Neighbour>>,
}

/// A part that runs in the process beside the API server, and that its health checks and metrics cover.
pub trait Neighbour: Send + Sync {
    /// The name of its check in `/readyz`.
    fn check_name(&self) -> &'static str;

    fn is_ready(&self) -> bool;

    /// Samples in the Prometheus text format.
    fn metrics(&self) -> String;
}

/// What a running server can be given anew: renewed certificates, rotated CAs and keys.
#[derive(Clone)]
pub struct Credentials {
    pub client_ca: String,
    pub tokens: TokenKeys,
    pub node_tls: NodeTls,
    pub front_proxy: FrontProxy,
}

/// Addresses and ports of Services, and addresses of pods.
#[derive(Clone, Debug)]
pub struct ServiceNetwork {
    /// At most one of each family; the first is the default family.
    pub cidrs: Vec<IpNetwork>,
    /// The networks of pods, of which every node has a part. Their addresses are reached through the nodes' tunnels only.
    pub pod_cidrs: Vec<IpNetwork>,
    pub node_ports: std::ops::RangeInclusive<u16>,
}

/// Kubernetes' usual range of node ports.
pub const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// What an administrator allows or forbids for all users.
#[derive(Clone, Debug, Default)]
pub struct AccessRules {
    /// Whether requests without a credential have an identity, `system:anonymous`; they are refused otherwise. `None`: as the
    /// authentication configuration says, or they have it.
    pub anonymous: Option<bool>,
    /// Optional admission plugins that run.
    pub plugins: BTreeSet<OptionalPlugin>,
    /// Ranges from which Services may take external IPs, beside those of LoadBalancerPools.
    pub external_ips: Vec<IpNetwork>,
    pub issuers: IssuerSource,
    /// `None`: no webhook is asked who a token's user is.
    pub token_webhook: Option<TokenWebhookOptions>,
    /// An AuthorizationConfiguration, which is followed. `None`: Node, then RBAC.
    pub authorization: Option<PathBuf>,
}

/// Where it stands which issuers' tokens are accepted.
#[derive(Clone, Debug, Default)]
pub enum IssuerSource {
    /// Only the cluster's own.
    #[default]
    None,
    /// An AuthenticationConfiguration, which is followed.
    File(PathBuf),
    /// An AuthenticationConfiguration that flags stand for, and the algorithms that tokens may be signed with.
    Flags { config: String, algorithms: Vec<String> },
}

/// The client certificate with which the server acts as a front proxy of other API servers, and its CA.
#[derive(Clone)]
pub struct FrontProxy {
    pub certificate: String,
    pub key: String,
    pub ca: String,
    /// The common names that a front proxy's certificate may have.
    pub names: Vec<String>,
}

/// The client certificate for the kubelets' API, and the CAs of both ends. Neither CA is trusted for the API server itself.
#[derive(Clone)]
pub struct NodeTls {
    pub certificate: String,
    pub key: String,
    /// PEM of the CA of kubelets' serving certificates; nodes are not issued any other serving certificate.
    pub ca: String,
    /// PEM of the CA that kubelets trust for the client certificate.
    pub client_ca: String,
}
