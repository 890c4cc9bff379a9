//! Ingress of the delay link's far end: see [`crate::delay`].

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::delay;

#[classifier]
pub(crate) fn tc_delay(ctx: TcContext) -> i32 {
    delay::back(&ctx)
}
