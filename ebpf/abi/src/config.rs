//! What every program must know of its node: `CONFIG`, an array of one.

use crate::Addr;

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct NodeConfig {
    /// Raised by every change that may alter a verdict; see [`crate::table_of`].
    pub generation: u32,
    /// The interface that leads to the other nodes and to the outside.
    pub uplink: u32,
    /// The node's addresses; unspecified where it has none of the family.
    pub node_v4: Addr,
    pub node_v6: Addr,
    /// Cookie of the node's own network namespace, by which the socket hooks tell its processes from pods.
    pub netns_cookie: u64,
    /// 1 while somebody reads `FLOWS`; 0 spares the programs the events.
    pub observe: u32,
    /// The overlay's devices by the outer packet's family, which is the inner one's; 0: other nodes' pods are reached by
    /// the uplink.
    pub overlay_v4: u32,
    pub overlay_v6: u32,
    /// The near end of the link on which early fragments wait; 0: they do not.
    pub delay: u32,
}

/// `CLUSTER`: LPM trie of prefixes that are inside the cluster: not masqueraded. Pod CIDRs and, without an overlay, node
/// addresses.
pub const CLUSTER_MAX: u32 = 16_384;

crate::plain!(NodeConfig: 64);
