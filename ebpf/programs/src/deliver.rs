//! Where an allowed packet goes.
//!
//! In: a packet and the interface, pod or node that it is for. Out: the kernel's action.

use core::hint::cold_path;

use aya_ebpf::bindings::{
    BPF_F_INGRESS, TC_ACT_OK, TC_ACT_SHOT, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1 as NextHop,
};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer};
use aya_ebpf::programs::TcContext;
use skep_abi::{Addr, DropReason, Hook, NodeConfig};

use crate::hop::{self, AF_INET, AF_INET6};
use crate::packet::Packet;
use crate::{cluster, interface, report};

/// Index of the loopback interface, in every network namespace.
const LOOPBACK_IFINDEX: u32 = 1;

/// Into the pod with that host-side interface, past the node's stack.
#[inline(always)]
pub(crate) fn to_pod(ifindex: u32) -> i32 {
    // SAFETY: the helper checks the index; a wrong one drops the packet.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

/// Out of the interface; the kernel looks up the next hop.
#[inline(always)]
pub(crate) fn to_interface(ifindex: u32) -> i32 {
    // SAFETY: no parameters are given, so the kernel looks the neighbour up itself.
    unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 }
}

/// To the node's own processes, by the loopback interface: there the kernel accepts the node's own address as a source.
#[inline(always)]
pub(crate) fn to_host(ctx: &TcContext) -> i32 {
    // Loopback's MAC: with another one the kernel takes the packet for another host's.
    let _ = ctx.store(0, &[0u8; 6], 0);
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_redirect(LOOPBACK_IFINDEX, BPF_F_INGRESS as u64) as i32 }
}

/// Out of the uplink, past the node's stack; the node's routes give the next hop, and of several uplinks the one.
#[inline(always)]
pub(crate) fn to_uplink(ctx: &TcContext, config: &NodeConfig, packet: &Packet) -> i32 {
    if config.flags & NodeConfig::SEVERAL_UPLINKS != 0 {
        return by_routes(ctx, config, packet);
    }
    to_interface(config.uplink)
}

/// Out of the interface that the routes name, or else of the first uplink.
#[inline(never)]
pub(crate) fn by_routes(ctx: &TcContext, config: &NodeConfig, packet: &Packet) -> i32 {
    match hop::find(ctx, packet, &packet.destination.addr) {
        Some(hop) => to_next_hop(hop.ifindex, packet, &hop.gateway),
        None => to_interface(config.uplink),
    }
}

/// Back out of the uplink that the packet came by.
#[inline(always)]
pub(crate) fn to_sender(ctx: &TcContext, config: &NodeConfig) -> i32 {
    let here = interface::here(ctx);
    to_interface(if cluster::is_uplink(config, here) { here } else { config.uplink })
}

/// To another node's pod: by the overlay if there is one, or else by the uplink.
#[inline(always)]
pub(crate) fn to_remote(ctx: &TcContext, config: &NodeConfig, packet: &Packet) -> i32 {
    let overlay = overlay(config, packet);
    if overlay == 0 {
        return to_uplink(ctx, config, packet);
    }
    to_interface(overlay)
}

/// To the node that the packet is addressed to, by the overlay. The node's routes do not lead there by the overlay, so the
/// next hop is given.
#[inline(always)]
pub(crate) fn to_node(config: &NodeConfig, packet: &Packet) -> i32 {
    to_next_hop(overlay(config, packet), packet, &packet.destination.addr)
}

/// Out of the interface to the next hop, an address of the packet's family.
#[inline(always)]
pub(crate) fn to_next_hop(ifindex: u32, packet: &Packet, to: &Addr) -> i32 {
    let mut hop = if packet.is_v4() {
        bpf_redir_neigh { nh_family: AF_INET, __bindgen_anon_1: NextHop { ipv6_nh: [to.v4_word(), 0, 0, 0] } }
    } else {
        bpf_redir_neigh { nh_family: AF_INET6, __bindgen_anon_1: NextHop { ipv6_nh: to.0 } }
    };
    let size = size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: `hop` has the size given and lives over the call.
    unsafe { bpf_redirect_neigh(ifindex, &raw mut hop, size, 0) as i32 }
}

/// Whether another node sent the packet through the overlay.
#[inline(always)]
pub(crate) fn came_by_overlay(ctx: &TcContext, config: &NodeConfig, packet: &Packet) -> bool {
    let overlay = overlay(config, packet);
    overlay != 0 && interface::here(ctx) == overlay
}

/// Index of the overlay device for the packet's family; 0: none.
#[inline(always)]
pub(crate) fn overlay(config: &NodeConfig, packet: &Packet) -> u32 {
    if packet.is_v4() { config.overlay_v4 } else { config.overlay_v6 }
}

/// The action of a program; a drop is counted and reported.
#[inline(always)]
pub(crate) fn verdict(ctx: &TcContext, hook: Hook, result: Result<i32, DropReason>) -> i32 {
    match result {
        Ok(action) => {
            report::note_action(ctx, hook, action);
            action
        }
        Err(reason) => {
            cold_path();
            report::dropped(ctx, hook, reason);
            report::note_drop(ctx, hook, reason);
            TC_ACT_SHOT as i32
        }
    }
}

/// On to the next program or the node's stack.
pub(crate) const PASS: i32 = TC_ACT_OK as i32;
