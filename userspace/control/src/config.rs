//! The settings of this crate: which parts run, leader election, grace periods, networks and the cluster's CA.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use ipnetwork::IpNetwork;

use crate::clients::Clients;
use crate::health::Health;

/// Everything that `run` needs; there is no other source of settings (no environment, no files).
#[derive(Clone)]
pub struct Config {
    /// `None` when this is the only server: no Lease is kept at all.
    pub leader_election: Option<LeaderElection>,
    /// How long a node's Lease may stay unrenewed before its node is declared unreachable (50 s as upstream; at least 5 s).
    pub node_grace: Duration,
    /// How long a newly registered node may take until its first Lease (60 s as upstream).
    pub node_startup_grace: Duration,
    /// Networks the pods of all nodes live in, at most one a family. Empty: nodes get no podCIDR.
    pub cluster_cidrs: Vec<IpNetwork>,
    /// Prefix length of each node's IPv4 network.
    pub node_prefix_v4: u8,
    /// Prefix length of each node's IPv6 network.
    pub node_prefix_v6: u8,
    /// PEM of the certificates by which pods verify the API server; published as `kube-root-ca.crt`.
    pub root_ca_pem: String,
    /// Signs approved certificate requests; `None` leaves them unsigned.
    pub signer: Option<Arc<dyn Signer>>,
    /// What nodes may be certified for.
    pub node_names: NodeNames,
    /// How many terminated pods are kept; beyond it the oldest are deleted. 0 keeps them all.
    pub terminated_pod_threshold: usize,
    /// Which parts run in this process.
    pub parts: Parts,
    /// Where the parts report whether they work.
    pub health: Arc<Health>,
    /// Parts of other crates that only the leader runs beside the controllers, by name.
    pub others: Vec<(&'static str, OtherPart)>,
}

/// A part that runs until its future is dropped, and starts again when it ends.
pub type OtherPart = Arc<dyn Fn(&Clients) -> BoxFuture<'static, ()> + Send + Sync>;

/// Parts that run in one process. Each selection works against any API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parts {
    /// Controllers and scheduler, with one set of informers.
    #[default]
    All,
    /// The controllers, garbage collection, the emptying of namespaces and the counting for quotas.
    Controllers,
    /// The scheduler alone, with informers for the kinds that it reads.
    Scheduler,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            leader_election: None,
            node_grace: Duration::from_secs(50),
            node_startup_grace: Duration::from_secs(60),
            cluster_cidrs: Vec::new(),
            node_prefix_v4: 24,
            node_prefix_v6: 64,
            root_ca_pem: String::new(),
            signer: None,
            node_names: NodeNames::default(),
            terminated_pod_threshold: 12_500,
            parts: Parts::All,
            health: Arc::default(),
            others: Vec::new(),
        }
    }
}

/// Names and addresses that are not a node's, and how nodes of earlier versions are recognised.
#[derive(Clone, Debug, Default)]
pub struct NodeNames {
    /// Networks of Services.
    pub service_cidrs: Vec<IpNetwork>,
    /// Names and addresses of the API servers.
    pub servers: BTreeSet<String>,
    /// Nodes that registered before this time have no join record; one is made of their addresses.
    pub recorded_since: Option<jiff::Timestamp>,
}

/// Annotation of a joining machine's certificate request: its addresses, separated by commas.
pub const NODE_ADDRESSES: &str = "skep.io/node-addresses";

/// Lease-based leader election; times as upstream's kube-controller-manager.
#[derive(Clone, Debug)]
pub struct LeaderElection {
    /// Unique to the process: host name and a random part.
    pub identity: String,
    pub namespace: String,
    pub name: String,
    /// How long other candidates wait before they take over an unrenewed lease.
    pub lease_duration: Duration,
    /// How long the holder tries to renew before it gives up.
    pub renew_deadline: Duration,
    /// Pause between attempts.
    pub retry_period: Duration,
}

impl LeaderElection {
    /// Upstream's times for the lease `kube-system/skep-controller-manager`.
    pub fn new(identity: impl Into<String>) -> Self {
        LeaderElection {
            identity: identity.into(),
            namespace: "kube-system".into(),
            name: "skep-controller-manager".into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// An approved certificate request that passed its signer's rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignRequest {
    /// PEM `CERTIFICATE REQUEST` as the client made it; its signature was verified.
    pub csr_pem: String,
    /// `kubernetes.io/kube-apiserver-client-kubelet`, `kubernetes.io/kubelet-serving` or
    /// `kubernetes.io/kube-apiserver-client`.
    pub signer_name: String,
    /// Key usages as the API spells them ("digital signature", "client auth", ...).
    pub usages: Vec<String>,
    /// How long the certificate is valid.
    pub lifetime: Duration,
}

/// Holds the cluster CA's key and signs with it.
pub trait Signer: Send + Sync + 'static {
    /// Signs the request. Returns the PEM of the certificate, followed by intermediates if there are any.
    fn sign(&self, request: &SignRequest) -> Result<String, SignError>;
}

/// Why a request could not be signed; the text becomes the request's `Failed` condition.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SignError(pub String);

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("leader_election", &self.leader_election)
            .field("node_grace", &self.node_grace)
            .field("cluster_cidrs", &self.cluster_cidrs)
            .field("signer", &self.signer.as_ref().map(|_| "present"))
            .finish_non_exhaustive()
    }
}
