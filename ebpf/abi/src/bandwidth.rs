//! Bandwidth of pods: `BUCKETS`, how far each pod is ahead of its rate.

use crate::{Direction, Pod, SLOTS_MAX};

/// `BUCKETS`: array of [`Bucket`], two for each slot of a pod; see [`bucket_index`].
pub const BUCKETS_MAX: u32 = 2 * SLOTS_MAX;

/// What a pod that was silent may send at once, as a time at its rate, in nanoseconds: more than TCP waits at least for
/// an acknowledgement, so that a connection which lost the end of a burst still gets the rate.
pub const BURST: u64 = 250_000_000;

/// A token bucket as one number (GCRA, ITU-T I.371): when all that passed would have, at the rate.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Bucket {
    /// Nanoseconds of the monotonic clock. A packet passes unless this lies ahead.
    pub next: u64,
    /// Whose it is; slots are used again.
    pub ifindex: u32,
    /// Of the two above.
    pub lock: bpf_spin_lock,
}

/// The kernel's, which knows it in a map's value by this name.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct bpf_spin_lock {
    pub val: u32,
}

#[inline(always)]
pub const fn bucket_index(slot: u32, direction: Direction) -> u32 {
    slot * 2 + direction.0 as u32
}

impl Pod {
    /// In bits a second; 0: no limit.
    #[inline(always)]
    pub const fn rate(&self, direction: Direction) -> u64 {
        if direction.0 == Direction::INGRESS.0 { self.ingress_rate } else { self.egress_rate }
    }

    #[inline(always)]
    pub const fn is_limited(&self) -> bool {
        self.ingress_rate | self.egress_rate != 0
    }
}

/// Nanoseconds that so many bytes take at a rate in bits a second that is not 0.
#[inline(always)]
pub const fn duration(bytes: u64, rate: u64) -> u64 {
    bytes * 8_000_000_000 / rate
}

crate::plain!(Bucket: 16);
