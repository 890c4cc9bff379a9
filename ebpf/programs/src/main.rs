//! Skep's BPF programs. `hooks/` has an entry a kernel hook, each a short list of steps; the other modules are the steps.
#![no_std]
#![no_main]

mod bandwidth;
mod buffers;
mod checksum;
mod clock;
mod cluster;
mod conntrack;
mod delay;
mod deliver;
mod dsr;
mod frame;
mod hooks;
mod host;
mod icmp;
mod maglev;
mod maps;
mod nat;
mod packet;
mod parse;
mod policy;
mod reject;
mod report;
mod sctp;
mod service;
mod tcp_close;
mod translate;

/// Helpers such as `bpf_redirect_neigh` are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
