//! The host side of a pod's veth. `tc_pod_egress`: from the pod. `tc_pod_ingress`: from the node's stack to the pod.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use skep_abi::{Addr, Be16, DropReason, End, Flow, NodeConfig, Proto};

use crate::conntrack;
use crate::deliver::{self, PASS};
use crate::maps::CONNTRACK;
use crate::nat::Relay;
use crate::parse::{Packet, parse};
use crate::{bandwidth, closing, delay, icmp, nat, policy, report, service};

/// Ingress hook of the host side: packets that the pod sends.
#[classifier]
pub(crate) fn tc_pod_egress(ctx: TcContext) -> i32 {
    deliver::verdict(delay::early(&ctx, egress(&ctx)))
}

/// Egress hook of the host side: packets that the node's stack sends to the pod.
#[classifier]
pub(crate) fn tc_pod_ingress(ctx: TcContext) -> i32 {
    deliver::verdict(ingress(&ctx))
}

#[inline(always)]
fn egress(ctx: &TcContext) -> Result<i32, DropReason> {
    let Some(config) = report::config() else { return Ok(PASS) };
    let Some(packet) = parse(ctx)? else { return Ok(PASS) };
    let mut found = conntrack::find(packet);
    if let Some(flow) = &found {
        check_source(ctx, flow, config, packet)?;
        if let Some(action) = bandwidth::wait(ctx, packet, flow.flags)? {
            return Ok(action);
        }
        if flow.flags & Flow::ALIAS != 0 && conntrack::rewrites(flow, packet) {
            if leads_nowhere(packet, flow) {
                found = None;
            } else {
                nat::apply(ctx, packet, flow)?;
                packet.locate();
                found = conntrack::find(packet);
            }
        } else if conntrack::is_other(flow, packet) || conntrack::begins(packet) && was_unknown(packet, flow)
        {
            found = None;
        }
    }
    match found {
        Some(flow) => forward(ctx, config, packet, flow),
        None => open(ctx, config, packet),
    }
}

/// A pod may send only from its own address. The check stands in the entry under the present generation.
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

#[inline(always)]
fn owns(ifindex: u32, packet: &Packet) -> Result<(), DropReason> {
    match policy::pod(packet.sent_by()) {
        Some(pod) if pod.ifindex == ifindex => Ok(()),
        _ => Err(DropReason::Spoofed),
    }
}

#[inline(always)]
fn interface(ctx: &TcContext) -> u32 {
    // SAFETY: the context is the kernel's; `ifindex` is a field that every classifier may read.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// A packet of a known flow: verdict of this generation, rewriting, the shortest way.
#[inline(always)]
fn forward(
    ctx: &TcContext,
    config: &NodeConfig,
    packet: &mut Packet,
    flow: &mut Flow,
) -> Result<i32, DropReason> {
    policy::renew(ctx, config, flow, packet)?;
    let translated = conntrack::rewrites(flow, packet) && flow.flags & Flow::MASQUERADE == 0;
    let (receiver, flags) = (conntrack::receiver(flow, packet), flow.flags);
    if translated {
        nat::apply(ctx, packet, flow)?;
    } else if closing::concerns(packet, flow) {
        closing::close(ctx, packet, flow);
    }
    Ok(onward(ctx, config, packet, receiver, flags, translated))
}

/// The shortest way to the other end.
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
        // The node's stack would take a source of its own for a martian.
        if policy::is_node(config, &packet.source.addr) {
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
            return refuse(ctx, packet, || deliver::to_pod(interface(ctx)));
        };
        if backend.addr == packet.source.addr {
            return hairpin(ctx, config, packet, &backend);
        }
        remember(config, packet, &backend, interface(ctx))?;
        nat::set_destination(ctx, packet, &backend)?;
        packet.locate();
    }
    let id = service.map_or(0, |service| service.service);
    let decision = policy::decide(config, &packet.source, &packet.destination, packet.proto);
    report::decided(config, packet, decision.reason, decision.policy, id);
    let opened = policy::opened(ctx, config, packet, &decision);
    if service.is_some() && opened.is_err() {
        forget(packet, &addressed);
    }
    let flow = opened?;
    flow.service = id;
    if service.is_some() {
        translated(ctx, packet, flow, &addressed)?;
    } else {
        conntrack::replace(packet, flow);
    }
    // What was just opened is rewritten in the other direction only.
    let (receiver, flags) = (conntrack::receiver(flow, packet), flow.flags);
    Ok(onward(ctx, config, packet, receiver, flags, false))
}

/// To itself through a service: it sees the service as its peer, since a packet from its own address it would not take.
#[inline(always)]
fn hairpin(
    ctx: &TcContext,
    config: &NodeConfig,
    packet: &mut Packet,
    backend: &End,
) -> Result<i32, DropReason> {
    let ifindex = interface(ctx);
    let kind = Flow::HAIRPIN | bandwidth::flag(policy::pod(&backend.addr), None);
    bandwidth::take_first(ctx, packet, kind)?;
    let relay = Relay {
        node: packet.destination,
        backend: *backend,
        kind,
        onward: 0,
        ifindex,
        generation: Flow::stamp(config.generation, kind),
    };
    match nat::relay(ctx, packet, &relay) {
        DropReason::None => Ok(deliver::to_pod(ifindex)),
        reason => Err(reason),
    }
}

/// Sends the client its refusal by `back`, and counts the packet as dropped.
#[inline(always)]
pub(crate) fn refuse(
    ctx: &TcContext,
    packet: &Packet,
    back: impl FnOnce() -> i32,
) -> Result<i32, DropReason> {
    if !crate::refuse::refuse(ctx, packet) {
        return Err(DropReason::NoBackend);
    }
    report::dropped(DropReason::NoBackend);
    Ok(back())
}

