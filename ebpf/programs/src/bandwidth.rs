//! What pods with a limited bandwidth send and receive. What is over is dropped: on a pod's link nothing queues.
//!
//! Every packet of such a pod comes here once, from [`crate::policy`]: the flows of all others never do.

use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_spin_lock, bpf_spin_unlock};
use aya_ebpf::programs::TcContext;
use skep_abi::{BURST, Direction, DropReason, Flow, Pod, Proto, bucket_index, duration};

use crate::maps::BUCKETS;
use crate::parse::Packet;
use crate::policy;

const UDP_SIZE: u64 = 8;

/// Takes the packet from the buckets of the pods at its ends, if the flow's `flags` say that there are any.
#[inline(always)]
pub(crate) fn take(ctx: &TcContext, packet: &Packet, flags: u32) -> Result<(), DropReason> {
    if flags & Flow::LIMITED == 0 {
        return Ok(());
    }
    match spend(ctx, packet) {
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
fn spend(ctx: &TcContext, packet: &Packet) -> DropReason {
    let bytes = wire_bytes(ctx, packet);
    for (addr, direction) in
        [(&packet.source.addr, Direction::EGRESS), (&packet.destination.addr, Direction::INGRESS)]
    {
        if let Some(pod) = policy::pod(addr)
            && !within(pod, direction, bytes)
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

/// Whether the pod may have the packet now; if so, it is spent. Exact whatever number of CPUs do this at a time.
#[inline(always)]
fn within(pod: &Pod, direction: Direction, bytes: u64) -> bool {
    let rate = pod.rate(direction);
    if rate == 0 {
        return true;
    }
    let Some(bucket) = BUCKETS.get_ptr_mut(bucket_index(pod.slot, direction)) else { return true };
    let cost = duration(bytes, rate);
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let full = now.saturating_sub(BURST);
    // SAFETY: the element lives as long as the program runs. The lock is its own, is held for what only the holder does
    // with it, and no call stands between taking it and giving it back.
    unsafe {
        let lock = (&raw mut (*bucket).lock).cast();
        bpf_spin_lock(lock);
        let next = if (*bucket).ifindex == pod.ifindex { (*bucket).next } else { 0 };
        let within = next <= now;
        if within {
            let from = if next > full { next } else { full };
            ((*bucket).next, (*bucket).ifindex) = (from + cost, pod.ifindex);
        }
        bpf_spin_unlock(lock);
        within
    }
}
