//! Direct server return. A flow from outside to a backend on another node goes to that node as it is, by the next hop of the
//! backend's address: on the link between the nodes, or in the overlay. That node has the same frontend and the same table,
//! so it finds the backend with itself; it keeps the client's address and answers the client, not this node.

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
use crate::{cluster, conntrack};

/// No way to the backend's node that takes other addresses than pods'.
const NO_WAY: i32 = -1;

/// Opens the flow; `None` if it has to be translated here.
#[inline(always)]
pub(crate) fn open(
    ctx: &TcContext,
    config: &NodeConfig,
    packet: &Packet,
    backend: &SocketAddr,
) -> Result<Option<i32>, DropReason> {
    // Who is inside has the socket's translation, or needs its answers from this node: it may be behind the other one.
    if cluster::contains(&packet.source.addr) {
        return Ok(None);
    }
    let flow = conntrack::fresh(Flow::DSR)?;
    flow.destination = *backend;
    if packet.from_high() {
        flow.flags |= Flow::FROM_HIGH | Flow::REWRITE_HIGH;
    }
    let action = hop(ctx, config, packet, flow);
    if action == NO_WAY {
        return Ok(None);
    }
    conntrack::replace(packet, flow);
    Ok(Some(action))
}

/// A packet of a flow that is open.
#[inline(always)]
pub(crate) fn forward(
    ctx: &TcContext,
    config: &NodeConfig,
    packet: &Packet,
    flow: &Flow,
) -> Result<i32, DropReason> {
    let action = hop(ctx, config, packet, flow);
    if action != NO_WAY {
        return Ok(action);
    }
    // The next packet that may open a flow finds another backend, or another way.
    let _ = CONNTRACK.remove(&packet.key);
    Err(DropReason::NoBackend)
}

/// Sends the packet to the node that has the flow's backend, with one hop less.
#[inline(never)]
fn hop(ctx: &TcContext, config: &NodeConfig, packet: &Packet, flow: &Flow) -> i32 {
    let backend = &flow.destination.addr;
    // SAFETY: integers and unions of them, for which zeros are values.
    let mut route: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    // SAFETY: the context is the kernel's; `ifindex` is a field that every classifier may read.
    route.ifindex = unsafe { (*ctx.skb.skb).ifindex };
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
        return NO_WAY;
    }
    // SAFETY: both members of the union are numbers; the kernel has put the next hop there.
    let gateway = unsafe {
        if packet.is_v4() {
            Addr::from_v4_word(route.__bindgen_anon_4.ipv4_dst)
        } else {
            Addr(route.__bindgen_anon_4.ipv6_dst)
        }
    };
    // A router would send it back here; on the overlay and among the cluster's addresses are none.
    let to_node = route.ifindex == overlay(config, packet)
        || route.ifindex == config.uplink && gateway != *backend && cluster::contains(&gateway);
    // Two nodes whose tables differ for a moment would send it back and forth.
    let came_from_there = found && ctx.load::<[u8; 6]>(6).is_ok_and(|station| station == route.dmac);
    if !to_node || came_from_there || !one_hop_less(ctx, packet) {
        return NO_WAY;
    }
    deliver::by_hop(route.ifindex, packet, &gateway)
}

/// False if the packet has come to the end of its life.
#[inline(always)]
fn one_hop_less(ctx: &TcContext, packet: &Packet) -> bool {
    let at = L3 + if packet.is_v4() { 8 } else { 7 };
    let Ok(hops) = ctx.load::<u8>(at) else { return false };
    if hops < 2 {
        return false;
    }
    if packet.is_v4() {
        // The time to live is the first byte of its 16 bits.
        let word = |hops: u8| u16::from_ne_bytes([hops, 0]) as u64;
        if ctx.l3_csum_replace(L3 + 10, word(hops), word(hops - 1), 2).is_err() {
            return false;
        }
    }
    ctx.store(at, &(hops - 1), 0).is_ok()
}
