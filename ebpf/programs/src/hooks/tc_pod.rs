//! The host side of a pod's veth.
//!
//! `tc_pod_egress`: packets that the pod sends: source check, policy, services, delivery past the node's stack.
//! `tc_pod_ingress`: packets from the node's stack to the pod: policy, and the translation of answers.

use core::hint::cold_path;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use skep_abi::{DropReason, Flow, Hook, NodeConfig, Omission, ServiceValue, SocketAddr};

use crate::conntrack;
use crate::deliver::{self, PASS};
use crate::nat::FullNat;
use crate::omission::omits;
use crate::packet::Packet;
use crate::parse::parse;
use crate::{
    bandwidth, cluster, delay, frame, icmp, interface, maps, nat, openers, overlay, policy, ports, report,
    service, source, tcp_close, translate,
};

/// Ingress hook of the host side: packets that the pod sends.
#[classifier]
pub(crate) fn tc_pod_egress(ctx: TcContext) -> i32 {
    deliver::verdict(&ctx, Hook::FROM_POD, delay::early_fragment(&ctx, egress(&ctx)))
}

/// Egress hook of the host side: packets that the node's stack sends to the pod.
#[classifier]
pub(crate) fn tc_pod_ingress(ctx: TcContext) -> i32 {
    deliver::verdict(&ctx, Hook::TO_POD, ingress(&ctx))
}

#[inline(always)]
fn egress(ctx: &TcContext) -> Result<i32, DropReason> {
    let Some(config) = maps::config() else { return Ok(PASS) };
    if frame::vlan(ctx).is_some() {
        cold_path();
        return Err(DropReason::Frame);
    }
    let Some(packet) = parse(ctx, config)? else {
        return if frame::is_arp(ctx) { Ok(PASS) } else { Err(DropReason::Frame) };
    };
    if omits(Omission::ENTRIES) {
        let receiver = cluster::pod(&packet.destination.addr).map_or(0, |pod| pod.ifindex);
        return Ok(deliver::to_pod(receiver));
    }
    let mut found = conntrack::entry(packet);
    source::of_pod(ctx, packet, found.as_deref())?;
    ports::yields(packet, found.as_deref())?;
    found = found.and_then(|flow| conntrack::advance(packet, flow));
    if let Some(flow) = &found {
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
        None => {
            cold_path();
            open(ctx, config, packet)
        }
    }
}

/// A packet of a known flow: verdict under this generation, rewriting, delivery.
#[inline(always)]
fn forward(
    ctx: &TcContext,
    config: &NodeConfig,
    packet: &mut Packet,
    flow: &mut Flow,
) -> Result<i32, DropReason> {
    policy::revalidate(ctx, flow, packet)?;
    let translated = conntrack::rewrites(flow, packet) && flow.flags & Flow::MASQUERADE == 0;
    let (receiver, flags) = (conntrack::receiver(flow, packet), flow.flags);
    if translated {
        nat::apply(ctx, packet, flow)?;
    } else if tcp_close::may_close(packet, flow) {
        tcp_close::close(ctx, packet, flow);
    }
    onward(ctx, config, packet, receiver, flags, translated)
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
) -> Result<i32, DropReason> {
    if receiver != 0 {
        return Ok(deliver::to_pod(receiver));
    }
    overlay::refuse(config, packet.proto, &packet.destination)?;
    if flags & Flow::OVERLAY != 0 {
        return Ok(deliver::to_node(config, packet));
    }
    if config.uplink != 0 && flags & Flow::REMOTE != 0 {
        return Ok(deliver::to_remote(ctx, config, packet));
    }
    if config.uplink != 0 && (translated || flags & Flow::OUTSIDE != 0) {
        if flags & Flow::NODE == 0 {
            return Ok(deliver::to_uplink(ctx, config, packet));
        }
        // The node's stack would drop a source address of its own as a martian.
        if cluster::is_node(config, &packet.source.addr) {
            return Ok(deliver::to_host(ctx));
        }
    }
    // Linux does not forward it: it adds the jumbo option's header to the length of each segment, which is then above the MTU.
    if packet.is_jumbo(ctx) && !cluster::is_node(config, &packet.destination.addr) {
        cold_path();
        return Ok(deliver::by_routes(ctx, config, packet));
    }
    Ok(PASS)
}

