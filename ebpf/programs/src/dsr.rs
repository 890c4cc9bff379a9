//! Direct server return.
//!
//! In: a packet from outside for a frontend whose backend is on another node. Out: the packet, unchanged but for its hop
//! limit, is on its way to that node, by the link between the nodes or the overlay. That node has the same frontend and
//! the same Maglev table, so it picks the same backend; it keeps the client's address and answers the client directly.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup,
};
use aya_ebpf::helpers::generated::bpf_fib_lookup as find_route;
use aya_ebpf::programs::TcContext;
use skep_abi::{Addr, DropReason, Flow, NodeConfig, SocketAddr};

use crate::deliver::{self, AF_INET, AF_INET6, overlay};
use crate::maps::CONNTRACK;
use crate::packet::{L3, Packet};
use crate::{cluster, conntrack, interface};

/// Result of [`send`], none of the kernel's actions: no next hop to the backend's node is known that forwards packets for
/// a frontend's address.
const NO_HOP: i32 = -1;

/// Opens the flow; `None`: the flow has to be translated on this node.
#[inline(always)]
pub(crate) fn open(
    ctx: &TcContext,
    config: &NodeConfig,
    packet: &Packet,
    backend: &SocketAddr,
) -> Result<Option<i32>, DropReason> {
    // A client inside the cluster needs its answers from this node: the backend's node may be its own.
    if cluster::contains(&packet.source.addr) {
        return Ok(None);
    }
    let flow = conntrack::fresh(Flow::DSR)?;
    flow.destination = *backend;
    if packet.from_high() {
        flow.flags |= Flow::FROM_HIGH | Flow::REWRITE_HIGH;
    }
    let action = send(ctx, config, packet, flow);
    if action == NO_HOP {
        return Ok(None);
    }
    conntrack::replace(packet, flow);
    Ok(Some(action))
}

/// Forwards a packet of an open flow.
#[inline(always)]
pub(crate) fn forward(
    ctx: &TcContext,
    config: &NodeConfig,
    packet: &Packet,
    flow: &Flow,
) -> Result<i32, DropReason> {
    let action = send(ctx, config, packet, flow);
    if action != NO_HOP {
        return Ok(action);
    }
    // The next packet that opens a flow finds another backend, or is translated here.
    let _ = CONNTRACK.remove(&packet.key);
    Err(DropReason::NoBackend)
}

/// Sends the packet to the node that has the flow's backend, with a decremented hop limit.
#[inline(never)]
fn send(ctx: &TcContext, config: &NodeConfig, packet: &Packet, flow: &Flow) -> i32 {
    let backend = &flow.destination.addr;
    // SAFETY: integers and unions of them, for which zeros are values.
    let mut route: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    route.ifindex = interface::here(ctx);
    route.l4_protocol = packet.proto.0;
    if packet.is_v4() {
        route.family = AF_INET as u8;
        route.__bindgen_anon_3.ipv4_src = packet.source.addr.v4_word();
        route.__bindgen_anon_4.ipv4_dst = backend.v4_word();
    } else {
        route.family = AF_INET6 as u8;
        route.__bindgen_anon_3.ipv6_src = packet.source.addr.0;
        route.__bindgen_anon_4.ipv6_dst = backend.0;
    }
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: context and parameters are valid for the call, the size is theirs.
    let result = unsafe { find_route(ctx.as_ptr(), &raw mut route, size, 0) };
    let found = result == BPF_FIB_LKUP_RET_SUCCESS as i64;
    if !found && result != BPF_FIB_LKUP_RET_NO_NEIGH as i64 && result != BPF_FIB_LKUP_RET_FRAG_NEEDED as i64 {
        return NO_HOP;
    }
    // SAFETY: both members of the union are numbers; the kernel has put the next hop there.
    let gateway = unsafe {
        if packet.is_v4() {
            Addr::from_v4_word(route.__bindgen_anon_4.ipv4_dst)
        } else {
            Addr(route.__bindgen_anon_4.ipv6_dst)
        }
    };
    // The next hop must be a node, since a router would return the packet: it is one on the overlay, or if its address is
    // inside the cluster.
    let to_node = route.ifindex == overlay(config, packet)
        || route.ifindex == config.uplink && gateway != *backend && cluster::contains(&gateway);
    // Two nodes whose tables differ for a moment would send the packet back and forth.
    let came_from_there = found && ctx.load::<[u8; 6]>(6).is_ok_and(|mac| mac == route.dmac);
    if !to_node || came_from_there || !decrement_hop_limit(ctx, packet) {
        return NO_HOP;
    }
    deliver::to_next_hop(route.ifindex, packet, &gateway)
}

/// False: the hop limit is used up, and the packet may not be forwarded.
#[inline(always)]
fn decrement_hop_limit(ctx: &TcContext, packet: &Packet) -> bool {
    let at = L3 + if packet.is_v4() { 8 } else { 7 };
    let Ok(hops) = ctx.load::<u8>(at) else { return false };
    if hops < 2 {
        return false;
    }
    if packet.is_v4() {
        // The TTL is the first byte of its 16-bit word.
        let word = |hops: u8| u16::from_ne_bytes([hops, 0]) as u64;
        if ctx.l3_csum_replace(L3 + 10, word(hops), word(hops - 1), 2).is_err() {
            return false;
        }
    }
    ctx.store(at, &(hops - 1), 0).is_ok()
}
