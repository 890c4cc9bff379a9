//! Direct server return.
//!
//! In: a packet from outside for a frontend whose backend is on another node. Out: the packet, unchanged but for its hop
//! limit, is on its way to that node, by the link between the nodes or the overlay. That node has the same frontend and
//! the same Maglev table, so it picks the same backend; it keeps the client's address and answers the client directly.

use aya_ebpf::programs::TcContext;
use skep_abi::{DropReason, Flow, NodeConfig, SocketAddr};

use crate::checksum::UPDATE_SUM;
use crate::deliver::{self, overlay};
use crate::maps::CONNTRACK;
use crate::packet::{L3, Packet};
use crate::{cluster, conntrack, hop};

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
    let Some(hop) = hop::find(ctx, packet, backend) else { return NO_HOP };
    // The next hop must be a node, since a router would return the packet: it is one on the overlay, or if its address is
    // inside the cluster.
    let to_node = hop.ifindex == overlay(config, packet)
        || cluster::is_uplink(config, hop.ifindex)
            && hop.gateway != *backend
            && cluster::contains(&hop.gateway);
    // Two nodes whose tables differ for a moment would send the packet back and forth.
    let came_from_there = hop.mac.is_some_and(|next| ctx.load::<[u8; 6]>(6).is_ok_and(|mac| mac == next));
    if !to_node || came_from_there || !decrement_hop_limit(ctx, packet) {
        return NO_HOP;
    }
    deliver::to_next_hop(hop.ifindex, packet, &hop.gateway)
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
        return ctx.store(at, &(hops - 1), 0).is_ok();
    }
    ctx.store(at, &(hops - 1), UPDATE_SUM).is_ok()
}
