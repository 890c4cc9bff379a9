//! Packets that wait on a link of their own, whose far end gives them back to where they came from.
//!
//! Fragments that come before their first one, which alone has the ports, go there until the first one has come or their
//! time is over. What pods send too fast has a link besides: see [`crate::bandwidth`].
//!
//! The fragments' link takes so many bytes a second and holds so many; what is more is lost there. So a flood of such
//! fragments costs no more than that, and others of them their chance, which is what they had without a link.

use aya_ebpf::bindings::BPF_F_INGRESS;
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::programs::TcContext;
use skep_abi::DropReason;

use crate::{clock, maps};

/// A waiting packet's mark: where it came from in the low bits, then whether it is for its rate, above that when it came, in
/// units of 2^24 ns (17 ms).
const PLACE: u32 = (1 << 23) - 1;
const FOR_RATE: u32 = 1 << 23;
const TIME_BIT: u32 = 24;
const TIME_SHIFT: u32 = 24;
/// A fifth of a second: what overtakes on a network does so by less.
const MAX_WAIT_UNITS: u32 = 12;

/// Lets a fragment wait that would be dropped for being early.
#[inline(always)]
pub(crate) fn early(ctx: &TcContext, result: Result<i32, DropReason>) -> Result<i32, DropReason> {
    match result {
        Err(DropReason::Fragment) => hold(ctx).ok_or(DropReason::Fragment),
        result => result,
    }
}

#[inline(always)]
fn hold(ctx: &TcContext) -> Option<i32> {
    let delay = maps::config()?.delay;
    let (mark, place) = (mark(ctx), place(ctx));
    let time = (clock::now_ns() >> TIME_SHIFT) as u32;
    // A mark of somebody else's says that the packet is to be seen by somebody else.
    let waited = if mark == 0 { 0 } else { time.wrapping_sub(mark >> TIME_BIT) & (u32::MAX >> TIME_BIT) };
    let ours = place <= PLACE && (mark == 0 || mark & PLACE == place);
    if delay == 0 || !ours || waited > MAX_WAIT_UNITS {
        return None;
    }
    if mark == 0 {
        set_mark(ctx, time << TIME_BIT | place);
    }
    // SAFETY: the helper checks the index.
    Some(unsafe { bpf_redirect(delay, 0) } as i32)
}

/// The far end of the link.
#[inline(always)]
pub(crate) fn back(ctx: &TcContext) -> i32 {
    // SAFETY: the helper checks the index.
    unsafe { bpf_redirect(mark(ctx) & PLACE, BPF_F_INGRESS as u64) as i32 }
}

/// The first fragment has come: nothing of the wait stays with this one.
#[inline(always)]
pub(crate) fn over(ctx: &TcContext) {
    let mark = mark(ctx);
    if mark != 0 && mark & (PLACE | FOR_RATE) == place(ctx) {
        set_mark(ctx, 0);
    }
}

/// Marks a packet that is to wait for its rate; false if its mark is somebody else's.
#[inline(always)]
pub(crate) fn will_wait(ctx: &TcContext) -> bool {
    let place = place(ctx);
    let free = place <= PLACE && mark(ctx) == 0;
    if free {
        set_mark(ctx, FOR_RATE | place);
    }
    free
}

/// Whether it has waited for its rate; then nothing of that stays with it.
#[inline(always)]
pub(crate) fn has_waited(ctx: &TcContext) -> bool {
    let waited = mark(ctx) & (PLACE | FOR_RATE) == FOR_RATE | place(ctx);
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

#[inline(always)]
fn place(ctx: &TcContext) -> u32 {
    // SAFETY: as in `mark`.
    unsafe { (*ctx.skb.skb).ifindex }
}
