//! What the engine needs of a datapath: the one way to the kernel, replaced by values in tests.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;

use async_trait::async_trait;
use skep_datapath::{NodeLinks, Observation, ServicesInForce};
use skep_netplan::{Observed, Write};

/// A pod's interface as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub netns: PathBuf,
    pub ifname: String,
    pub host_ifname: String,
    pub addrs: Vec<IpAddr>,
    pub mtu: u32,
    /// Another plugin made the interface and deletes it; we only attach programs.
    pub chained: bool,
}

/// A pod's interface as the kernel has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Of the host side.
    pub ifindex: u32,
    pub mac: [u8; 6],
    pub host_mac: [u8; 6],
}

/// A failed operation. Displays all causes: an errno alone says little, and so does the operation alone.
#[derive(Debug)]
pub struct DataplaneError {
    operation: &'static str,
    source: Box<dyn Error + Send + Sync>,
}

impl DataplaneError {
    pub fn new(operation: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        DataplaneError { operation, source: source.into() }
    }
}

impl fmt::Display for DataplaneError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.operation)?;
        let mut next: Option<&dyn Error> = Some(&*self.source);
        while let Some(cause) = next {
            write!(formatter, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}

/// Has no source of its own: `Display` already contains all of them.
impl Error for DataplaneError {}

/// The first `done` writes are in force; the one after them failed, and the others were not tried.
#[derive(Debug)]
pub struct PartlyApplied {
    pub done: usize,
    pub error: DataplaneError,
    /// The network does by itself what the write is for; see [`skep_netplan::Plan::needless`].
    pub needless: bool,
}

/// The work of [`Dataplane::expire_flows`].
pub type Expiry = Pin<Box<dyn Future<Output = Result<FlowTableState, DataplaneError>> + Send>>;

/// The table of flows after a walk over it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTableState {
    /// Entries that remain.
    pub live: usize,
    /// Entries that the walk removed.
    pub removed: usize,
    /// Entries that there is room for.
    pub size: usize,
}

/// The engine decides nothing by these errors; it retries and reports them.
#[async_trait]
pub trait Dataplane: Send + 'static {
    fn observed(&self) -> Result<Observed, DataplaneError>;
    fn apply(&mut self, writes: &[Write]) -> Result<(), PartlyApplied>;
    /// Makes the interface, or attaches to a chained one. Idempotent.
    async fn add_pod(&mut self, link: &Link) -> Result<Interface, DataplaneError>;
    /// Attaches the programs to the host side. Idempotent.
    fn attach_pod(&mut self, ifindex: u32) -> Result<(), DataplaneError>;
    /// Fails if the interface is not as [`Dataplane::add_pod`] left it.
    async fn check_pod(&mut self, link: &Link) -> Result<Interface, DataplaneError>;
    /// Deleting what does not exist is no error.
    async fn delete_pod(&mut self, link: &Link) -> Result<(), DataplaneError>;
    /// Removes expired flows, and ends the datagram sockets of pods (`namespaces`) and flows whose backend the services in
    /// force no longer contain. The work runs apart from this value, since a walk over a large table takes long.
    fn expire_flows(&self, in_force: ServicesInForce, namespaces: Vec<PathBuf>) -> Expiry;
    /// Has the programs on these uplinks and no others, and these addresses as the node's; idempotent.
    fn set_links(&mut self, links: &NodeLinks) -> Result<(), DataplaneError>;
    /// Has the programs send these flow events.
    fn observe(&mut self, observation: Observation) -> Result<(), DataplaneError>;
}
