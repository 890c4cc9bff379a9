//! The node's uplink before there is an skb: flows from outside to other nodes' pods, and their answers.
//!
//! `xdp_node` rewrites such a packet and sends it back out of the interface that it came from. All other packets go up to
//! `tc_node_ingress`, which handles these flows too and shares their entries. Nothing is dropped here.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup, xdp_action};
use aya_ebpf::helpers::generated::bpf_fib_lookup as find_route;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use skep_abi::logic::checksum::Differences;
use skep_abi::{Addr, Flow, NodeConfig, Scope, SocketAddr};

use crate::frame::Frame;
use crate::nat::FullNat;
use crate::packet::Packet;
use crate::{clock, cluster, conntrack, maglev, maps, nat, service};

/// Ports that are tried for a flow; if all are taken, TC tries more.
const MAX_PORT_TRIES: u32 = 4;
/// Unit of [`Flow::hop_time`]: 2^20 nanoseconds.
const HOP_TIME_SHIFT: u32 = 20;
/// A next hop is looked up again after this time, in that unit: one second.
const MAX_HOP_AGE: u32 = 954;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// For XDP in the driver.
#[xdp(frags)]
pub(crate) fn xdp_node(ctx: XdpContext) -> u32 {
    verdict(&ctx)
}

/// For generic XDP, after the driver. There Linux 6.9 and later give a program for multi-buffer frames a copy of the skb
/// whose `mac_len` is 0 (`skb_pp_cow_data`), and TC would take the IP header for an Ethernet header. So this program takes
/// linear frames only.
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

/// `None`: the packet goes up unchanged.
#[inline(never)]
fn forward<const V4: bool>(ctx: &XdpContext) -> Option<()> {
    let frame = &Frame::new(ctx);
    let config = maps::config()?;
    // With an overlay, packets to other nodes' pods need encapsulation.
    if (if V4 { config.overlay_v4 } else { config.overlay_v6 }) != 0 {
        return None;
    }
    let packet = frame.packet::<V4>()?;
    let flow = match conntrack::entry(packet) {
        Some(flow) if !conntrack::reopens(packet, flow) => {
            // TC looks whether the frontend still has the backend that a connection which begins again went to.
            if flow.flags & Flow::TRANSIT == 0
                || !conntrack::rewrites(flow, packet)
                || conntrack::begins(packet)
            {
                return None;
            }
            flow
        }
        _ => open(packet)?,
    };
    let tick = clock::tick();
    if flow.tick != tick || flow.mtu == 0 || flow.extra == 0 {
        ensure_hop::<V4>(ctx, frame.ip_len::<V4>(), packet, flow)?;
    }
    (frame.ip_len::<V4>() <= flow.mtu && frame.destination_mac() == flow.hop[1]).then_some(())?;
    conntrack::touch_in(packet, flow, tick);
    frame.rewrite::<V4>(packet, flow)
}

/// Opens a flow to a backend on another node. Frontends with flags, affinity or source ranges are left to TC.
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
    let remote = cluster::contains(&backend.addr);
    // TC finds the address of the uplink towards a backend outside the cluster.
    if !remote && config.flags & NodeConfig::SEVERAL_UPLINKS != 0 {
        return None;
    }
    let forward_flags = if remote { Flow::REMOTE } else { 0 };
    let backend = SocketAddr::new(backend.addr, backend.port);
    let nat =
        FullNat { source: node, backend, flags: Flow::TRANSIT, forward_flags, ifindex: 0, generation: 0 };
    nat::open(packet, &nat, MAX_PORT_TRIES).ok()
}

/// Looks up the flow's next hop unless that was done within [`MAX_HOP_AGE`]. `None`: there is no next hop, or the packet is
/// too large for it. In one tick it is called once.
///
/// The first packet after a pause goes up instead, which cannot reorder the flow. TC sends it by the neighbour table, so
/// that the kernel probes a stale neighbour; nothing here does that.
#[inline(never)]
fn ensure_hop<const V4: bool>(ctx: &XdpContext, length: u16, packet: &Packet, flow: &mut Flow) -> Option<()> {
    let now = clock::now_ns();
    let time = (now >> HOP_TIME_SHIFT) as u32;
    if flow.mtu == 0 || flow.extra == 0 || time.wrapping_sub(flow.hop_time) > MAX_HOP_AGE {
        if now.saturating_sub(flow.last_seen) >> HOP_TIME_SHIFT > MAX_HOP_AGE as u64 {
            (flow.last_seen, flow.mtu) = (now, 0);
            return None;
        }
        find_hop::<V4>(ctx, length, packet, flow)?;
        let (source, destination) =
            ([&packet.source, &flow.source], [&packet.destination, &flow.destination]);
        flow.extra = Differences::of(source, destination).word();
        flow.hop_time = time;
    }
    Some(())
}

/// Looks up the next hop in the node's routes and neighbours. `None`: no route, no neighbour yet, another interface, or the
/// packet is too large.
#[inline(always)]
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
