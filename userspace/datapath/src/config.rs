//! What the datapath is opened with.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use ipnetwork::IpNetwork;
use skep_abi::logic::lifetime::Timeouts;

/// The node that the datapath runs for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node's own folder on a BPF file system; it is created if it is missing.
    pub bpffs: PathBuf,
    /// The cgroup v2 folder whose processes have service translation at the socket.
    pub cgroup: PathBuf,
    /// The interfaces that lead to the other nodes and the outside.
    pub uplinks: Uplinks,
    /// Where XDP runs on the uplinks.
    pub xdp: XdpMode,
    /// The node's addresses, one of each family that it has. Further addresses of the uplinks are its own too.
    pub node_addrs: Vec<IpAddr>,
    /// Whether packets to pods of other nodes go in VXLAN. If not, the network between the nodes routes pods' addresses.
    pub overlay: bool,
    /// Entries of the table of flows; 0: by the machine's memory. A pinned table keeps its size.
    pub conntrack_max: u32,
    /// How long flows live without a packet.
    pub timeouts: Timeouts,
    /// New flows a second that a pod may open, after a burst of as many; 0: as many as it likes.
    pub pod_new_flows: u32,
    /// Whose sockets are translated.
    pub socket_lb: SocketLb,
    /// The networks of cluster addresses, at most one of each family; packets to an address of theirs that no service has are
    /// dropped.
    pub service_cidrs: Vec<IpNetwork>,
    /// Networks outside the cluster to which pods speak with their own addresses, at most [`skep_abi::EXEMPTIONS_MAX`].
    pub masquerade_exemptions: Vec<IpNetwork>,
    /// What the programs log.
    pub program_log: ProgramLogLevel,
    /// Whether TCP hands packets of more than 64 KB to the uplinks and to the interfaces of pods that are added.
    pub big_tcp: bool,
}

/// Programs other than those that an agent runs.
#[derive(Clone, Debug, Default)]
pub struct Trial {
    /// The object that has them, of this ABI version; `None`: the agent's own.
    pub object: Option<Vec<u8>>,
    /// Bits of [`skep_abi::Omission`]: what the programs leave out.
    pub omitted: u32,
}

/// Which interfaces are uplinks. They are looked up again whenever links, addresses or default routes change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Uplinks {
    /// Those of these that exist; one must exist at the start.
    Named(Vec<String>),
    /// Ethernet interfaces with a default route or one of the node's addresses.
    #[default]
    Routed,
}

/// Whose sockets have service translation at `connect`; those of others are translated by packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SocketLb {
    /// Those of all processes in the cgroup.
    #[default]
    All,
    /// The node's own only. For pods with a proxy that must see what its application addressed, or with a virtual machine.
    Host,
}

/// What the programs log. What they do not is dead code when they are loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgramLogLevel {
    /// Nothing.
    #[default]
    Off,
    /// Packets that are dropped.
    Info,
    /// Also flows that open.
    Debug,
    /// Every packet.
    Trace,
}

impl ProgramLogLevel {
    /// As `aya_log::Level` numbers them.
    pub(crate) fn code(self) -> u8 {
        match self {
            ProgramLogLevel::Off => 0,
            ProgramLogLevel::Info => aya_log::Level::Info.into(),
            ProgramLogLevel::Debug => aya_log::Level::Debug.into(),
            ProgramLogLevel::Trace => aya_log::Level::Trace.into(),
        }
    }
}

/// Where `xdp_node` is to run on the uplink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, or generic if the driver does not support XDP. Not on a veth, where every packet would be copied and
    /// the peer might not accept what XDP sends.
    Auto,
    /// In the driver; an error if the driver does not support XDP.
    Driver,
    /// Generic XDP, after the driver, where there is an skb already.
    Generic,
    /// Nowhere.
    #[default]
    Off,
}

/// A text that names no [`XdpMode`].
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is none of auto, driver, generic, off")]
pub struct UnknownXdpMode(String);

impl XdpMode {
    /// Every mode.
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
