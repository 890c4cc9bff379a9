//! Whose an address is: a local pod's, the node's, the cluster's.

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::programs::TcContext;
use skep_abi::{Addr, Be16, NodeConfig, Pod, SocketAddr};

use crate::hop;
use crate::maps::{CLUSTER, EXEMPTIONS, NODE_ADDRS, NODES, PODS, UPLINKS};
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
        || config.flags & NodeConfig::MORE_ADDRS != 0 && NODE_ADDRS.get_ptr(addr).is_some()
}

/// Whether the interface is one to the other nodes and the outside.
#[inline(always)]
pub(crate) fn is_uplink(config: &NodeConfig, ifindex: u32) -> bool {
    ifindex == config.uplink
        || config.flags & NodeConfig::SEVERAL_UPLINKS != 0 && UPLINKS.get_ptr(&ifindex).is_some()
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

/// The networks of cluster addresses, one of each family: words of the address, then of the mask. The agent sets them before it loads
/// the programs; without a mask no address is in it.
#[unsafe(no_mangle)]
static SERVICE_NETS: [[u32; 8]; 2] = [[1, 0, 0, 0, 0, 0, 0, 0]; 2];

/// Whether the address is one that only services have.
#[inline(always)]
pub(crate) fn is_of_services(addr: &Addr) -> bool {
    (0..2).any(|net| {
        // SAFETY: reads of a static that is set before the program is loaded and never written.
        let word = |i: usize| unsafe { core::ptr::read_volatile(&raw const SERVICE_NETS[net][i]) };
        let mut difference = 0;
        for i in 0..4 {
            difference |= addr.0[i] & word(4 + i) ^ word(i);
        }
        difference == 0
    })
}

/// Whether pods speak to the address as the node: it is neither inside the cluster nor on this node, nor exempt.
#[inline(always)]
pub(crate) fn is_outside(config: &NodeConfig, addr: &Addr) -> bool {
    !is_node(config, addr) && pod(addr).is_none() && !keeps_source(addr)
}

/// 1: `EXEMPTIONS` has entries. The agent sets it before it loads the programs.
#[unsafe(no_mangle)]
static HAS_EXEMPTIONS: u32 = 0;

/// Whether what pods send to the address keeps its source on the way out.
#[inline(always)]
pub(crate) fn keeps_source(addr: &Addr) -> bool {
    // SAFETY: a global that is set before the program is loaded and never written.
    let has_exemptions = unsafe { core::ptr::read_volatile(&raw const HAS_EXEMPTIONS) } != 0;
    contains(addr) || has_exemptions && EXEMPTIONS.get(&Key::new(128, *addr)).is_some()
}

/// The node's address of the packet's family, with port 0; `None` if it has none.
#[inline(always)]
pub(crate) fn node_addr(config: &NodeConfig, packet: &Packet) -> Option<SocketAddr> {
    let addr = if packet.is_v4() { config.node_v4 } else { config.node_v6 };
    (addr != Addr::UNSPECIFIED).then_some(SocketAddr::new(addr, Be16(0)))
}

/// The node's address on that uplink, as [`node_addr`]; the node's if the uplink has none.
#[inline(always)]
pub(crate) fn uplink_addr(config: &NodeConfig, packet: &Packet, ifindex: u32) -> Option<SocketAddr> {
    if config.flags & NodeConfig::SEVERAL_UPLINKS != 0 {
        // SAFETY: read-only use within the program's run; the agent replaces entries whole.
        let uplink = unsafe { UPLINKS.get(&ifindex) };
        let addr =
            uplink.map_or(Addr::UNSPECIFIED, |uplink| if packet.is_v4() { uplink.v4 } else { uplink.v6 });
        if addr != Addr::UNSPECIFIED {
            return Some(SocketAddr::new(addr, Be16(0)));
        }
    }
    node_addr(config, packet)
}

/// The node's address towards a remote end outside the cluster, as [`uplink_addr`].
#[inline(always)]
pub(crate) fn addr_towards(
    ctx: &TcContext,
    config: &NodeConfig,
    packet: &Packet,
    to: &Addr,
) -> Option<SocketAddr> {
    if config.flags & NodeConfig::SEVERAL_UPLINKS == 0 {
        return node_addr(config, packet);
    }
    uplink_addr(config, packet, hop::interface_to(ctx, packet, to))
}
