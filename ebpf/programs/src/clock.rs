//! The clocks: the coarse one for timeouts, its tick for cheap comparison, the exact one for rates.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};

/// The monotonic clock in nanoseconds, at the resolution of the kernel's timer: enough for timeouts and cheaper than
/// [`exact_ns`].
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// The monotonic clock in nanoseconds.
#[inline(always)]
pub(crate) fn exact_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// A count of 64 jiffies, which are 64 to 640 ms. Unlike a clock it costs no call.
#[inline(always)]
pub(crate) fn tick() -> u32 {
    // SAFETY: the helper has no preconditions.
    unsafe { (bpf_jiffies64() >> 6) as u32 }
}
