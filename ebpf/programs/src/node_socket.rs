//! Sockets of the node's own processes.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_F_CURRENT_NETNS, BPF_TCP_LISTEN, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as Ends4,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as Ends6,
};
use aya_ebpf::helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp};
use aya_ebpf::programs::TcContext;

use crate::packet::Packet;

/// Whether the node has a TCP connection with the packet's ends. One that addressed the process itself has no entry.
#[inline(never)]
pub(crate) fn has_connection(ctx: &TcContext, packet: &Packet) -> bool {
    let (source, destination) = (&packet.source, &packet.destination);
    if packet.is_v4() {
        let mut ends = Ends4 {
            saddr: source.addr.v4_word(),
            daddr: destination.addr.v4_word(),
            sport: source.port.0,
            dport: destination.port.0,
        };
        return is_connected(ctx, (&raw mut ends).cast(), size_of::<Ends4>());
    }
    let mut ends = Ends6 {
        saddr: source.addr.0,
        daddr: destination.addr.0,
        sport: source.port.0,
        dport: destination.port.0,
    };
    is_connected(ctx, (&raw mut ends).cast(), size_of::<Ends6>())
}

/// Whether a socket has these ends, which are of the family with that size.
#[inline(always)]
fn is_connected(ctx: &TcContext, ends: *mut bpf_sock_tuple, size: usize) -> bool {
    // SAFETY: the context is the kernel's; callers give ends of that size, and the kernel reads no more.
    let socket =
        unsafe { bpf_skc_lookup_tcp(ctx.as_ptr(), ends, size as u32, BPF_F_CURRENT_NETNS as u64, 0) };
    if socket.is_null() {
        return false;
    }
    // SAFETY: the socket is not null, and held until it is released.
    unsafe {
        let state = core::ptr::read_volatile(&raw const (*socket).state);
        bpf_sk_release(socket.cast());
        state != BPF_TCP_LISTEN
    }
}
