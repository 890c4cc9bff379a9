//! `tc_delay`: ingress of the far end of the delay link and the pace link; see [`crate::delay`].

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::delay;

#[classifier]
pub(crate) fn tc_delay(ctx: TcContext) -> i32 {
    delay::return_packet(&ctx)
}