/// A packet of a new flow that the pod opens.
#[inline(always)]
fn open(ctx: &TcContext, config: &NodeConfig, packet: &mut Packet) -> Result<i32, DropReason> {
    if source::is_link_control(ctx, packet) {
        return Ok(PASS);
    }
    icmp::unrelated(packet)?;
    let addressed = packet.destination;
    let service = if omits(Omission::SERVICES) { None } else { service::find_any(&addressed, packet.proto) };
    if let Some(service) = service
        && service.flags & ServiceValue::NODE != 0
    {
        return to_node(packet, service);
    }
    openers::admit(ctx)?;
    if let Some(service) = service {
        let Some(backend) = service::resolve(packet, service, service::random())? else {
            return translate::reject(ctx, Hook::FROM_POD, packet, || deliver::to_pod(interface::here(ctx)));
        };
        if backend.addr == packet.source.addr {
            return hairpin(ctx, packet, &backend);
        }
        translate::put_alias(packet, &backend, interface::here(ctx))?;
        nat::set_destination(ctx, packet, &backend)?;
        packet.locate();
    }
    if service.is_none() && cluster::is_of_services(&addressed.addr) {
        return Err(DropReason::NoService);
    }
    let id = service.map_or(0, |service| service.service);
    let decision = policy::decide(packet, &packet.source, &packet.destination);
    let opened = policy::open(ctx, packet, &decision);
    if service.is_some() && opened.is_err() {
        translate::remove_alias(packet, &addressed);
    }
    let flow = opened?;
    flow.service = id;
    if service.is_none() {
        conntrack::replace(packet, flow);
    } else if cluster::is_outside(config, &packet.destination.addr) {
        translate::put_outside(ctx, config, packet, flow, &addressed)?;
    } else {
        translate::put_translated(ctx, packet, flow, &addressed)?;
    }
    report::opened(ctx, Hook::FROM_POD);
    // A flow that was just opened is rewritten in the other direction only.
    let (receiver, flags) = (conntrack::receiver(flow, packet), flow.flags);
    onward(ctx, config, packet, receiver, flags, false)
}

/// A packet to a service of the node itself. Policies treat its address as that of a pod: the planner gives it the labels of
/// the Service. Nothing is kept of the packet, so each one is decided.
#[inline(always)]
fn to_node(packet: &mut Packet, service: &ServiceValue) -> Result<i32, DropReason> {
    let decision = policy::decide(packet, &packet.source, &packet.destination);
    if decision.reason != DropReason::None {
        (packet.rule, packet.service) = (decision.rule, service.service);
        return Err(decision.reason);
    }
    Ok(PASS)
}

/// A pod reaches itself through a service. It sees the frontend as its peer, since its stack drops packets from its own
/// address.
#[inline(always)]
fn hairpin(ctx: &TcContext, packet: &mut Packet, backend: &SocketAddr) -> Result<i32, DropReason> {
    let ifindex = interface::here(ctx);
    let flags = Flow::HAIRPIN | bandwidth::flag(cluster::pod(&backend.addr), None);
    bandwidth::charge_first(ctx, packet, flags)?;
    let nat = FullNat {
        source: packet.destination,
        backend: *backend,
        flags,
        forward_flags: 0,
        ifindex,
        generation: Flow::stamp(packet.generation, flags),
    };
    nat::open_and_rewrite(ctx, packet, &nat)?;
    report::opened(ctx, Hook::FROM_POD);
    Ok(deliver::to_pod(ifindex))
}

/// Whether the flow was opened before the address that it is to became a frontend.
#[inline(never)]
fn predates_service(packet: &Packet, flow: &Flow) -> bool {
    flow.flags & (Flow::ALIAS | Flow::HAIRPIN) == 0
        && service::find_any(&packet.destination, packet.proto).is_some()
}

#[inline(always)]
fn ingress(ctx: &TcContext) -> Result<i32, DropReason> {
    let Some(config) = maps::config() else { return Ok(PASS) };
    let Some(packet) = parse(ctx, config)? else { return Ok(PASS) };
    let found = conntrack::entry(packet);
    source::of_forwarded(ctx, config, packet, found.as_deref())?;
    let found = found.and_then(|flow| conntrack::advance(packet, flow));
    let Some(flow) = found else {
        cold_path();
        return admit(ctx, packet);
    };
    policy::revalidate(ctx, flow, packet)?;
    if conntrack::rewrites(flow, packet) && flow.flags & Flow::MASQUERADE == 0 {
        nat::apply(ctx, packet, flow)?;
    }
    Ok(PASS)
}

/// A new flow towards the pod through the node's stack.
#[inline(always)]
fn admit(ctx: &TcContext, packet: &mut Packet) -> Result<i32, DropReason> {
    icmp::unrelated(packet)?;
    if interface::came_by(ctx) == 0 && service::is_of_node(&packet.source, packet.proto) {
        return Ok(PASS);
    }
    let mut decision = policy::decide(packet, &packet.source, &packet.destination);
    if interface::came_by(ctx) == 0 {
        decision.flags |= Flow::NODE;
        decision.reason = DropReason::None;
    }
    let flow = policy::open(ctx, packet, &decision)?;
    conntrack::replace(packet, flow);
    report::opened(ctx, Hook::TO_POD);
    Ok(PASS)
}