/// Whether the flow was opened to an address that had no service yet and has one now.
#[inline(never)]
fn was_unknown(packet: &Packet, flow: &Flow) -> bool {
    flow.flags & (Flow::ALIAS | Flow::HAIRPIN) == 0
        && service::find_any(&packet.destination, packet.proto).is_some()
}

/// Whether a connection begins where an earlier one left an alias behind, whose own entry is gone. The alias goes too, and
/// the connection may go to another backend.
#[inline(never)]
pub(crate) fn leads_nowhere(packet: &mut Packet, alias: &Flow) -> bool {
    if !conntrack::begins(packet) {
        return false;
    }
    let (source, destination) = (packet.source, packet.destination);
    if alias.flags & Flow::SOURCE != 0 {
        packet.source = alias.source;
    }
    packet.destination = alias.destination;
    packet.locate();
    let gone = conntrack::entry(packet).is_none();
    (packet.source, packet.destination) = (source, destination);
    packet.locate();
    if gone {
        let _ = CONNTRACK.remove(&packet.key);
    }
    gone
}

/// The entry under which later packets of a translated flow find their backend.
#[inline(always)]
pub(crate) fn remember(
    config: &NodeConfig,
    packet: &Packet,
    to: &End,
    sender: u32,
) -> Result<(), DropReason> {
    let limited = if sender == 0 { 0 } else { bandwidth::flag(policy::pod(&packet.source.addr), None) };
    let alias = conntrack::fresh(Flow::ALIAS | Flow::DESTINATION | limited)?;
    alias.generation = config.generation;
    alias.destination = *to;
    if packet.from_high() {
        alias.flags |= Flow::FROM_HIGH | Flow::REWRITE_HIGH;
        alias.high_ifindex = sender;
    } else {
        alias.low_ifindex = sender;
    }
    conntrack::replace(packet, alias);
    Ok(())
}

/// Takes back what [`remember`] put, as the flow may not be. The client tries again from the same port, and then its flow
/// has to be opened as one to what it addressed.
#[inline(never)]
pub(crate) fn forget(packet: &mut Packet, addressed: &End) {
    packet.destination = *addressed;
    packet.locate();
    let _ = CONNTRACK.remove(&packet.key);
}

/// Puts the entry of a translated flow: its answers come from what the client addressed.
#[inline(always)]
pub(crate) fn translated(
    ctx: &TcContext,
    packet: &mut Packet,
    flow: &mut Flow,
    addressed: &End,
) -> Result<(), DropReason> {
    flow.source = *addressed;
    flow.flags |= Flow::SOURCE;
    if !packet.from_high() {
        flow.flags |= Flow::REWRITE_HIGH;
    }
    if conntrack::put(&packet.key, flow, BPF_NOEXIST) {
        return Ok(());
    }
    match put_beside(ctx, packet, flow, addressed) {
        DropReason::None => Ok(()),
        reason => Err(reason),
    }
}

/// Puts the entry where there is one already.
#[inline(never)]
fn put_beside(ctx: &TcContext, packet: &mut Packet, flow: &mut Flow, addressed: &End) -> DropReason {
    match conntrack::entry(packet) {
        Some(other) if conntrack::differs(other, packet, addressed) => {}
        _ => {
            conntrack::replace(packet, flow);
            return DropReason::None;
        }
    }
    let Some(port) = apart(packet, flow, addressed) else {
        forget(packet, addressed);
        return DropReason::NoPort;
    };
    if let Err(reason) = nat::set_source(ctx, packet, &End { port, ..packet.source }) {
        return reason;
    }
    packet.locate();
    DropReason::None
}

/// A client may have one port for connections to two services. Where both lead to one backend, the second one gets a port
/// of its own there, as from netfilter.
#[inline(always)]
fn apart(packet: &mut Packet, flow: &mut Flow, addressed: &End) -> Option<Be16> {
    flow.destination = packet.source;
    flow.flags |= Flow::DESTINATION;
    let port = nat::claim(&packet.source, &packet.destination, packet.proto, flow, nat::PORT_TRIES)?;
    lead(packet, addressed, port);
    Some(port)
}

/// Has later packets to what was addressed come from the port too.
#[inline(never)]
fn lead(packet: &mut Packet, addressed: &End, port: Be16) {
    packet.destination = *addressed;
    packet.locate();
    if let Some(alias) = conntrack::entry(packet) {
        alias.source = End { port, ..packet.source };
        alias.flags |= Flow::SOURCE;
        packet.destination = alias.destination;
    }
}

/// Router and neighbour discovery (RFC 4861) with the node; its addresses are link-local or unspecified.
#[inline(always)]
fn is_neighbour_discovery(packet: &Packet) -> bool {
    let source = packet.source.addr.0;
    let link_local = source[0] & 0xffc0_0000_u32.to_be() == 0xfe80_0000_u32.to_be();
    packet.proto == Proto::ICMPV6 && (link_local || packet.source.addr == Addr::UNSPECIFIED)
}

#[inline(always)]
fn ingress(ctx: &TcContext) -> Result<i32, DropReason> {
    let Some(config) = report::config() else { return Ok(PASS) };
    let Some(packet) = parse(ctx)? else { return Ok(PASS) };
    let Some(flow) = conntrack::find(packet) else { return admit(ctx, config, packet) };
    policy::renew(ctx, config, flow, packet)?;
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
    let flow = policy::opened(ctx, config, packet, &decision)?;
    conntrack::replace(packet, flow);
    Ok(PASS)
}
