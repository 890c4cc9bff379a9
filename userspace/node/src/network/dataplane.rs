//! The one door to the kernel: what the engine needs of a datapath.

use std::net::IpAddr;
use std::path::PathBuf;

use async_trait::async_trait;
use skep_netplan::{Observed, Write};

/// A pod's interface as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub netns: PathBuf,
    pub ifname: String,
    pub host_ifname: String,
    pub addrs: Vec<IpAddr>,
    pub mtu: u32,
    /// Another plugin made it; it is only taken over, and left standing at the end.
    pub chained: bool,
}

/// A pod's interface as it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// The host side's.
    pub ifindex: u32,
    pub mac: [u8; 6],
    pub host_mac: [u8; 6],
}

/// Writes before `done` hold, that at `done` does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub done: usize,
    pub reason: String,
}

/// Errors are sentences for people: nothing is decided by them.
#[async_trait]
pub trait Dataplane: Send + 'static {
    fn observed(&self) -> Result<Observed, String>;
    fn apply(&mut self, writes: &[Write]) -> Result<(), Failed>;
    /// Makes the interface, or takes over a chained one. Idempotent.
    async fn add_pod(&mut self, link: &Link) -> Result<Interface, String>;
    /// Puts the programs on the host side. Idempotent.
    fn attach_pod(&mut self, ifindex: u32) -> Result<(), String>;
    /// Fails if the interface is not as [`Dataplane::add_pod`] left it.
    async fn check_pod(&mut self, link: &Link) -> Result<Interface, String>;
    /// What is gone already is no error.
    async fn delete_pod(&mut self, link: &Link) -> Result<(), String>;
    /// Forgets flows whose time is over, and ends what leads datagrams to backends that `maps` have no more; `namespaces`
    /// are the pods'.
    async fn tidy(&mut self, maps: &Observed, namespaces: &[PathBuf]) -> Result<(), String>;
}
