//! Whose an address is: a local pod's, the node's, the cluster's.

use aya_ebpf::btf_maps::lpm_trie::Key;
use skep_abi::{Addr, Be16, NodeConfig, Pod, SocketAddr};

use crate::maps::{CLUSTER, NODES, PODS};
use crate::packet::Packet;

/// The pod of this node with the address.
#[inline(always)]
pub(crate) fn pod(addr: &Addr) -> Option<&'static Pod> {
    // SAFETY: read-only use within the program's run; the agent replaces entries whole.
    unsafe { PODS.get(addr) }
}

/// Whether the address is this node's own. A node without an address of a family has the unspecified one there.
#[inline(always)]
pub(crate) fn is_node(config: &NodeConfig, addr: &Addr) -> bool {
    (*addr == config.node_v4 || *addr == config.node_v6) && *addr != Addr::UNSPECIFIED
}

/// Whether the address is another node's.
#[inline(always)]
pub(crate) fn is_other_node(addr: &Addr) -> bool {
    NODES.get_ptr(addr).is_some()
}

/// Whether the address is inside the cluster; see [`skep_abi::CLUSTER_MAX`].
#[inline(always)]
pub(crate) fn contains(addr: &Addr) -> bool {
    CLUSTER.get(&Key::new(128, *addr)).is_some()
}

/// Whether pods speak to the address as the node: it is neither inside the cluster nor on this node.
#[inline(always)]
pub(crate) fn is_outside(config: &NodeConfig, addr: &Addr) -> bool {
    !is_node(config, addr) && pod(addr).is_none() && !contains(addr)
}

/// The node's address of the packet's family, with port 0; `None` if it has none.
#[inline(always)]
pub(crate) fn node_addr(config: &NodeConfig, packet: &Packet) -> Option<SocketAddr> {
    let addr = if packet.is_v4() { config.node_v4 } else { config.node_v6 };
    (addr != Addr::UNSPECIFIED).then_some(SocketAddr::new(addr, Be16(0)))
}
