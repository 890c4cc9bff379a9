//! The node's uplink before there is an skb: flows from the outside to other nodes' pods, and their answers.
//!
//! `xdp_node` sends such a packet back out of the interface that it came from. Whatever it does not know for certain
//! goes up to `tc_node_ingress`, which does all this too and shares the flows' entries; nothing is dropped here.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup, xdp_action};
use aya_ebpf::helpers::generated::bpf_fib_lookup as find_route;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use skep_abi::{Addr, Flow, Scope, SocketAddr};

use crate::frame::Frame;
use crate::nat::Relay;
use crate::packet::Packet;
use crate::{clock, cluster, conntrack, maglev, maps, nat, service};

/// Ports that are tried for a flow before it is left to TC, which tries more.
const PORT_TRIES: u32 = 4;
/// A hop is looked up anew after about a second.
const HOP_TIME_SHIFT: u32 = 20;
const HOP_LIFE: u32 = 954;
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
    let config = maps::config()?;
    // With an overlay, other nodes' pods are not reached by the uplink as such.
    if (if V4 { config.overlay_v4 } else { config.overlay_v6 }) != 0 {
        return None;
    }
    let packet = frame.packet::<V4>()?;
    let now = clock::now_ns();
    let flow = match conntrack::entry(packet) {
        Some(flow) if !conntrack::reopens(packet, flow) => {
            if flow.flags & Flow::TRANSIT == 0 || !conntrack::rewrites(flow, packet) {
                return None;
            }
            flow
        }
        _ => open(packet)?,
    };
    way::<V4>(ctx, frame, packet, flow, now)?;
    conntrack::touch(packet, flow);
    frame.rewrite::<V4>(packet, flow)
}

/// A new flow to a backend elsewhere. Flags that are not known here ask for more than that, and so do affinity and
/// source ranges.
#[inline(never)]
fn open(packet: &mut Packet) -> Option<&'static mut Flow> {
    let service = service::find(&packet.destination, packet.proto, Scope::EXTERNAL)?;
    if service.count == 0 || service.flags != 0 || service.affinity_seconds != 0 || service.ranges != 0 {
        return None;
    }
    let config = maps::config()?;
    let backend = service::slot(service, maglev::slot(service, packet))?;
    let here = |addr: &Addr| cluster::is_node(config, addr) || cluster::pod(addr).is_some();
    if here(&backend.addr) || here(&packet.source.addr) {
        return None;
    }
    let node = cluster::node_addr(config, packet)?;
    let onward = if cluster::contains(&backend.addr) { Flow::REMOTE } else { 0 };
    let backend = SocketAddr::new(backend.addr, backend.port);
    let relay = Relay { node, backend, kind: Flow::TRANSIT, onward, ifindex: 0, generation: 0 };
    nat::open(packet, &relay, PORT_TRIES).ok()
}

/// Sees to it that the flow's next hop is one of not long ago. `None`: the packet is too large for it, or was not for this
/// node's MAC in the first place, or there is no such hop.
///
/// A flow that was silent goes up once instead. Nothing of it can be overtaken then; and TC sends by the neighbour table,
/// so that the kernel asks for a neighbour that it has not heard of for long. Nothing here does that.
#[inline(always)]
fn way<const V4: bool>(
    ctx: &XdpContext,
    frame: &Frame,
    packet: &Packet,
    flow: &mut Flow,
    now: u64,
) -> Option<()> {
    let time = (now >> HOP_TIME_SHIFT) as u32;
    if flow.mtu == 0 || time.wrapping_sub(flow.hop_time) > HOP_LIFE {
        if now.saturating_sub(flow.last_seen) >> HOP_TIME_SHIFT > HOP_LIFE as u64 {
            flow.last_seen = now;
            return None;
        }
        find_hop::<V4>(ctx, frame.ip_len::<V4>(), packet, flow)?;
        flow.hop_time = time;
    }
    (frame.ip_len::<V4>() <= flow.mtu && frame.destination_mac() == flow.hop[1]).then_some(())
}

/// Asks the node's routes and neighbours. `None`: another interface, no neighbour yet, too large, no route.
#[inline(never)]
fn find_hop<const V4: bool>(ctx: &XdpContext, length: u16, packet: &Packet, flow: &mut Flow) -> Option<()> {
    // SAFETY: integers and unions of them, for which zeros are values.
    let mut route: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    let arrived = ctx.ingress_ifindex() as u32;
    route.l4_protocol = packet.proto.0;
    route.sport = flow.source.port.0;
    route.dport = flow.destination.port.0;
    route.__bindgen_anon_1.tot_len = length;
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
    // SAFETY: both members of the union are numbers; the kernel has put the MTU there.
    flow.mtu = unsafe { route.__bindgen_anon_1.mtu_result };
    flow.hop = [mac(route.dmac), mac(route.smac)];
    Some(())
}

#[inline(always)]
fn mac([a, b, c, d, e, f]: [u8; 6]) -> [u16; 3] {
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u16::from_ne_bytes([e, f])]
}
