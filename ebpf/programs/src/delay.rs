//! Packets that wait on a separate link, whose far end returns them to the interface that they came from.
//!
//! Later fragments that arrive before the first one, which alone has the ports, circulate on the delay link until the
//! first one has come or their time is over. Packets above a pod's rate wait on the pace link: see [`crate::bandwidth`].
//!
//! The delay link has a rate and a queue limit and drops what exceeds them. So a flood of early fragments costs no more
//! than that; it only takes from other early fragments a chance that they did not have without the link.

use core::hint::cold_path;

use aya_ebpf::bindings::BPF_F_INGRESS;
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::programs::TcContext;
use skep_abi::DropReason;

use crate::{clock, interface, maps};

/// The mark of a waiting packet. Bits 0 to 22: index of the interface that it came from.
const IFINDEX_MASK: u32 = (1 << 23) - 1;
/// Bit 23: it waits for its rate.
const FOR_RATE: u32 = 1 << 23;
/// Bits 24 to 31: when it came, in units of 2^24 nanoseconds (17 ms).
const TIME_BIT: u32 = 24;
const TIME_UNIT_SHIFT: u32 = 24;
/// How long a fragment waits, in the mark's units of time: 200 ms. Reordering on a network delays by less.
const MAX_WAIT_UNITS: u32 = 12;

/// Sends a fragment that would be dropped for being early to the delay link.
#[inline(always)]
pub(crate) fn early_fragment(ctx: &TcContext, result: Result<i32, DropReason>) -> Result<i32, DropReason> {
    match result {
        Err(DropReason::Fragment) => {
            cold_path();
            hold(ctx).ok_or(DropReason::Fragment)
        }
        result => result,
    }
}

#[inline(always)]
fn hold(ctx: &TcContext) -> Option<i32> {
    let delay = maps::config()?.delay;
    let (mark, from) = (mark(ctx), interface::here(ctx));
    let time = (clock::now_ns() >> TIME_UNIT_SHIFT) as u32;
    // Another program's mark is not overwritten: that program needs it.
    let waited = if mark == 0 { 0 } else { time.wrapping_sub(mark >> TIME_BIT) & (u32::MAX >> TIME_BIT) };
    let ours = from <= IFINDEX_MASK && (mark == 0 || mark & IFINDEX_MASK == from);
    if delay == 0 || !ours || waited > MAX_WAIT_UNITS {
        return None;
    }
    if mark == 0 {
        set_mark(ctx, time << TIME_BIT | from);
    }
    // SAFETY: the helper checks the index.
    Some(unsafe { bpf_redirect(delay, 0) } as i32)
}

/// Returns a packet from the link's far end to the interface that it came from.
#[inline(always)]
pub(crate) fn return_packet(ctx: &TcContext) -> i32 {
    // SAFETY: the helper checks the index.
    unsafe { bpf_redirect(mark(ctx) & IFINDEX_MASK, BPF_F_INGRESS as u64) as i32 }
}

/// Removes the mark of a fragment whose first one has come.
#[inline(always)]
pub(crate) fn end(ctx: &TcContext) {
    let mark = mark(ctx);
    if mark != 0 && mark & (IFINDEX_MASK | FOR_RATE) == interface::here(ctx) {
        set_mark(ctx, 0);
    }
}

/// Marks a packet that is to wait for its rate; false: it has another program's mark and cannot wait.
#[inline(always)]
pub(crate) fn mark_for_rate(ctx: &TcContext) -> bool {
    let from = interface::here(ctx);
    let free = from <= IFINDEX_MASK && mark(ctx) == 0;
    if free {
        set_mark(ctx, FOR_RATE | from);
    }
    free
}

/// Whether the packet has waited for its rate; the mark is then removed.
#[inline(always)]
pub(crate) fn take_rate_mark(ctx: &TcContext) -> bool {
    let waited = mark(ctx) & (IFINDEX_MASK | FOR_RATE) == FOR_RATE | interface::here(ctx);
    if waited {
        set_mark(ctx, 0);
    }
    waited
}

#[inline(always)]
fn mark(ctx: &TcContext) -> u32 {
    // SAFETY: the context is the kernel's; `mark` is a field that every classifier may read.
    unsafe { core::ptr::read_volatile(&raw const (*ctx.skb.skb).mark) }
}

#[inline(always)]
fn set_mark(ctx: &TcContext, mark: u32) {
    // SAFETY: as in `mark`; every classifier may write it.
    unsafe { core::ptr::write_volatile(&raw mut (*ctx.skb.skb).mark, mark) }
}
