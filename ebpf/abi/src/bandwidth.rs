//! Bandwidth of pods: `BUCKETS`, one token bucket for each limited direction of a pod. [`crate::logic::gcra`] decides.

use crate::{Direction, Pod, SLOTS_MAX};

/// Elements of `BUCKETS`, an array of [`Bucket`]: two for each slot of a pod, see [`bucket_index`].
pub const BUCKETS_MAX: u32 = 2 * SLOTS_MAX;

/// What a pod that was silent may send at once, in nanoseconds at its rate. It exceeds TCP's minimum retransmission
/// timeout, so that a connection which lost the end of a burst still reaches the rate.
pub const BURST_NS: u64 = 250_000_000;

/// A token bucket as one time (GCRA, ITU-T I.371).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Bucket {
    /// The theoretical arrival time of the next packet: when everything that passed would be sent at the rate, in
    /// nanoseconds of the monotonic clock.
    pub next: u64,
    /// The pod's host-side interface. Slots are reused; a bucket of another interface counts as empty.
    pub ifindex: u32,
    /// Guards `next` and `ifindex`.
    pub lock: bpf_spin_lock,
}

/// The kernel's spin lock. The kernel recognises it in a map's BTF by this name.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct bpf_spin_lock {
    /// Used by the kernel only.
    pub val: u32,
}

/// Index in `BUCKETS` of the pod with `slot` in `direction`.
#[inline(always)]
pub const fn bucket_index(slot: u32, direction: Direction) -> u32 {
    slot * 2 + direction.0 as u32
}

impl Pod {
    /// The limit in bits a second; 0: none.
    #[inline(always)]
    pub const fn rate(&self, direction: Direction) -> u64 {
        if direction.0 == Direction::INGRESS.0 { self.ingress_rate } else { self.egress_rate }
    }

    /// Whether either direction has a limit.
    #[inline(always)]
    pub const fn is_limited(&self) -> bool {
        self.ingress_rate | self.egress_rate != 0
    }
}

crate::layout::plain!(Bucket: 16);
