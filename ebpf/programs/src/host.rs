//! Flows of the node's own processes.
//!
//! In: a packet from outside whose backend is a process of this node; a packet that such a process sends. Out: the
//! translated packet, and where it goes. New flows of a process are translated here for SCTP only, which has no socket
//! hook.

use aya_ebpf::programs::TcContext;
use skep_abi::{DropReason, Flow, Hook, NodeConfig, Proto, SocketAddr};

use crate::conntrack;
use crate::deliver::{self, PASS};
use crate::maps::CONNTRACK;
use crate::packet::Packet;
use crate::{bandwidth, cluster, icmp, interface, nat, overlay, report, service, translate};

/// A new flow from outside to a process of this node, which sees the client's own address. The flow's entry is filled and
/// not yet put: see [`conntrack::last_fresh`].
#[inline(never)]
pub(crate) fn receive(
    ctx: &TcContext,
    config: &NodeConfig,
    packet: &mut Packet,
    backend: &SocketAddr,
    service: u32,
) -> DropReason {
    match to_backend(ctx, config, packet, backend, service) {
        Ok(()) => DropReason::None,
        Err(reason) => reason,
    }
}

/// Rewrites the packet to the backend, and puts the alias that does so for further packets.
#[inline(always)]
fn to_backend(
    ctx: &TcContext,
    config: &NodeConfig,
    packet: &mut Packet,
    backend: &SocketAddr,
    service: u32,
) -> Result<(), DropReason> {
    overlay::refuse(config, packet.proto, backend)?;
    translate::put_alias(packet, backend, 0)?;
    nat::set_destination(ctx, packet, backend)?;
    packet.locate();
    let pod = cluster::pod(&backend.addr);
    let limited = bandwidth::flag(None, pod);
    let pod = pod.map_or(0, |pod| pod.ifindex);
    let high = packet.from_high();
    let flow = conntrack::fresh(Flow::NODE | limited | if high { Flow::FROM_HIGH } else { 0 })?;
    flow.generation = Flow::stamp(packet.generation, limited);
    flow.service = service;
    (flow.low_ifindex, flow.high_ifindex) = if high { (pod, 0) } else { (0, pod) };
    Ok(())
}

/// A packet from the node's own address on its way out.
#[inline(always)]
pub(crate) fn send(
    ctx: &TcContext,
    hook: Hook,
    config: &NodeConfig,
    packet: &mut Packet,
) -> Result<i32, DropReason> {
    // Another host sent the packet.
    if interface::came_by(ctx) != 0 {
        return Ok(PASS);
    }
    let Some(flow) = conntrack::find(packet) else {
        // The socket hooks have translated what addresses a service.
        if packet.proto != Proto::SCTP && cluster::is_of_services(&packet.destination.addr) {
            return Err(DropReason::NoService);
        }
        return if packet.proto == Proto::SCTP { open(ctx, hook, config, packet) } else { Ok(PASS) };
    };
    let flags = flow.flags;
    // Without ports nothing tells the node's flow from the one that a pod has under the node's address.
    if flags & Flow::MASQUERADE != 0 && !packet.has_ports() {
        let _ = CONNTRACK.remove(&packet.key);
        return Ok(PASS);
    }
    if flags & (Flow::TRANSIT | Flow::MASQUERADE) != 0 || !conntrack::rewrites(flow, packet) {
        return Ok(PASS);
    }
    nat::apply(ctx, packet, flow)?;
    Ok(if flags & Flow::ALIAS != 0 { onward(ctx, config, packet) } else { PASS })
}

/// A packet of a new flow; it may address a service.
#[inline(always)]
fn open(ctx: &TcContext, hook: Hook, config: &NodeConfig, packet: &mut Packet) -> Result<i32, DropReason> {
    icmp::unrelated(packet)?;
    let addressed = packet.destination;
    let Some(service) = service::find_any(&packet.destination, packet.proto) else {
        return Ok(PASS);
    };
    let Some(backend) = service::resolve(packet, service, service::random())? else {
        return translate::reject(ctx, hook, packet, || deliver::to_host(ctx));
    };
    to_backend(ctx, config, packet, &backend, service.service)?;
    translate::put_translated(ctx, packet, conntrack::last_fresh()?, &addressed)?;
    report::opened(ctx, hook);
    Ok(onward(ctx, config, packet))
}

/// Sends the packet to the backend: the kernel's route is one to the frontend.
#[inline(always)]
fn onward(ctx: &TcContext, config: &NodeConfig, packet: &Packet) -> i32 {
    let to = &packet.destination.addr;
    if let Some(pod) = cluster::pod(to) {
        return deliver::to_interface(pod.ifindex);
    }
    if cluster::is_node(config, to) {
        return deliver::to_host(ctx);
    }
    if cluster::contains(to) {
        deliver::to_remote(ctx, config, packet)
    } else {
        deliver::to_uplink(ctx, config, packet)
    }
}
