//! The interfaces that a packet is at and came by.

use core::hint::black_box;

use aya_ebpf::programs::TcContext;

/// The interface that this program runs on.
#[inline(always)]
pub(crate) fn here(ctx: &TcContext) -> u32 {
    // The compiler would keep the field's address, through which the verifier allows no access.
    // SAFETY: the context is the kernel's; `ifindex` is a field that every classifier may read.
    unsafe { (*black_box(ctx.skb.skb)).ifindex }
}

/// The interface by which the packet came to this node; 0: the node itself sent it.
#[inline(always)]
pub(crate) fn came_by(ctx: &TcContext) -> u32 {
    // SAFETY: as in `here`.
    unsafe { (*black_box(ctx.skb.skb)).ingress_ifindex }
}
