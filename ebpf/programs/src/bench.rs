//! The benchmark's own programs; Skep does not load them.
//!
//! Empty programs, the least program that joins two pods, a source and a sink of packets, a program that restores the packet
//! before it calls the measured one, one that tags frames, one that checks the card's sum over a packet, and two that splice the
//! sockets of a connection.
#![no_std]
#![no_main]

use aya_ebpf::bindings::{
    BPF_F_INGRESS, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, TC_ACT_OK,
    TC_ACT_SHOT, sk_action, xdp_action,
};
use aya_ebpf::btf_maps::{Array, ProgramArray, SockHash};
use aya_ebpf::helpers::generated::{
    bpf_csum_update, bpf_get_prandom_u32, bpf_redirect, bpf_redirect_peer, bpf_skb_vlan_push,
};
use aya_ebpf::macros::{btf_map, classifier, sk_msg, sock_ops, xdp};
use aya_ebpf::programs::{SkMsgContext, SockOpsContext, TcContext, XdpContext};

/// Bytes of Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 42;
const ETHERNET: usize = 14;
/// Bytes of the largest packet that [`sum_tc`] looks at.
const MAX_SUMMED: usize = 512;
/// Offset of the UDP source port.
const SOURCE_PORT: usize = 34;
/// IEEE 802.1Q.
const ETHERTYPE_VLAN: u16 = 0x8100;
const VLAN: u16 = 100;
const AF_INET: u32 = 2;
/// Flows that [`send_xdp`] makes, by source port.
const FLOWS: u32 = 64;
const FIRST_PORT: u32 = 20_000;

/// The headers of every packet of [`send_xdp`]. The UDP checksum is 0: none.
#[unsafe(no_mangle)]
static TEMPLATE: [u8; HEADERS] = [0; HEADERS];

/// Index of the interface that [`send_xdp`] and [`join_tc`] send to.
#[unsafe(no_mangle)]
static DEVICE: u32 = 0;

/// Bytes that [`again_xdp`] restores: Ethernet, IPv6 and TCP without options, and some payload.
const RESTORED: usize = 80;

/// The first bytes of every packet of [`again_xdp`].
#[unsafe(no_mangle)]
static HEADERS_AGAIN: [u64; RESTORED / 8] = [0; RESTORED / 8];

/// The program that [`again_xdp`] calls.
#[btf_map]
static MEASURED: ProgramArray<1> = ProgramArray::new();

#[classifier]
pub fn empty_tc(_ctx: TcContext) -> i32 {
    TC_ACT_OK as i32
}

/// The least program that joins two pods.
#[classifier]
pub fn join_tc(_ctx: TcContext) -> i32 {
    // SAFETY: the helper checks the index; the global is set before the program is loaded.
    unsafe { bpf_redirect_peer(core::ptr::read_volatile(&raw const DEVICE), 0) as i32 }
}

/// Gives every frame the tag of VLAN 100, for tests of what a pod may send.
#[classifier]
pub fn tag_tc(ctx: TcContext) -> i32 {
    // SAFETY: the helper checks everything.
    unsafe { bpf_skb_vlan_push(ctx.skb.skb, ETHERTYPE_VLAN.to_be(), VLAN) };
    TC_ACT_OK as i32
}

/// Packets that [`sum_tc`] looked at: whose sum is right, is wrong, or that have none.
#[btf_map]
static SUMS: Array<u64, 3> = Array::new();

/// Compares the card's sum over the packet (CHECKSUM_COMPLETE) with the packet, for tests of what rewrites packets. To be attached to
/// ingress, where the sum begins after the Ethernet header.
#[classifier]
pub fn sum_tc(ctx: TcContext) -> i32 {
    if let Some(sums) = SUMS.get_ptr_mut(verdict_of_sum(&ctx)) {
        // SAFETY: the element is a number, and only counts.
        unsafe { *sums += 1 };
    }
    TC_ACT_OK as i32
}

/// Index in [`SUMS`].
fn verdict_of_sum(ctx: &TcContext) -> u32 {
    // SAFETY: the helper checks everything. Adding nothing reads the sum, and fails where there is none.
    let of_card = unsafe { bpf_csum_update(ctx.skb.skb, 0) };
    if of_card < 0 {
        return 2;
    }
    let (mut sum, mut at) = (0_u64, ETHERNET);
    for _ in 0..MAX_SUMMED / 2 {
        match ctx.load::<u16>(at) {
            Ok(word) => sum += word as u64,
            Err(_) => break,
        }
        at += 2;
    }
    if let Ok(byte) = ctx.load::<u8>(at) {
        sum += byte as u64;
    }
    (fold(sum) != fold(of_card as u64)) as u32
}

