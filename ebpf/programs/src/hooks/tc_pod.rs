//! The host side of a pod's veth.
//!
//! `tc_pod_egress`: packets that the pod sends: source check, policy, services, delivery past the node's stack.
//! `tc_pod_ingress`: packets from the node's stack to the pod: policy, and the translation of answers.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use skep_abi::{Addr, DropReason, Flow, NodeConfig, Proto, SocketAddr};

use crate::conntrack;
use crate::deliver::{self, PASS};
use crate::nat::FullNat;
use crate::packet::Packet;
use crate::parse::parse;
use crate::{bandwidth, cluster, delay, icmp, maps, nat, policy, report, service, tcp_close, translate};

/// Ingress hook of the host side: packets that the pod sends.
#[classifier]
pub(crate) fn tc_pod_egress(ctx: TcContext) -> i32 {
    deliver::verdict(delay::early_fragment(&ctx, egress(&ctx)))
}

/// Egress hook of the host side: packets that the node's stack sends to the pod.
#[classifier]
pub(crate) fn tc_pod_ingress(ctx: TcContext) -> i32 {
    deliver::verdict(ingress(&ctx))
}

#[inline(always)]
fn egress(ctx: &TcContext) -> Result<i32, DropReason> {
    let Some(config) = maps::config() else { return Ok(PASS) };
    let Some(packet) = parse(ctx)? else { return Ok(PASS) };
    let mut found = conntrack::find(packet);
    if let Some(flow) = &found {
        check_source(ctx, flow, config, packet)?;
        if let Some(action) = bandwidth::delay_egress(ctx, packet, flow.flags)? {
            return Ok(action);
        }
        if conntrack::begins(packet) && translate::is_stale(packet, flow, false) {
            found = None;
        } else if flow.flags & Flow::ALIAS != 0 && conntrack::rewrites(flow, packet) {
            nat::apply(ctx, packet, flow)?;
            packet.locate();
            found = conntrack::find(packet);
        } else if conntrack::bypasses_translation(flow, packet)
            || conntrack::begins(packet) && predates_service(packet, flow)
        {
            found = None;
        }
    }
    match found {
        Some(flow) => forward(ctx, config, packet, flow),
        None => open(ctx, config, packet),
    }
}

/// A pod may send only from its own address. An entry of the generation in force says that the check was made.
#[inline(always)]
fn check_source(
    ctx: &TcContext,
    flow: &Flow,
    config: &NodeConfig,
    packet: &Packet,
) -> Result<(), DropReason> {
    let ifindex = interface(ctx);
    let known = flow.generation == config.generation && conntrack::sender(flow, packet) == ifindex;
    if known && !packet.is_error() {
        return Ok(());
    }
    owns(ifindex, packet)
}

/// The check itself: the interface's pod has the packet's source address.
#[inline(always)]
fn owns(ifindex: u32, packet: &Packet) -> Result<(), DropReason> {
    match cluster::pod(packet.sender_addr()) {
        Some(pod) if pod.ifindex == ifindex => Ok(()),
        _ => Err(DropReason::Spoofed),
    }
}

