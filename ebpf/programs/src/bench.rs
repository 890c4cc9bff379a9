//! The benchmark's own programs: what an empty one costs, and a source of packets. Skep does not load them.
#![no_std]
#![no_main]

use aya_ebpf::bindings::{TC_ACT_OK, xdp_action};
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_redirect};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

/// Ethernet, IPv4 and UDP.
const HEADERS: usize = 42;
const SOURCE_PORT: usize = 34;
/// Flows that the source makes, by source port.
const FLOWS: u32 = 64;
const FIRST_PORT: u32 = 20_000;

/// What every packet of [`send_xdp`] begins with; its UDP checksum is 0: none.
#[unsafe(no_mangle)]
static TEMPLATE: [u8; HEADERS] = [0; HEADERS];

/// Where [`send_xdp`] sends.
#[unsafe(no_mangle)]
static DEVICE: u32 = 0;

#[classifier]
pub fn empty_tc(_ctx: TcContext) -> i32 {
    TC_ACT_OK as i32
}

#[xdp]
pub fn empty_xdp(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Run on live frames (BPF_F_TEST_XDP_LIVE_FRAMES). The kernel uses a frame again as its last receiver left it, so all
/// headers are written anew.
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

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