/// In one's complement; both zeros are one number.
fn fold(sum: u64) -> u64 {
    sum % 0xffff
}

/// The program that [`fresh_tc`] calls.
#[btf_map]
static MEASURED_TC: ProgramArray<1> = ProgramArray::new();

/// The source port of the last run.
#[btf_map]
static PORT: Array<u32, 1> = Array::new();

/// Gives the TCP or UDP packet over IPv4 another source port in each run, so that it opens a flow. The checksum is not corrected:
/// no program looks at it.
#[classifier]
pub fn fresh_tc(ctx: TcContext) -> i32 {
    let Some(port) = PORT.get_ptr_mut(0) else { return TC_ACT_SHOT as i32 };
    // SAFETY: the element is a number, and one test run at a time uses it; a tail call has no precondition.
    unsafe {
        *port += 1;
        let _ = ctx.store(SOURCE_PORT, &(*port as u16).to_be(), 0);
        MEASURED_TC.tail_call(&ctx, 0);
    }
    TC_ACT_SHOT as i32
}

#[xdp(frags)]
pub fn empty_xdp(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[xdp(frags)]
pub fn sink_xdp(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// Each run of a test starts with the packet that the run before it left. This program restores it.
#[xdp(frags)]
pub fn again_xdp(ctx: XdpContext) -> u32 {
    let packet = ctx.data();
    if packet + RESTORED > ctx.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the packet has RESTORED bytes, as just compared; the global is set before the program is loaded; a tail
    // call has no other precondition.
    unsafe {
        for word in 0..RESTORED / 8 {
            let value = core::ptr::read_volatile((&raw const HEADERS_AGAIN).cast::<u64>().add(word));
            *(packet as *mut u64).add(word) = value;
        }
        MEASURED.tail_call(&ctx, 0);
    }
    xdp_action::XDP_ABORTED
}

/// A source of packets, run on live frames (BPF_F_TEST_XDP_LIVE_FRAMES). The kernel reuses a frame as its last receiver left
/// it, so all headers are written again.
#[xdp]
pub fn send_xdp(ctx: XdpContext) -> u32 {
    if ctx.data() + HEADERS > ctx.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the packet has HEADERS bytes, as just compared; the globals are set before the program is loaded.
    unsafe {
        let packet = ctx.data() as *mut u8;
        let template = core::ptr::read_volatile(&raw const TEMPLATE);
        core::ptr::copy_nonoverlapping(template.as_ptr(), packet, HEADERS);
        let port = (FIRST_PORT + bpf_get_prandom_u32() % FLOWS) as u16;
        packet.add(SOURCE_PORT).cast::<u16>().write_unaligned(port.to_be());
        bpf_redirect(core::ptr::read_volatile(&raw const DEVICE), 0) as u32
    }
}

/// A connection over IPv4 as one of its sockets has it: the own address and port, the other end's address and port.
type Ends = [u32; 4];

/// Established sockets.
#[btf_map]
static SPLICED: SockHash<Ends, 4096> = SockHash::new();

/// Puts every socket of the cgroup into [`SPLICED`] that is connected over IPv4.
#[sock_ops]
pub fn splice_established(ctx: SockOpsContext) -> u32 {
    let established =
        matches!(ctx.op(), BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB | BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB);
    if established && ctx.family() == AF_INET {
        let other = [ctx.remote_ip4(), u32::from_be(ctx.remote_port())];
        let mut ends: Ends = [ctx.local_ip4(), ctx.local_port(), other[0], other[1]];
        // SAFETY: the kernel's context is valid until the program ends.
        let _ = SPLICED.update(&mut ends, unsafe { &mut *ctx.ops }, 0);
    }
    1
}

/// Hands a message to the socket at the other end, past TCP. Without one there it goes as TCP.
#[sk_msg]
pub fn splice_message(ctx: SkMsgContext) -> u32 {
    // SAFETY: the kernel's context is valid until the program ends.
    let msg = unsafe { &*ctx.msg };
    let mut other: Ends = [msg.remote_ip4, u32::from_be(msg.remote_port), msg.local_ip4, msg.local_port];
    let _ = SPLICED.redirect_msg(&ctx, &mut other, BPF_F_INGRESS as u64);
    sk_action::SK_PASS
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
