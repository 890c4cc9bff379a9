//! The node's uplink before there is an skb: flows from the outside to other nodes' pods, and their answers.
//!
//! `xdp_node` sends such a packet back out of the interface that it came from. Whatever it does not know for certain
//! goes up to `tc_node_ingress`, which does all this too and shares the flows' entries; nothing is dropped here.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup, xdp_action};
use aya_ebpf::helpers::generated::bpf_fib_lookup as find_route;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use skep_abi::{Addr, End, Flow, Scope};

use super::tc_node::node_end;
use crate::frame::{Frame, Mac};
use crate::nat::Relay;
use crate::parse::Packet;
use crate::{conntrack, maglev, nat, policy, report, service};

/// Ports that are tried for a flow before it is left to TC, which tries more.
const PORT_TRIES: u32 = 4;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// In the driver.
#[xdp(frags)]
pub(crate) fn xdp_node(ctx: XdpContext) -> u32 {
    verdict(&ctx)
}

/// Behind the driver. To a program for frames of several buffers Linux 6.9 and later give a copy of the skb there whose
/// `mac_len` is 0 (`skb_pp_cow_data`), and TC then takes the IP header for an Ethernet header.
#[xdp]
pub(crate) fn xdp_node_generic(ctx: XdpContext) -> u32 {
    verdict(&ctx)
}

#[inline(always)]
fn verdict(ctx: &XdpContext) -> u32 {
    let sent = match Frame::new(ctx).is_v4() {
        Some(true) => forward::<true>(ctx),
        Some(false) => forward::<false>(ctx),
        None => None,
    };
    if sent.is_some() { xdp_action::XDP_TX } else { xdp_action::XDP_PASS }
}

/// `None`: the packet goes up, untouched.
#[inline(never)]
fn forward<const V4: bool>(ctx: &XdpContext) -> Option<()> {
    let frame = &Frame::new(ctx);
    let config = report::config()?;
    // With an overlay, other nodes' pods are not reached by the uplink as such.
    if (if V4 { config.overlay_v4 } else { config.overlay_v6 }) != 0 {
        return None;
    }
    let packet = frame.packet::<V4>()?;
    let flow = match conntrack::entry(packet) {
        Some(flow) if !conntrack::reopens(packet, flow) => known(packet, flow)?,
        _ => open(packet)?,
    };
    let macs = next_hop::<V4>(ctx, frame, packet, flow)?;
    frame.rewrite::<V4>(packet, flow, macs)
}

/// A known flow, if it is one that passes through.
#[inline(always)]
fn known(packet: &Packet, flow: &'static mut Flow) -> Option<&'static Flow> {
    if flow.flags & Flow::TRANSIT == 0 || !conntrack::rewrites(flow, packet) {
        return None;
    }
    conntrack::touch(packet, flow);
    Some(flow)
}

/// A new flow to a backend elsewhere. Flags that are not known here ask for more than that, and so do affinity and
/// source ranges.
#[inline(never)]
fn open(packet: &mut Packet) -> Option<&'static Flow> {
    let service = service::find(&packet.destination, packet.proto, Scope::EXTERNAL)?;
    if service.count == 0 || service.flags != 0 || service.affinity != 0 || service.ranges != 0 {
        return None;
    }
    let config = report::config()?;
    let backend = service::slot(service, maglev::slot(service, packet))?;
    let here = |addr: &Addr| policy::is_node(config, addr) || policy::pod(addr).is_some();
    if here(&backend.addr) || here(&packet.source.addr) {
        return None;
    }
    let node = node_end(config, packet)?;
    let onward = if policy::in_cluster(&backend.addr) { Flow::REMOTE } else { 0 };
    let backend = End { addr: backend.addr, port: backend.port, reserved: 0 };
    let relay = Relay { node, backend, kind: Flow::TRANSIT, onward, ifindex: 0, generation: 0 };
    nat::open(packet, &relay, PORT_TRIES).ok()
}

/// The MACs for the way out: destination and source. `None`: another interface, no neighbour yet, too large, no
/// route, or a frame that was not for this node's MAC in the first place.
#[inline(always)]
fn next_hop<const V4: bool>(
    ctx: &XdpContext,
    frame: &Frame,
    packet: &Packet,
    flow: &Flow,
) -> Option<[Mac; 2]> {
    // SAFETY: integers and unions of them, for which zeros are values.
    let mut route: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    let arrived = ctx.ingress_ifindex() as u32;
    route.l4_protocol = packet.proto.0;
    route.sport = flow.source.port.0;
    route.dport = flow.destination.port.0;
    route.__bindgen_anon_1.tot_len = frame.ip_len::<V4>();
    route.ifindex = arrived;
    if V4 {
        route.family = AF_INET;
        route.__bindgen_anon_3.ipv4_src = flow.source.addr.v4_word();
        route.__bindgen_anon_4.ipv4_dst = flow.destination.addr.v4_word();
    } else {
        route.family = AF_INET6;
        route.__bindgen_anon_3.ipv6_src = flow.source.addr.0;
        route.__bindgen_anon_4.ipv6_dst = flow.destination.addr.0;
    }
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: context and parameters are valid for the call, the size is theirs.
    let result = unsafe { find_route(ctx.as_ptr(), &raw mut route, size, 0) };
    if result != BPF_FIB_LKUP_RET_SUCCESS as i64 || route.ifindex != arrived {
        return None;
    }
    let (next, own) = (Mac::from(route.dmac), Mac::from(route.smac));
    (frame.destination_mac() == own).then_some([next, own])
}
