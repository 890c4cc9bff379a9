//! What pods with a limited bandwidth send and receive.
//!
//! What a pod sends over its rate waits for its earliest departure time on a link of its own (`fq`), and comes from the pod
//! anew then; where the kernel has no `fq`, it is dropped. What a pod is sent over its rate is dropped: whoever sends it
//! cannot be made to wait here.
//!
//! Packets of such pods come here from the pods' hooks and from [`crate::policy`]: the flows of all others never do.

use aya_ebpf::helpers::generated::{bpf_redirect, bpf_skb_set_tstamp, bpf_spin_lock, bpf_spin_unlock};
use aya_ebpf::programs::TcContext;
use skep_abi::logic::gcra::{self, Slack, wire_time_ns};
use skep_abi::{BURST_NS, Direction, DropReason, Flow, Pod, Proto, bucket_index};

use crate::maps::BUCKETS;
use crate::packet::Packet;
use crate::{clock, cluster, delay};

const UDP_SIZE: u64 = 8;
/// How long a packet may have to wait at most; what would wait longer is dropped.
const MAX_WAIT_NS: u64 = 1_000_000_000;

/// The near end of the link on which packets wait; 0: there is none. Known before the programs are loaded, since before
/// Linux 5.18 the kernel refuses what sets a packet's time.
#[unsafe(no_mangle)]
static PACE: u32 = 0;

#[inline(always)]
fn pace() -> u32 {
    // SAFETY: a global that is set before the program is loaded and never written.
    unsafe { core::ptr::read_volatile(&raw const PACE) }
}

/// Of `BPF_SKB_TSTAMP_*` in linux/bpf.h: no time, and one of the monotonic clock at which the packet is to leave.
const NO_TIME: u32 = 0;
const DEPARTURE: u32 = 1;

/// Neither is one of the kernel's actions.
const NOW: i32 = -2;
const TOO_LATE: i32 = -3;

/// Has a packet that its pod sends over its rate wait, if the flow's `flags` say that there may be a rate. It has to be as
/// the pod sent it, since it comes anew. `None`: it goes on now.
#[inline(always)]
pub(crate) fn wait(ctx: &TcContext, packet: &Packet, flags: u32) -> Result<Option<i32>, DropReason> {
    if flags & Flow::LIMITED == 0 || pace() == 0 {
        return Ok(None);
    }
    match put_off(ctx, packet) {
        NOW => Ok(None),
        TOO_LATE => Err(DropReason::Bandwidth),
        action => Ok(Some(action)),
    }
}

#[inline(never)]
fn put_off(ctx: &TcContext, packet: &Packet) -> i32 {
    if delay::has_waited(ctx) {
        set_time(ctx, 0, NO_TIME);
        return NOW;
    }
    let Some(pod) = cluster::pod(packet.sender_addr()) else { return NOW };
    let now = clock::exact_ns();
    match take_turn(
        pod,
        Direction::EGRESS,
        wire_bytes(ctx, packet),
        now,
        Slack { burst_ns: 0, wait_ns: MAX_WAIT_NS },
    ) {
        None => TOO_LATE,
        Some(at) if at > now && delay::will_wait(ctx) => {
            set_time(ctx, at, DEPARTURE);
            // SAFETY: the helper checks the index.
            unsafe { bpf_redirect(pace(), 0) as i32 }
        }
        Some(_) => NOW,
    }
}

#[inline(always)]
fn set_time(ctx: &TcContext, time: u64, kind: u32) {
    // SAFETY: the context is the kernel's; the helper checks the rest.
    let _ = unsafe { bpf_skb_set_tstamp(ctx.skb.skb, time, kind) };
}

/// Takes the packet from the buckets of the pods at its ends, if the flow's `flags` say that there are any.
#[inline(always)]
pub(crate) fn take(ctx: &TcContext, packet: &Packet, flags: u32) -> Result<(), DropReason> {
    taken(ctx, packet, flags, false)
}

/// As [`take`], for a packet that opens a flow. It does not wait for its turn, but has one.
#[inline(always)]
pub(crate) fn take_first(ctx: &TcContext, packet: &Packet, flags: u32) -> Result<(), DropReason> {
    taken(ctx, packet, flags, true)
}

#[inline(always)]
fn taken(ctx: &TcContext, packet: &Packet, flags: u32, first: bool) -> Result<(), DropReason> {
    if flags & Flow::LIMITED == 0 {
        return Ok(());
    }
    match spend(ctx, packet, first) {
        DropReason::None => Ok(()),
        reason => Err(reason),
    }
}

/// [`Flow::LIMITED`] if either pod has a limit.
#[inline(always)]
pub(crate) fn flag(from: Option<&Pod>, to: Option<&Pod>) -> u32 {
    let limited = |pod: Option<&Pod>| pod.is_some_and(Pod::is_limited);
    if limited(from) || limited(to) { Flow::LIMITED } else { 0 }
}

#[inline(never)]
fn spend(ctx: &TcContext, packet: &Packet, first: bool) -> DropReason {
    let (bytes, now) = (wire_bytes(ctx, packet), clock::exact_ns());
    for (addr, direction) in
        [(&packet.source.addr, Direction::EGRESS), (&packet.destination.addr, Direction::INGRESS)]
    {
        let paced = direction == Direction::EGRESS && pace() != 0;
        if paced && !first {
            continue;
        }
        let slack = Slack { burst_ns: BURST_NS, wait_ns: if paced { MAX_WAIT_NS } else { 0 } };
        if let Some(pod) = cluster::pod(addr)
            && take_turn(pod, direction, bytes, now, slack).is_none()
        {
            return DropReason::Bandwidth;
        }
    }
    DropReason::None
}

/// The packet's bytes once it is in as many frames as it will be: every one has its own headers.
#[inline(always)]
fn wire_bytes(ctx: &TcContext, packet: &Packet) -> u64 {
    // SAFETY: the context is the kernel's; `gso_segs` is a field that every classifier may read.
    let further = unsafe { (*ctx.skb.skb).gso_segs }.saturating_sub(1) as u64;
    let length = ctx.len() as u64;
    if further == 0 {
        return length;
    }
    let transport = if packet.proto == Proto::TCP {
        ctx.load::<u8>(packet.l4 + 12).unwrap_or(0) as u64 >> 4 << 2
    } else {
        UDP_SIZE
    };
    length + further * (packet.l4 as u64 + transport)
}

/// When it is the packet's turn, which then is spent; `None`: too late. Exact whatever number of CPUs do this at a time.
#[inline(always)]
fn take_turn(pod: &Pod, direction: Direction, bytes: u64, now: u64, slack: Slack) -> Option<u64> {
    let rate = pod.rate(direction);
    if rate == 0 {
        return Some(now);
    }
    let Some(bucket) = BUCKETS.get_ptr_mut(bucket_index(pod.slot, direction)) else { return Some(now) };
    let cost = wire_time_ns(bytes, rate);
    // SAFETY: the element lives as long as the program runs. The lock is its own, is held for what only the holder does
    // with it, and no call stands between taking it and giving it back.
    unsafe {
        let lock = (&raw mut (*bucket).lock).cast();
        bpf_spin_lock(lock);
        let next = if (*bucket).ifindex == pod.ifindex { (*bucket).next } else { 0 };
        let turn = gcra::turn(next, now, cost, slack);
        if let Some(turn) = turn {
            ((*bucket).next, (*bucket).ifindex) = (turn.next, pod.ifindex);
        }
        bpf_spin_unlock(lock);
        turn.map(|turn| turn.at)
    }
}
