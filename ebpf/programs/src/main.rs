//! Skep's BPF programs.
//!
//! In: packets and socket calls, and the maps that the agent writes. Out: the kernel's action on each. `hooks/` has one
//! file for each kernel hook, a short list of steps that no other module imports; the other modules are the steps, and
//! `skep_abi::logic` has their arithmetic.
#![no_std]
#![no_main]

mod bandwidth;
mod buffers;
mod checksum;
mod clock;
mod cluster;
mod connected;
mod conntrack;
mod delay;
mod deliver;
mod dsr;
mod fragments;
mod frame;
mod hooks;
mod hop;
mod host;
mod icmp;
mod interface;
mod maglev;
mod maps;
mod nat;
mod node_socket;
mod omission;
mod openers;
mod overlay;
mod packet;
mod parse;
mod policy;
mod ports;
mod reject;
mod report;
mod sctp;
mod service;
mod source;
mod tcp_close;
mod translate;

/// Only GPL-compatible programs may call helpers such as `bpf_redirect_neigh`.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
