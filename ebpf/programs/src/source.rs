//! Who sent a packet: a source address belongs to its sender.
//!
//! In: a packet, the interface that it came from, its flow if that is known. Out: a reason to drop it. Nothing but
//! [`crate::fragments`] changes here, so a packet that is dropped leaves no trace.

use core::hint::cold_path;

use aya_ebpf::programs::TcContext;
use skep_abi::{Addr, DropReason, Flow, NodeConfig, Proto};

use crate::packet::{L3, Packet, is_of_router};
use crate::{cluster, conntrack, deliver, fragments, interface};

#[inline(always)]
fn result(reason: DropReason) -> Result<(), DropReason> {
    match reason {
        DropReason::None => Ok(()),
        reason => Err(reason),
    }
}

/// A pod sends only from its own address. An entry of the generation in force says that the check was made.
#[inline(always)]
pub(crate) fn of_pod(ctx: &TcContext, packet: &Packet, flow: Option<&Flow>) -> Result<(), DropReason> {
    let ifindex = interface::here(ctx);
    let known = flow.is_some_and(|flow| {
        flow.generation == packet.generation && conntrack::sender(flow, packet) == ifindex
    });
    if known && packet.is_plain() {
        return Ok(());
    }
    cold_path();
    result(examine_pod(ctx, packet, ifindex))
}

#[inline(never)]
fn examine_pod(ctx: &TcContext, packet: &Packet, ifindex: u32) -> DropReason {
    let own = |addr: &Addr| cluster::pod(addr).is_some_and(|pod| pod.ifindex == ifindex);
    // No router is behind a pod's interface.
    if packet.is_icmp() && is_of_router(packet.proto, packet.kind) {
        return DropReason::Router;
    }
    if is_link_control(ctx, packet) {
        return DropReason::None;
    }
    // An error is the end's own: the quoted packet came to it.
    if !own(packet.sender_addr()) || packet.is_error() && !own(&packet.source.addr) {
        return DropReason::Spoofed;
    }
    fragments::keep(packet);
    DropReason::None
}

/// Router and neighbour solicitation, neighbour advertisement (RFC 4861) and multicast listener discovery (RFC 3810) of a
/// pod with its node: their source addresses are link-local or unspecified, and no router forwards them.
#[inline(always)]
pub(crate) fn is_link_control(ctx: &TcContext, packet: &Packet) -> bool {
    let source = packet.source.addr.0;
    let link_local = source[0] & 0xffc0_0000_u32.to_be() == 0xfe80_0000_u32.to_be();
    if packet.proto != Proto::ICMPV6 || !link_local && packet.source.addr != Addr::UNSPECIFIED {
        return false;
    }
    let hops = ctx.load::<u8>(L3 + 7).unwrap_or(0);
    match packet.kind {
        133 | 135 | 136 => hops == 255,
        130..=132 | 143 => hops == 1,
        _ => false,
    }
}

/// From the uplink and the overlay come neither this node's own packets nor those of its pods.
#[inline(always)]
pub(crate) fn of_network(
    config: &NodeConfig,
    packet: &Packet,
    flow: Option<&Flow>,
) -> Result<(), DropReason> {
    let known = flow.is_some_and(|flow| conntrack::sender(flow, packet) == 0);
    if known && packet.is_plain() && !cluster::is_node(config, &packet.source.addr) {
        return Ok(());
    }
    cold_path();
    result(examine_network(config, packet))
}

#[inline(never)]
fn examine_network(config: &NodeConfig, packet: &Packet) -> DropReason {
    let sender = packet.sender_addr();
    let foreign = !cluster::is_node(config, sender) && cluster::pod(sender).is_none();
    // Another machine that has this node's address says so by neighbour discovery (RFC 4862, 5.4).
    let discovery = packet.proto == Proto::ICMPV6 && matches!(packet.kind, 133..=137);
    if !foreign && !(discovery && cluster::pod(&packet.destination.addr).is_none()) {
        return DropReason::Spoofed;
    }
    fragments::keep(packet);
    DropReason::None
}

/// What the node forwards to a pod has the address of another pod only if it came from that pod, and the node's own not if
/// it came from the network.
#[inline(always)]
pub(crate) fn of_forwarded(
    ctx: &TcContext,
    config: &NodeConfig,
    packet: &Packet,
    flow: Option<&Flow>,
) -> Result<(), DropReason> {
    let ifindex = interface::came_by(ctx);
    let known = flow.is_some_and(|flow| match conntrack::sender(flow, packet) {
        0 => !cluster::is_node(config, &packet.source.addr),
        sender => sender == ifindex,
    });
    if ifindex == 0 || known && packet.is_plain() {
        fragments::keep(packet);
        return Ok(());
    }
    cold_path();
    result(examine_forwarded(config, packet, ifindex))
}

#[inline(never)]
fn examine_forwarded(config: &NodeConfig, packet: &Packet, ifindex: u32) -> DropReason {
    let sender = packet.sender_addr();
    let network = cluster::is_uplink(config, ifindex) || ifindex == deliver::overlay(config, packet);
    let spoofed = match cluster::pod(sender) {
        Some(pod) => pod.ifindex != ifindex,
        None => network && cluster::is_node(config, sender),
    };
    if spoofed {
        return DropReason::Spoofed;
    }
    fragments::keep(packet);
    DropReason::None
}
