//! The bandwidth of pods that have a limit.
//!
//! A packet that a pod sends above its rate waits for its earliest departure time on the pace link (`fq`) and then passes
//! the pod's hook again. Without `fq` in the kernel it is dropped. A packet that a pod receives above its rate is dropped:
//! its sender cannot be delayed here.
//!
//! Only packets of such pods come here, from the pods' hooks and from [`crate::policy`].

use aya_ebpf::helpers::generated::{bpf_redirect, bpf_skb_set_tstamp, bpf_spin_lock, bpf_spin_unlock};
use aya_ebpf::programs::TcContext;
use skep_abi::logic::gcra::{self, Slack, wire_time_ns};
use skep_abi::{BURST_NS, Direction, DropReason, Flow, Pod, Proto, bucket_index};

use crate::maps::BUCKETS;
use crate::packet::Packet;
use crate::{clock, cluster, delay};

const UDP_SIZE: u64 = 8;
/// How long a packet may wait; one that would wait longer is dropped.
const MAX_WAIT_NS: u64 = 1_000_000_000;

/// Index of the near end of the pace link; 0: there is none. It is set before the programs are loaded: Linux before 5.18
/// rejects a program that can set a packet's time, and 0 makes that code dead.
#[unsafe(no_mangle)]
static PACE: u32 = 0;

#[inline(always)]
fn pace_ifindex() -> u32 {
    // SAFETY: a global that is set before the program is loaded and never written.
    unsafe { core::ptr::read_volatile(&raw const PACE) }
}

/// `BPF_SKB_TSTAMP_UNSPEC` and `BPF_SKB_TSTAMP_DELIVERY_MONO` of linux/bpf.h.
const TSTAMP_UNSPEC: u32 = 0;
const TSTAMP_DELIVERY_MONO: u32 = 1;

/// Results of [`pace`] that are none of the kernel's actions: the packet goes on, or is dropped.
const SEND_NOW: i32 = -2;
const TOO_LATE: i32 = -3;

/// Delays a packet that a pod sends above its rate, if the flow's `flags` say that there may be a limit. The packet must
/// be as the pod sent it, since it passes the hook again. `None`: it goes on now.
#[inline(always)]
pub(crate) fn delay_egress(ctx: &TcContext, packet: &Packet, flags: u32) -> Result<Option<i32>, DropReason> {
    if flags & Flow::LIMITED == 0 || pace_ifindex() == 0 {
        return Ok(None);
    }
    match pace(ctx, packet) {
        SEND_NOW => Ok(None),
        TOO_LATE => Err(DropReason::Bandwidth),
        action => Ok(Some(action)),
    }
}

#[inline(never)]
fn pace(ctx: &TcContext, packet: &Packet) -> i32 {
    if delay::take_rate_mark(ctx) {
        set_time(ctx, 0, TSTAMP_UNSPEC);
        return SEND_NOW;
    }
    let Some(pod) = cluster::pod(packet.sender_addr()) else { return SEND_NOW };
    let now = clock::exact_ns();
    let slack = Slack { burst_ns: 0, wait_ns: MAX_WAIT_NS };
    match take_turn(pod, Direction::EGRESS, wire_bytes(ctx, packet), now, slack) {
        None => TOO_LATE,
        Some(at) if at > now && delay::mark_for_rate(ctx) => {
            set_time(ctx, at, TSTAMP_DELIVERY_MONO);
            // SAFETY: the helper checks the index.
            unsafe { bpf_redirect(pace_ifindex(), 0) as i32 }
        }
        Some(_) => SEND_NOW,
    }
}

#[inline(always)]
fn set_time(ctx: &TcContext, time: u64, kind: u32) {
    // SAFETY: the context is the kernel's; the helper checks the rest.
    let _ = unsafe { bpf_skb_set_tstamp(ctx.skb.skb, time, kind) };
}

/// Charges the packet to the buckets of the pods at its ends, if the flow's `flags` say that there may be a limit.
#[inline(always)]
pub(crate) fn charge(ctx: &TcContext, packet: &Packet, flags: u32) -> Result<(), DropReason> {
    charge_limited(ctx, packet, flags, false)
}

/// As [`charge`], for a packet that opens a flow: it is charged for the sender too, since it did not wait for its turn.
#[inline(always)]
pub(crate) fn charge_first(ctx: &TcContext, packet: &Packet, flags: u32) -> Result<(), DropReason> {
    charge_limited(ctx, packet, flags, true)
}

#[inline(always)]
fn charge_limited(ctx: &TcContext, packet: &Packet, flags: u32, first: bool) -> Result<(), DropReason> {
    if flags & Flow::LIMITED == 0 {
        return Ok(());
    }
    match charge_both(ctx, packet, first) {
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
fn charge_both(ctx: &TcContext, packet: &Packet, first: bool) -> DropReason {
    let (bytes, now) = (wire_bytes(ctx, packet), clock::exact_ns());
    for (addr, direction) in
        [(&packet.source.addr, Direction::EGRESS), (&packet.destination.addr, Direction::INGRESS)]
    {
        let paced = direction == Direction::EGRESS && pace_ifindex() != 0;
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

/// The packet's bytes on the wire: after segmentation every frame has its own headers.
#[inline(always)]
fn wire_bytes(ctx: &TcContext, packet: &Packet) -> u64 {
    // SAFETY: the context is the kernel's; `gso_segs` is a field that every classifier may read.
    let more_frames = unsafe { (*ctx.skb.skb).gso_segs }.saturating_sub(1) as u64;
    let length = ctx.len() as u64;
    if more_frames == 0 {
        return length;
    }
    let transport = if packet.proto == Proto::TCP {
        ctx.load::<u8>(packet.l4 + 12).unwrap_or(0) as u64 >> 4 << 2
    } else {
        UDP_SIZE
    };
    length + more_frames * (packet.l4 as u64 + transport)
}

/// Takes the packet's turn from the pod's bucket: when it may leave; `None`: it would wait too long. Exact on any number of
/// CPUs.
#[inline(always)]
fn take_turn(pod: &Pod, direction: Direction, bytes: u64, now: u64, slack: Slack) -> Option<u64> {
    let rate = pod.rate(direction);
    if rate == 0 {
        return Some(now);
    }
    let Some(bucket) = BUCKETS.get_ptr_mut(bucket_index(pod.slot, direction)) else { return Some(now) };
    let cost = wire_time_ns(bytes, rate);
    // SAFETY: the element lives as long as the program runs. The lock is the element's own, every access to the other
    // fields is under it, and no call is made between lock and unlock.
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
