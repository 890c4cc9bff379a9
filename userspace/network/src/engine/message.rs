//! What the engine's task receives: updates of the index, and the CNI plugin's calls with the channels for their answers.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use skep_abi::FlowEvent;
use skep_datapath::{NodeLinks, Observation};
use skep_netplan::{FlowNames, Index, Owner};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::dataplane::DataplaneError;

type IndexUpdate = Box<dyn FnOnce(&mut Index) + Send>;

/// What the engine's task receives.
pub enum Message {
    /// With the time of its arrival.
    Index(IndexUpdate, Instant),
    /// One more kind has been listed completely.
    Listed,
    Cni(Call),
    /// Asks for the names of flow events, in their order.
    Names(Vec<FlowEvent>, oneshot::Sender<Vec<FlowNames>>),
    /// The node's links and addresses are others than before.
    Links(NodeLinks),
    /// Which flow events are wanted from now on.
    Observe(Observation),
}

impl Message {
    pub fn index(update: impl FnOnce(&mut Index) + Send + 'static) -> Self {
        Message::Index(Box::new(update), Instant::now())
    }
}

/// A request for an interface in a sandbox.
#[derive(Clone, Debug)]
pub struct Add {
    pub container_id: String,
    pub ifname: String,
    pub netns: PathBuf,
    pub owner: Owner,
    /// In bytes; 0: the node's.
    pub mtu: u32,
    /// Host side and addresses, when another plugin made the interface.
    pub chained: Option<(String, Vec<IpAddr>)>,
}

/// The interface that a sandbox got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    pub addrs: Vec<IpAddr>,
    pub mac: [u8; 6],
    pub host_ifname: String,
    pub host_mac: [u8; 6],
    pub mtu: u32,
}

/// What the runtime believes about a sandbox's interface.
#[derive(Clone, Debug)]
pub struct Check {
    /// See [`key`].
    pub key: String,
    pub netns: PathBuf,
    pub addrs: Vec<IpAddr>,
}

/// A call of the plugin, with the channel for its answer.
pub enum Call {
    Add(Add, oneshot::Sender<Result<Added, CallError>>),
    Del {
        container_id: String,
        ifname: String,
        answer: oneshot::Sender<Result<(), CallError>>,
    },
    Check(Check, oneshot::Sender<Result<(), CallError>>),
    /// The keys of all interfaces that still exist; the others are deleted.
    Gc(BTreeSet<String>, oneshot::Sender<Result<(), CallError>>),
    Status(oneshot::Sender<Result<(), CallError>>),
}

/// Why a call failed, with a message for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The runtime may try again.
    #[error("{0}")]
    NotYet(String),
    #[error("{0}")]
    Unknown(String),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Failed(String),
}

impl From<DataplaneError> for CallError {
    fn from(error: DataplaneError) -> Self {
        CallError::Failed(error.to_string())
    }
}
