//! Checksums by the kernel's helpers. The arithmetic is [`skep_abi::logic::checksum`].

use aya_ebpf::bindings::BPF_F_RECOMPUTE_CSUM;
use aya_ebpf::helpers::generated::bpf_csum_diff;
use aya_ebpf::programs::TcContext;
use skep_abi::logic::checksum::fold;

use crate::packet::Packet;

/// Flag of a store whose change no checksum in the packet balances: the card's sum over the packet (CHECKSUM_COMPLETE) follows.
pub(crate) const UPDATE_SUM: u64 = BPF_F_RECOMPUTE_CSUM as u64;

/// What replacing `from` by `to` adds to a sum. The size of `T` is a multiple of four bytes.
#[inline(always)]
pub(crate) fn difference<T>(from: &T, to: &T) -> u64 {
    let (from, to): (*const T, *const T) = (from, to);
    let size = size_of::<T>() as u32;
    // SAFETY: both values have the size given, and the helper only reads.
    unsafe { bpf_csum_diff(from.cast_mut().cast(), size, to.cast_mut().cast(), size, 0) as u64 }
}

/// `sum` with the bytes of `value` added. The size of `T` is a multiple of four bytes.
#[inline(always)]
pub(crate) fn add<T>(value: &T, sum: u32) -> u32 {
    let value: *const T = value;
    // SAFETY: the value has the size given, and the helper only reads.
    unsafe {
        bpf_csum_diff(core::ptr::null_mut(), 0, value.cast_mut().cast(), size_of::<T>() as u32, sum) as u32
    }
}

/// `sum` with the first `len` bytes added, a multiple of four.
#[inline(always)]
pub(crate) fn add_bytes(bytes: &[u8], len: u32, sum: u32) -> u32 {
    // SAFETY: the helper only reads; every caller's length is within `bytes`, and the verifier checks that.
    let result =
        unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, bytes.as_ptr().cast_mut().cast(), len, sum) };
    result as u32
}

/// The sum of the pseudo-header: what a transport checksum holds while a device has yet to complete it. Packets on a
/// virtual link arrive so. Only an skb says it; in XDP one complete checksum in 65,536 looks the same by chance.
#[inline(always)]
pub(crate) fn pseudo_header(packet: &Packet, len: u16) -> u16 {
    let mut sum = (packet.proto.0 as u16).to_be() as u64 + len.to_be() as u64;
    let from = if packet.is_v4() { 3 } else { 0 };
    for i in from..4 {
        sum += packet.source.addr.0[i] as u64 + packet.destination.addr.0[i] as u64;
    }
    fold(sum)
}

/// Whether the device completes the checksum at `check_at` (CHECKSUM_PARTIAL): only then does the helper leave it alone.
#[inline(always)]
pub(crate) fn is_partial(ctx: &TcContext, check_at: usize) -> Option<bool> {
    let before: u16 = ctx.load(check_at).ok()?;
    ctx.l4_csum_replace(check_at, 0, 1, 2).ok()?;
    let after: u16 = ctx.load(check_at).ok()?;
    if before == after {
        return Some(true);
    }
    ctx.store(check_at, &before, 0).ok()?;
    Some(false)
}
