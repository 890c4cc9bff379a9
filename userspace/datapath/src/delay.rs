//! The delay link, on which later fragments wait that arrive before the first one.
//!
//! In: the uplink's MTU. Out: a link whose token bucket filter has a rate and a queue limit.

use crate::error::DatapathError;
use crate::side_link::{SideLink, SideLinkSpec};

/// Rate of the link. A fragment returns after the time that it and those waiting before it take: 32 ms for a whole datagram.
const BYTES_PER_SECOND: u32 = 2_000_000;
/// Bytes that may wait: four of the largest datagrams.
const MAX_WAITING_BYTES: u32 = 262_144;

/// linux/pkt_sched.h
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_BURST: u16 = 6;
const TC_LINKLAYER_ETHERNET: u8 = 1;

pub(crate) fn set_up(uplink_mtu: u32) -> Result<Option<SideLink>, DatapathError> {
    // The bucket's size: a packet larger than it would never pass.
    let burst = uplink_mtu.max(1_500) + 64;
    let spec = SideLinkSpec {
        near: "skep-delay",
        far: "skep-delayed",
        pin: "delay-ingress",
        qdisc: "tbf",
        options: vec![(TCA_TBF_PARMS, parameters()), (TCA_TBF_BURST, burst.to_ne_bytes().to_vec())],
        fallback: "fragments that arrive before the first one are dropped",
    };
    spec.set_up()
}

/// `struct tc_tbf_qopt`: rate, peak rate (none), limit; buffer and mtu, which TCA_TBF_BURST gives in bytes.
fn parameters() -> Vec<u8> {
    // `struct tc_ratespec`: cell_log, linklayer, overhead, cell_align, mpu, rate.
    let mut bytes = vec![0, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    bytes.extend(BYTES_PER_SECOND.to_ne_bytes());
    bytes.extend([0; 12]);
    bytes.extend(MAX_WAITING_BYTES.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes
}
