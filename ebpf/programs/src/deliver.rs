//! Where a packet goes once it may pass.

use aya_ebpf::bindings::{
    BPF_F_INGRESS, TC_ACT_OK, TC_ACT_SHOT, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1 as NextHop,
};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer};
use aya_ebpf::programs::TcContext;
use skep_abi::{Addr, DropReason, NodeConfig};

use crate::packet::Packet;
use crate::report;

/// Its number in every network namespace.
const LOOPBACK: u32 = 1;
pub(crate) const AF_INET: u32 = 2;
pub(crate) const AF_INET6: u32 = 10;

/// Straight into the pod behind the host-side interface, past the node's stack.
#[inline(always)]
pub(crate) fn to_pod(ifindex: u32) -> i32 {
    // SAFETY: the helper checks the index; a wrong one drops the packet.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

/// Out of the interface, by the neighbour that the destination is.
#[inline(always)]
pub(crate) fn by(ifindex: u32) -> i32 {
    // SAFETY: no parameters are given, so the kernel looks the neighbour up itself.
    unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 }
}

/// To the node's own processes, by the loopback interface: where a packet from the node's own address is no martian.
#[inline(always)]
pub(crate) fn to_host(ctx: &TcContext) -> i32 {
    // Loopback's station; without it the kernel takes the packet for somebody else's.
    let _ = ctx.store(0, &[0u8; 6], 0);
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_redirect(LOOPBACK, BPF_F_INGRESS as u64) as i32 }
}

/// Out of the uplink, next hop by the node's routes, past the node's stack.
#[inline(always)]
pub(crate) fn to_uplink(config: &NodeConfig) -> i32 {
    by(config.uplink)
}

/// To another node's pod: by the overlay if there is one, next hop by the node's routes.
#[inline(always)]
pub(crate) fn to_remote(config: &NodeConfig, packet: &Packet) -> i32 {
    let overlay = overlay(config, packet);
    if overlay == 0 {
        return to_uplink(config);
    }
    by(overlay)
}

/// To the node that the packet is addressed to, by the overlay; no route leads there that way.
#[inline(always)]
pub(crate) fn to_node(config: &NodeConfig, packet: &Packet) -> i32 {
    by_hop(overlay(config, packet), packet, &packet.destination.addr)
}

/// Out of the interface, to a neighbour of the packet's family.
#[inline(always)]
pub(crate) fn by_hop(ifindex: u32, packet: &Packet, to: &Addr) -> i32 {
    let mut hop = if packet.is_v4() {
        bpf_redir_neigh { nh_family: AF_INET, __bindgen_anon_1: NextHop { ipv6_nh: [to.v4_word(), 0, 0, 0] } }
    } else {
        bpf_redir_neigh { nh_family: AF_INET6, __bindgen_anon_1: NextHop { ipv6_nh: to.0 } }
    };
    let length = core::mem::size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: `hop` is of the length given and lives over the call.
    unsafe { bpf_redirect_neigh(ifindex, &raw mut hop, length, 0) as i32 }
}

/// Whether another node sent the packet through the overlay.
#[inline(always)]
pub(crate) fn came_by_overlay(ctx: &TcContext, config: &NodeConfig, packet: &Packet) -> bool {
    let overlay = overlay(config, packet);
    // SAFETY: the context is the kernel's; `ifindex` is a field that every classifier may read.
    overlay != 0 && unsafe { (*ctx.skb.skb).ifindex } == overlay
}

#[inline(always)]
pub(crate) fn overlay(config: &NodeConfig, packet: &Packet) -> u32 {
    if packet.is_v4() { config.overlay_v4 } else { config.overlay_v6 }
}

#[inline(always)]
pub(crate) fn verdict(result: Result<i32, DropReason>) -> i32 {
    match result {
        Ok(action) => action,
        Err(reason) => {
            report::dropped(reason);
            TC_ACT_SHOT as i32
        }
    }
}

pub(crate) const PASS: i32 = TC_ACT_OK as i32;
