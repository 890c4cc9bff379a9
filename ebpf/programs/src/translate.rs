//! Service translation of a new flow.
//!
//! In: a packet that a client addressed to a frontend, and its backend. Out: two entries. The alias, under what the client
//! addressed, rewrites further packets to the backend; the flow's own entry, under what the backend sees, holds the verdict
//! and rewrites the answers.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::programs::TcContext;
use skep_abi::logic::flow_key::is_higher;
use skep_abi::logic::lifetime::copy;
use skep_abi::{DropReason, Flow, Hook, NodeConfig, Proto, ServiceValue, SocketAddr};

use crate::maps::CONNTRACK;
use crate::packet::Packet;
use crate::ports::{self, PORT_TRIES};
use crate::{bandwidth, cluster, conntrack, nat, node_socket, reject, report, service};

/// Turns the packet into the answer that rejects it, delivered by `back`, and counts and reports a drop.
#[inline(always)]
pub(crate) fn reject(
    ctx: &TcContext,
    hook: Hook,
    packet: &Packet,
    back: impl FnOnce() -> i32,
) -> Result<i32, DropReason> {
    if !reject::answer(ctx, packet) {
        return Err(DropReason::NoBackend);
    }
    report::dropped(ctx, hook, DropReason::NoBackend);
    Ok(back())
}

/// Of a packet that begins a connection: whether the entry leads an earlier one to a backend that the frontend no longer has,
/// or is an alias whose flow's own entry is gone. Then the new connection may go to another backend.
#[inline(always)]
pub(crate) fn is_stale(packet: &mut Packet, flow: &Flow, from_outside: bool) -> bool {
    let translates = flow.flags & (Flow::ALIAS | Flow::TRANSIT | Flow::HAIRPIN) != 0;
    if !translates || !conntrack::rewrites(flow, packet) {
        return false;
    }
    let addressed = &packet.destination;
    let service = match from_outside {
        true => service::find_from_outside(addressed, packet.proto),
        false => service::find_any(addressed, packet.proto),
    };
    leads_nowhere(packet, flow, service)
}

/// Whether the frontend has lost the entry's backend, or the alias its entry.
#[inline(never)]
fn leads_nowhere(packet: &mut Packet, flow: &Flow, service: Option<&ServiceValue>) -> bool {
    let backend = |service| service::member(service, &service::backend_of(service, &flow.destination));
    if service.and_then(backend).is_none() {
        let _ = CONNTRACK.remove(&packet.key);
        return true;
    }
    flow.flags & Flow::ALIAS != 0 && is_alone(packet, flow)
}

/// Whether the alias leads to no entry; then it is removed.
#[inline(always)]
fn is_alone(packet: &mut Packet, alias: &Flow) -> bool {
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

/// Puts the alias. `sender` is the host-side interface of the client if it is a pod of this node, or else 0.
#[inline(always)]
pub(crate) fn put_alias(packet: &Packet, to: &SocketAddr, sender: u32) -> Result<(), DropReason> {
    let limited = if sender == 0 { 0 } else { bandwidth::flag(cluster::pod(&packet.source.addr), None) };
    let alias = conntrack::fresh(Flow::ALIAS | Flow::DESTINATION | limited)?;
    alias.generation = packet.generation;
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

/// Removes the alias of a flow that was denied. The client may retry from the same port, and its flow then has to be
/// opened as one to what it addressed.
#[inline(never)]
pub(crate) fn remove_alias(packet: &mut Packet, addressed: &SocketAddr) {
    let backend = packet.destination;
    packet.destination = *addressed;
    packet.locate();
    let _ = CONNTRACK.remove(&packet.key);
    packet.destination = backend;
}

/// Puts the flow's own entry: its answers come from what the client addressed.
#[inline(always)]
pub(crate) fn put_translated(
    ctx: &TcContext,
    packet: &mut Packet,
    flow: &mut Flow,
    addressed: &SocketAddr,
) -> Result<(), DropReason> {
    flow.source = *addressed;
    flow.flags |= Flow::SOURCE;
    if !packet.from_high() {
        flow.flags |= Flow::REWRITE_HIGH;
    }
    let is_free = flow.flags & Flow::NODE == 0
        || packet.proto != Proto::TCP
        || !node_socket::has_connection(ctx, packet);
    if is_free && (conntrack::put(&packet.key, flow, BPF_NOEXIST) || displaces(packet, flow, addressed)) {
        return Ok(());
    }
    // A client may use one port for connections to two services, or to a service and to its backend; if both have the same
    // backend, the second connection needs another port there. Netfilter does the same.
    let client = packet.source;
    claim_source(ctx, packet, flow, addressed, &client)
}

/// Puts the entry under a key that is taken by none or by an old flow. False: it is that of an open flow to another frontend.
#[inline(never)]
fn displaces(packet: &Packet, flow: &mut Flow, addressed: &SocketAddr) -> bool {
    // A flow of the node with itself gets no other port: the order of its key's ends would depend on it.
    let is_own = packet.source.addr == packet.destination.addr;
    let other = if is_own { None } else { conntrack::entry(packet) };
    if other.is_some_and(|other| conntrack::is_of_other_frontend(other, packet, addressed)) {
        return false;
    }
    conntrack::replace(packet, flow);
    true
}

/// Puts the entry of a pod's flow to an endpoint outside the cluster, under the node's address and a port of it, and makes the
/// alias rewrite both ends.
#[inline(always)]
pub(crate) fn put_outside(
    ctx: &TcContext,
    config: &NodeConfig,
    packet: &mut Packet,
    flow: &mut Flow,
    addressed: &SocketAddr,
) -> Result<(), DropReason> {
    let node = cluster::addr_towards(ctx, config, packet, &packet.destination.addr);
    let node = node.ok_or(DropReason::NoPort)?;
    flow.source = *addressed;
    flow.flags |= Flow::SOURCE | Flow::OUTSIDE;
    if is_higher(&node, &packet.destination) != packet.from_high() {
        (flow.low_ifindex, flow.high_ifindex) = (flow.high_ifindex, flow.low_ifindex);
    }
    claim_source(ctx, packet, flow, addressed, &node)
}

/// Claims a port of the `local` address as the source of the flow, the client's own address or the node's, and gives the packet
/// that source.
#[inline(always)]
fn claim_source(
    ctx: &TcContext,
    packet: &mut Packet,
    flow: &mut Flow,
    addressed: &SocketAddr,
    local: &SocketAddr,
) -> Result<(), DropReason> {
    flow.destination = packet.source;
    flow.flags |= Flow::DESTINATION;
    let own = packet.source.port;
    let Some(source) = ports::claim(own, local, &packet.destination, packet.proto, flow, PORT_TRIES) else {
        remove_alias(packet, addressed);
        return Err(DropReason::NoPort);
    };
    match set_source(ctx, packet, addressed, source) {
        DropReason::None => Ok(()),
        reason => Err(reason),
    }
}

/// Makes the alias rewrite the source of further packets too, and rewrites that of this packet.
#[inline(never)]
fn set_source(
    ctx: &TcContext,
    packet: &mut Packet,
    addressed: &SocketAddr,
    source: &SocketAddr,
) -> DropReason {
    copy(&mut packet.destination, &addressed.addr, addressed.port);
    packet.locate();
    if let Some(alias) = conntrack::entry(packet) {
        copy(&mut alias.source, &source.addr, source.port);
        alias.flags |= Flow::SOURCE;
        copy(&mut packet.destination, &alias.destination.addr, alias.destination.port);
    }
    if let Err(reason) = nat::set_source(ctx, packet, source) {
        return reason;
    }
    packet.locate();
    DropReason::None
}
