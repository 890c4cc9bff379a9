//! What the datapath is opened with.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Where and for whom the datapath runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// A folder of a BPF file system, the node's own; made if it is missing.
    pub bpffs: PathBuf,
    /// The cgroup v2 folder whose processes reach services by translation at the socket.
    pub cgroup: PathBuf,
    /// The interface that leads to the other nodes.
    pub uplink: String,
    pub xdp: XdpMode,
    /// The node's addresses, at most one of each family is used.
    pub node_addrs: Vec<IpAddr>,
    /// Packets to pods of other nodes go in VXLAN; without it the network between the nodes carries pods' addresses.
    pub overlay: bool,
}

/// Where on the uplink's way `xdp_node` is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, or behind it where the driver cannot; not on a veth, where every packet would be copied for it
    /// and the peer might not take what it sends.
    Auto,
    /// In the driver or not at all.
    Driver,
    /// Behind the driver, where an skb is made already.
    Generic,
    #[default]
    Off,
}

/// A text that names no [`XdpMode`].
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is none of auto, driver, generic, off")]
pub struct UnknownXdpMode(String);

impl XdpMode {
    pub const ALL: [XdpMode; 4] = [XdpMode::Auto, XdpMode::Driver, XdpMode::Generic, XdpMode::Off];

    const fn name(self) -> &'static str {
        match self {
            XdpMode::Auto => "auto",
            XdpMode::Driver => "driver",
            XdpMode::Generic => "generic",
            XdpMode::Off => "off",
        }
    }
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for XdpMode {
    type Err = UnknownXdpMode;

    fn from_str(text: &str) -> Result<Self, UnknownXdpMode> {
        let found = XdpMode::ALL.into_iter().find(|mode| mode.name() == text);
        found.ok_or_else(|| UnknownXdpMode(text.to_owned()))
    }
}
