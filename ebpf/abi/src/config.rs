//! The node's own configuration: `CONFIG`, an array of one [`NodeConfig`].

use crate::Addr;

/// What every program must know of its node.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct NodeConfig {
    /// The generation in force. Every change that may alter a verdict raises it; see [`crate::table_of`].
    pub generation: u32,
    /// Index of the interface towards the other nodes and the outside.
    pub uplink: u32,
    /// The node's IPv4 address; unspecified if it has none.
    pub node_v4: Addr,
    /// The node's IPv6 address; unspecified if it has none.
    pub node_v6: Addr,
    /// Cookie of the node's own network namespace. The socket hooks distinguish the node's processes from pods by it.
    pub netns_cookie: u64,
    /// Which events the programs send to `FLOWS`: [`crate::OBSERVE_DROPS`] and the others.
    pub observe: u32,
    /// Index of the overlay device for IPv4, inner and outer; 0: the uplink reaches other nodes' pods.
    pub overlay_v4: u32,
    /// As `overlay_v4`, for IPv6.
    pub overlay_v6: u32,
    /// Index of the near end of the link on which early fragments wait; 0: they are dropped.
    pub delay: u32,
}

/// Entries of `CLUSTER`, an LPM trie of prefixes that are inside the cluster and not masqueraded: pod CIDRs and, without
/// an overlay, node addresses. An entry has memory only while it exists.
pub const CLUSTER_MAX: u32 = 262_144;

/// Entries of `EXEMPTIONS`, an LPM trie of networks outside the cluster to which pods speak with their own addresses. Values are
/// unused.
pub const EXEMPTIONS_MAX: u32 = 1_024;

/// Entries of `NODES`, a hash of the nodes' addresses, which alone may send to the overlay's port. Values are unused.
pub const NODES_MAX: u32 = 32_768;

/// UDP port of the overlay, assigned by IANA to VXLAN (RFC 7348, 8).
pub const OVERLAY_PORT: u16 = 4789;

crate::layout::plain!(NodeConfig: 64);
