//! The node's uplink and overlay.
//!
//! `tc_node_ingress`: services addressed from outside, the backends' answers, delivery to pods past the node's stack.
//! `tc_node_egress`: masquerade of pods' flows to the outside, and answers of the node's own processes.
//! `tc_host_egress`: the same as egress, on loopback.

use core::hint::cold_path;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use skep_abi::{Be16, DropReason, Flow, Hook, NodeConfig, Proto, ServiceValue, SocketAddr};

use crate::conntrack;
use crate::deliver::{self, PASS};
use crate::nat::FullNat;
use crate::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, L3, Packet};
use crate::parse::parse;
use crate::ports::{self, PORT_TRIES};
use crate::{
    cluster, delay, dsr, fragments, frame, host, icmp, interface, maglev, maps, nat, overlay, policy, report,
    service, source, translate,
};

// A function of its own would need a frame of the stack, which Linux 6.1 limits to 512 bytes for the deepest calls.
#[classifier]
#[inline(always)]
pub(crate) fn tc_node_ingress(ctx: TcContext) -> i32 {
    deliver::verdict(&ctx, Hook::FROM_NETWORK, delay::early_fragment(&ctx, ingress(&ctx)))
}

#[classifier]
pub(crate) fn tc_node_egress(ctx: TcContext) -> i32 {
    deliver::verdict(&ctx, Hook::TO_NETWORK, egress(&ctx, Hook::TO_NETWORK))
}

/// On loopback, where the node's own packets to its node ports pass. Only SCTP needs it, as it has no socket hook.
#[classifier]
pub(crate) fn tc_host_egress(ctx: TcContext) -> i32 {
    if !is_sctp(&ctx) {
        return PASS;
    }
    deliver::verdict(&ctx, Hook::LOOPBACK, egress(&ctx, Hook::LOOPBACK))
}

/// Whether it is SCTP, whose packets have no IP options or extension headers.
#[inline(always)]
fn is_sctp(ctx: &TcContext) -> bool {
    let next = match ctx.load::<u16>(12) {
        Ok(ETHERTYPE_IPV4) => ctx.load::<u8>(L3 + 9),
        Ok(ETHERTYPE_IPV6) => ctx.load::<u8>(L3 + 6),
        _ => return false,
    };
    next.is_ok_and(|next| next == Proto::SCTP.0)
}

#[inline(always)]
fn ingress(ctx: &TcContext) -> Result<i32, DropReason> {
    let Some(config) = maps::config() else { return Ok(PASS) };
    // Another interface of this node is on that VLAN.
    if frame::vlan(ctx).is_some_and(|id| id != 0) {
        return Ok(PASS);
    }
    let Some(packet) = parse(ctx, config)? else { return Ok(PASS) };
    let tunnelled = overlay::is_port(config, packet.proto, &packet.destination);
    if tunnelled && cluster::is_node(config, &packet.destination.addr) {
        return to_stack(config, packet);
    }
    let known = conntrack::entry(packet);
    source::of_network(config, packet, known.as_deref())?;
    check_inner_source(ctx, config, packet, known.as_deref())?;
    ports::yields(packet, known.as_deref())?;
    let known = known.and_then(|flow| conntrack::advance(packet, flow));
    let known = known.and_then(|flow| conntrack::unless_bypassed(packet, flow));
    let known = known.filter(|flow| !conntrack::begins(packet) || !translate::is_stale(packet, flow, true));
    let Some(flow) = known else {
        cold_path();
        return open(ctx, config, packet);
    };
    let flags = flow.flags;
    if flags & (Flow::ALIAS | Flow::MASQUERADE | Flow::TRANSIT | Flow::DSR) == 0 {
        return receive(ctx, config, packet, flow);
    }
    if !conntrack::rewrites(flow, packet) {
        return match flags & Flow::DSR {
            0 => to_stack(config, packet),
            _ => dsr::forward(ctx, config, packet, flow),
        };
    }
    nat::apply(ctx, packet, flow)?;
    if flags & Flow::TRANSIT != 0 {
        return Ok(send_out(ctx, config, packet, flags));
    }
    packet.locate();
    match conntrack::find(packet) {
        Some(flow) => receive(ctx, config, packet, flow),
        None => to_local(ctx, config, packet, None),
    }
}

/// A packet of a known flow whose entry has the verdict.
#[inline(always)]
fn receive(
    ctx: &TcContext,
    config: &NodeConfig,
    packet: &mut Packet,
    flow: &mut Flow,
) -> Result<i32, DropReason> {
    policy::revalidate(ctx, flow, packet)?;
    let receiver = conntrack::receiver(flow, packet);
    let translated = conntrack::rewrites(flow, packet) && flow.flags & Flow::MASQUERADE == 0;
    if translated {
        nat::apply(ctx, packet, flow)?;
    }
    if receiver != 0 {
        return Ok(deliver::to_pod(receiver));
    }
    // The kernel would drop an answer from a node port of this node to its own process as a martian on the uplink.
    let own = translated && cluster::is_node(config, &packet.source.addr);
    if own { Ok(deliver::to_host(ctx)) } else { to_stack(config, packet) }
}