/// The host-side interface that this program runs on.
#[inline(always)]
fn interface(ctx: &TcContext) -> u32 {
    // SAFETY: the context is the kernel's; `ifindex` is a field that every classifier may read.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// A packet of a known flow: verdict under this generation, rewriting, delivery.
#[inline(always)]
fn forward(
    ctx: &TcContext,
    config: &NodeConfig,
    packet: &mut Packet,
    flow: &mut Flow,
) -> Result<i32, DropReason> {
    policy::revalidate(ctx, config, flow, packet)?;
    let translated = conntrack::rewrites(flow, packet) && flow.flags & Flow::MASQUERADE == 0;
    let (receiver, flags) = (conntrack::receiver(flow, packet), flow.flags);
    if translated {
        nat::apply(ctx, packet, flow)?;
    } else if tcp_close::may_close(packet, flow) {
        tcp_close::close(ctx, packet, flow);
    }
    Ok(onward(ctx, config, packet, receiver, flags, translated))
}

/// The shortest path to the other end.
#[inline(always)]
fn onward(
    ctx: &TcContext,
    config: &NodeConfig,
    packet: &Packet,
    receiver: u32,
    flags: u32,
    translated: bool,
) -> i32 {
    if receiver != 0 {
        return deliver::to_pod(receiver);
    }
    if flags & Flow::OVERLAY != 0 {
        return deliver::to_node(config, packet);
    }
    if config.uplink != 0 && flags & Flow::REMOTE != 0 {
        return deliver::to_remote(config, packet);
    }
    if config.uplink != 0 && translated {
        if flags & Flow::NODE == 0 {
            return deliver::to_uplink(config);
        }
        // The node's stack would drop a source address of its own as a martian.
        if cluster::is_node(config, &packet.source.addr) {
            return deliver::to_host(ctx);
        }
    }
    PASS
}

/// A packet of a new flow that the pod opens.
#[inline(always)]
fn open(ctx: &TcContext, config: &NodeConfig, packet: &mut Packet) -> Result<i32, DropReason> {
    if is_neighbour_discovery(packet) {
        return Ok(PASS);
    }
    owns(interface(ctx), packet)?;
    icmp::unrelated(packet)?;
    let addressed = packet.destination;
    let service = service::find_any(&addressed, packet.proto);
    if let Some(service) = service {
        let Some(backend) = service::resolve(config, packet, service, service::random())? else {
            return translate::reject(ctx, packet, || deliver::to_pod(interface(ctx)));
        };
        if backend.addr == packet.source.addr {
            return hairpin(ctx, config, packet, &backend);
        }
        translate::put_alias(config, packet, &backend, interface(ctx))?;
        nat::set_destination(ctx, packet, &backend)?;
        packet.locate();
    }
    let id = service.map_or(0, |service| service.service);
    let decision = policy::decide(config, &packet.source, &packet.destination, packet.proto);
    report::decided(config, packet, decision.reason, decision.policy, id);
    let opened = policy::open(ctx, config, packet, &decision);
    if service.is_some() && opened.is_err() {
        translate::remove_alias(packet, &addressed);
    }
    let flow = opened?;
    flow.service = id;
    if service.is_some() {
        translate::put_translated(ctx, packet, flow, &addressed)?;
    } else {
        conntrack::replace(packet, flow);
    }
    // A flow that was just opened is rewritten in the other direction only.
    let (receiver, flags) = (conntrack::receiver(flow, packet), flow.flags);
    Ok(onward(ctx, config, packet, receiver, flags, false))
}

/// A pod reaches itself through a service. It sees the frontend as its peer, since its stack drops packets from its own
/// address.
#[inline(always)]
fn hairpin(
    ctx: &TcContext,
    config: &NodeConfig,
    packet: &mut Packet,
    backend: &SocketAddr,
) -> Result<i32, DropReason> {
    let ifindex = interface(ctx);
    let flags = Flow::HAIRPIN | bandwidth::flag(cluster::pod(&backend.addr), None);
    bandwidth::charge_first(ctx, packet, flags)?;
    let nat = FullNat {
        source: packet.destination,
        backend: *backend,
        flags,
        forward_flags: 0,
        ifindex,
        generation: Flow::stamp(config.generation, flags),
    };
    match nat::open_and_rewrite(ctx, packet, &nat) {
        DropReason::None => Ok(deliver::to_pod(ifindex)),
        reason => Err(reason),
    }
}

/// Whether the flow was opened before the address that it is to became a frontend.
#[inline(never)]
fn predates_service(packet: &Packet, flow: &Flow) -> bool {
    flow.flags & (Flow::ALIAS | Flow::HAIRPIN) == 0
        && service::find_any(&packet.destination, packet.proto).is_some()
}

/// Router and neighbour discovery (RFC 4861) with the node: its source addresses are link-local or unspecified.
#[inline(always)]
fn is_neighbour_discovery(packet: &Packet) -> bool {
    let source = packet.source.addr.0;
    let link_local = source[0] & 0xffc0_0000_u32.to_be() == 0xfe80_0000_u32.to_be();
    packet.proto == Proto::ICMPV6 && (link_local || packet.source.addr == Addr::UNSPECIFIED)
}

#[inline(always)]
fn ingress(ctx: &TcContext) -> Result<i32, DropReason> {
    let Some(config) = maps::config() else { return Ok(PASS) };
    let Some(packet) = parse(ctx)? else { return Ok(PASS) };
    let Some(flow) = conntrack::find(packet) else { return admit(ctx, config, packet) };
    policy::revalidate(ctx, config, flow, packet)?;
    if conntrack::rewrites(flow, packet) && flow.flags & Flow::MASQUERADE == 0 {
        nat::apply(ctx, packet, flow)?;
    }
    Ok(PASS)
}

/// A new flow towards the pod through the node's stack.
#[inline(always)]
fn admit(ctx: &TcContext, config: &NodeConfig, packet: &Packet) -> Result<i32, DropReason> {
    icmp::unrelated(packet)?;
    let mut decision = policy::decide(config, &packet.source, &packet.destination, packet.proto);
    // SAFETY: as in `interface`. 0: the packet came from no interface, so the node itself sent it.
    if unsafe { (*ctx.skb.skb).ingress_ifindex } == 0 {
        decision.flags |= Flow::NODE;
        decision.reason = DropReason::None;
    }
    report::decided(config, packet, decision.reason, decision.policy, 0);
    let flow = policy::open(ctx, config, packet, &decision)?;
    conntrack::replace(packet, flow);
    Ok(PASS)
}
