//! The node's own configuration: `CONFIG`, an array of one [`NodeConfig`].

use crate::Addr;

/// What every program must know of its node.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct NodeConfig {
    /// The generation in force. Every change that may alter a verdict raises it; see [`crate::table_of`].
    pub generation: u32,
    /// Index of the interface towards the other nodes and the outside; with several, the first one. 0: none.
    pub uplink: u32,
    /// The node's IPv4 address; unspecified if it has none.
    pub node_v4: Addr,
    /// The node's IPv6 address; unspecified if it has none.
    pub node_v6: Addr,
    /// Cookie of the node's own network namespace. The socket hooks distinguish the node's processes from pods by it.
    pub netns_cookie: u64,
    /// Which events the programs send to `FLOWS`: [`crate::OBSERVE_DROPS`] and the others.
    pub observe: u16,
    /// [`NodeConfig::SEVERAL_UPLINKS`] and the others. Before version 10 the upper half of `observe`, always zero.
    pub flags: u16,
    /// Index of the overlay device for IPv4, inner and outer; 0: the uplink reaches other nodes' pods.
    pub overlay_v4: u32,
    /// As `overlay_v4`, for IPv6.
    pub overlay_v6: u32,
    /// Index of the near end of the link on which early fragments wait; 0: they are dropped.
    pub delay: u32,
}

impl NodeConfig {
    /// `UPLINKS` has further uplinks, and routes say by which of them a packet leaves.
    pub const SEVERAL_UPLINKS: u16 = 1;
    /// `NODE_ADDRS` has addresses besides `node_v4` and `node_v6`.
    pub const MORE_ADDRS: u16 = 2;
}

/// Entries of `UPLINKS`, a hash by interface index.
pub const UPLINKS_MAX: u32 = 256;

/// Entries of `NODE_ADDRS`, a hash of all of this node's addresses. Values are unused.
pub const NODE_ADDRS_MAX: u32 = 1_024;

/// The addresses under which pods speak to the outside by an uplink; unspecified: the node's of [`NodeConfig`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Uplink {
    pub v4: Addr,
    pub v6: Addr,
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

crate::layout::plain!(NodeConfig: 64, Uplink: 32);