/// On to the node's stack. A fragment of another node's tunnelled packet has its entry made here.
#[inline(always)]
fn to_stack(config: &NodeConfig, packet: &Packet) -> Result<i32, DropReason> {
    overlay::admit(config, packet)?;
    fragments::keep(packet);
    Ok(PASS)
}

/// A packet of a new flow from outside this node.
#[inline(always)]
fn open(ctx: &TcContext, config: &NodeConfig, packet: &mut Packet) -> Result<i32, DropReason> {
    icmp::unrelated(packet)?;
    let addressed = packet.destination;
    let service = service::find_from_outside(&addressed, packet.proto);
    let Some(service) = service else {
        if cluster::is_of_services(&addressed.addr) {
            return Err(DropReason::NoService);
        }
        return to_local(ctx, config, packet, None);
    };
    // Each node serves its own pods; a name server for others would be an open one.
    if service.flags & ServiceValue::NODE != 0 {
        packet.service = service.service;
        return Err(DropReason::NoBackend);
    }
    let chance = maglev::slot(service, packet);
    let Some(backend) = service::resolve(packet, service, chance)? else {
        return translate::reject(ctx, Hook::FROM_NETWORK, packet, || deliver::to_sender(ctx, config));
    };
    if cluster::is_node(config, &backend.addr) {
        return match host::receive(ctx, config, packet, &backend, service.service) {
            DropReason::None => {
                translate::put_translated(ctx, packet, conntrack::last_fresh()?, &addressed)?;
                report::opened(ctx, Hook::FROM_NETWORK);
                Ok(PASS)
            }
            reason => Err(reason),
        };
    }
    if cluster::pod(&backend.addr).is_none() {
        if service.flags & ServiceValue::DSR != 0
            && let Some(action) = dsr::open(ctx, config, packet, &backend)?
        {
            report::opened(ctx, Hook::FROM_NETWORK);
            return Ok(action);
        }
        return transit(ctx, config, packet, &backend);
    }
    translate::put_alias(packet, &backend, 0)?;
    nat::set_destination(ctx, packet, &backend)?;
    packet.locate();
    to_local(ctx, config, packet, Some((addressed, service.service)))
}

/// Through the overlay come packets of other nodes and their pods, and under direct server return those of clients, in known flows
/// as in new ones.
#[inline(always)]
fn check_inner_source(
    ctx: &TcContext,
    config: &NodeConfig,
    packet: &Packet,
    known: Option<&Flow>,
) -> Result<(), DropReason> {
    if !deliver::came_by_overlay(ctx, config, packet) {
        return Ok(());
    }
    // The other end of a local pod is in the cluster.
    let is_remote = known.is_some_and(|flow| flow.flags & (Flow::REMOTE | Flow::TRANSIT) == Flow::REMOTE);
    let source = &packet.source.addr;
    if is_remote || cluster::contains(source) || cluster::is_other_node(source) {
        return Ok(());
    }
    let service = service::find_from_outside(&packet.destination, packet.proto);
    let direct = service.is_some_and(|service| service.flags & ServiceValue::DSR != 0);
    if direct { Ok(()) } else { Err(DropReason::Spoofed) }
}

/// A new flow to a pod of this node, or else to the node's stack.
#[inline(always)]
fn to_local(
    ctx: &TcContext,
    config: &NodeConfig,
    packet: &mut Packet,
    addressed: Option<(SocketAddr, u32)>,
) -> Result<i32, DropReason> {
    if cluster::pod(&packet.destination.addr).is_none() {
        return to_stack(config, packet);
    }
    icmp::unrelated(packet)?;
    let decision = policy::decide(packet, &packet.source, &packet.destination);
    let opened = policy::open(ctx, packet, &decision);
    if let (Err(_), Some((addressed, _))) = (&opened, &addressed) {
        translate::remove_alias(packet, addressed);
    }
    let flow = opened?;
    // A packet to a frontend was only forwarded by the other node, and its answers do not go back there.
    if addressed.is_none() && flow.flags & Flow::REMOTE == 0 && deliver::came_by_overlay(ctx, config, packet)
    {
        flow.flags |= Flow::OVERLAY;
    }
    if let Some((addressed, service)) = addressed {
        flow.service = service;
        translate::put_translated(ctx, packet, flow, &addressed)?;
    } else {
        conntrack::replace(packet, flow);
    }
    report::opened(ctx, Hook::FROM_NETWORK);
    Ok(deliver::to_pod(decision.target_ifindex))
}

