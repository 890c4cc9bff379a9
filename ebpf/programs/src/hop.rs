//! The next hop of a packet, by the node's routes.
//!
//! In: a packet and where it goes. Out: the interface by which it leaves and the next hop's address there.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup,
};
use aya_ebpf::helpers::generated::bpf_fib_lookup as find_route;
use aya_ebpf::programs::TcContext;
use skep_abi::Addr;

use crate::interface;
use crate::packet::Packet;

/// Address families of the kernel's parameters.
pub(crate) const AF_INET: u32 = 2;
pub(crate) const AF_INET6: u32 = 10;

/// Where a packet leaves the node.
pub(crate) struct Hop {
    pub(crate) ifindex: u32,
    pub(crate) gateway: Addr,
    /// The next hop's MAC, if the neighbour is known.
    pub(crate) mac: Option<[u8; 6]>,
}

/// The next hop towards the address; `None`: no route leads there.
#[inline(always)]
pub(crate) fn find(ctx: &TcContext, packet: &Packet, to: &Addr) -> Option<Hop> {
    // SAFETY: integers and unions of them, for which zeros are values.
    let mut route: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    route.ifindex = interface::here(ctx);
    route.l4_protocol = packet.proto.0;
    if packet.is_v4() {
        route.family = AF_INET as u8;
        route.__bindgen_anon_3.ipv4_src = packet.source.addr.v4_word();
        route.__bindgen_anon_4.ipv4_dst = to.v4_word();
    } else {
        route.family = AF_INET6 as u8;
        route.__bindgen_anon_3.ipv6_src = packet.source.addr.0;
        route.__bindgen_anon_4.ipv6_dst = to.0;
    }
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: context and parameters are valid for the call, the size is theirs.
    let result = unsafe { find_route(ctx.as_ptr(), &raw mut route, size, 0) };
    let found = result == BPF_FIB_LKUP_RET_SUCCESS as i64;
    if !found && result != BPF_FIB_LKUP_RET_NO_NEIGH as i64 && result != BPF_FIB_LKUP_RET_FRAG_NEEDED as i64 {
        return None;
    }
    // SAFETY: both members of the union are numbers; the kernel has put the next hop there.
    let gateway = unsafe {
        if packet.is_v4() {
            Addr::from_v4_word(route.__bindgen_anon_4.ipv4_dst)
        } else {
            Addr(route.__bindgen_anon_4.ipv6_dst)
        }
    };
    Some(Hop { ifindex: route.ifindex, gateway, mac: found.then_some(route.dmac) })
}

/// Index of the interface that leads to the address; 0: none.
#[inline(never)]
pub(crate) fn interface_to(ctx: &TcContext, packet: &Packet, to: &Addr) -> u32 {
    find(ctx, packet, to).map_or(0, |hop| hop.ifindex)
}