/// A new flow to a backend on another node: both ends are rewritten, so that the answers come back here.
#[inline(always)]
fn transit(
    ctx: &TcContext,
    config: &NodeConfig,
    packet: &mut Packet,
    backend: &SocketAddr,
) -> Result<i32, DropReason> {
    overlay::refuse(config, packet.proto, backend)?;
    let remote = cluster::contains(&backend.addr);
    // Other nodes know the node by its first address.
    let node = match remote {
        true => cluster::node_addr(config, packet),
        false => cluster::addr_towards(ctx, config, packet, &backend.addr),
    };
    let node = node.ok_or(DropReason::NoPort)?;
    let forward_flags = if remote { Flow::REMOTE } else { 0 };
    let nat = FullNat {
        source: node,
        backend: *backend,
        flags: Flow::TRANSIT,
        forward_flags,
        ifindex: 0,
        generation: 0,
    };
    nat::open_and_rewrite(ctx, packet, &nat)?;
    report::opened(ctx, Hook::FROM_NETWORK);
    Ok(send_out(ctx, config, packet, forward_flags))
}

/// Forwards a packet in transit: to another node's pod, or back to the client.
#[inline(always)]
fn send_out(ctx: &TcContext, config: &NodeConfig, packet: &Packet, flags: u32) -> i32 {
    if flags & Flow::REMOTE != 0 {
        deliver::to_remote(ctx, config, packet)
    } else {
        deliver::to_uplink(ctx, config, packet)
    }
}

#[inline(always)]
fn egress(ctx: &TcContext, hook: Hook) -> Result<i32, DropReason> {
    let Some(config) = maps::config() else { return Ok(PASS) };
    // The hook of the VLAN's own interface has done its part.
    if frame::vlan(ctx).is_some_and(|id| id != 0) {
        return Ok(PASS);
    }
    let Some(packet) = parse(ctx, config)? else { return Ok(PASS) };
    fragments::keep(packet);
    if cluster::is_node(config, &packet.source.addr) {
        return host::send(ctx, hook, config, packet);
    }
    let Some(flow) = conntrack::find(packet) else {
        cold_path();
        return leave_without_entry(packet);
    };
    if conntrack::sender(flow, packet) == 0 || flow.flags & Flow::REMOTE != 0 {
        return Ok(PASS);
    }
    if flow.flags & Flow::MASQUERADE == 0 {
        cold_path();
        // The hook of the pod translates what addresses a frontend, so this packet is not of the alias's flow. A source of the node
        // in the alias would have the next one leave as the node's own, under no policy.
        if flow.flags & Flow::ALIAS != 0 {
            return leave_without_entry(packet);
        }
        if cluster::keeps_source(&packet.destination.addr) {
            return Ok(PASS);
        }
        masquerade(ctx, config, packet, flow)?;
    }
    if flow.flags & Flow::MASQUERADE != 0 && conntrack::rewrites(flow, packet) {
        nat::apply(ctx, packet, flow)?;
    }
    Ok(PASS)
}

/// A packet that the node forwards to the network without an entry. The hook of a pod has made one for each of its packets: if
/// that is gone, the pod's own address stays inside all the same.
#[inline(always)]
fn leave_without_entry(packet: &Packet) -> Result<i32, DropReason> {
    let inside =
        cluster::keeps_source(&packet.destination.addr) || cluster::pod(packet.sender_addr()).is_none();
    if inside { Ok(PASS) } else { Err(DropReason::NoPort) }
}

/// Gives the flow a source address of the node, and puts the entry that rewrites the answers.
#[inline(always)]
fn masquerade(
    ctx: &TcContext,
    config: &NodeConfig,
    packet: &Packet,
    flow: &mut Flow,
) -> Result<(), DropReason> {
    // An answer of the pod to a client from outside keeps its source.
    if (flow.flags & Flow::FROM_HIGH != 0) != packet.from_high() || flow.flags & Flow::SOURCE != 0 {
        return Ok(());
    }
    icmp::unrelated(packet)?;
    let node = cluster::uplink_addr(config, packet, interface::here(ctx)).ok_or(DropReason::NoPort)?;
    let port = claim(packet, &node)?;
    conntrack::confirm(packet, flow)?;
    flow.source = SocketAddr { port, ..node };
    flow.flags |= Flow::MASQUERADE | Flow::SOURCE;
    if packet.from_high() {
        flow.flags |= Flow::REWRITE_HIGH;
    }
    Ok(())
}

/// Claims the node's end of a flow of a pod. A protocol without ports has one flow of all pods to a remote end. ICMP messages
/// that are no queries have no answers: a claim would take from the node what is about its own flows.
#[inline(always)]
fn claim(packet: &Packet, node: &SocketAddr) -> Result<Be16, DropReason> {
    if packet.is_icmp() && !packet.has_ports() {
        return Ok(packet.source.port);
    }
    let answers = conntrack::fresh(Flow::MASQUERADE | Flow::DESTINATION)?;
    answers.destination = packet.source;
    if !packet.has_ports() {
        let claimed = ports::claim_address(node, &packet.destination, packet.proto, answers);
        return if claimed { Ok(packet.source.port) } else { Err(DropReason::NoPort) };
    }
    let own = packet.source.port;
    let claimed = ports::claim(own, node, &packet.destination, packet.proto, answers, PORT_TRIES);
    claimed.map(|source| source.port).ok_or(DropReason::NoPort)
}
