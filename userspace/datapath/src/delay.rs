//! The link on which fragments wait that come before their first one: it lets through so many bytes a second (a token bucket
//! filter) and holds so many.

use crate::error::DatapathError;
use crate::side_link::{SideLink, Wanted};

/// A fragment comes again after its length by this, or that of all that wait with it: a whole datagram is 32 ms.
const BYTES_A_SECOND: u32 = 2_000_000;
/// What waits is at most this: four of the largest datagrams.
const BYTES: u32 = 262_144;

/// Of linux/pkt_sched.h.
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_BURST: u16 = 6;
const TC_LINKLAYER_ETHERNET: u8 = 1;

pub(crate) fn set_up(uplink_mtu: u32) -> Result<Option<SideLink>, DatapathError> {
    // Bytes that pass at once, no fewer than any packet has.
    let burst = uplink_mtu.max(1_500) + 64;
    let link = Wanted {
        near: "skep-delay",
        far: "skep-delayed",
        pin: "delay-ingress",
        qdisc: "tbf",
        options: vec![(TCA_TBF_PARMS, parameters()), (TCA_TBF_BURST, burst.to_ne_bytes().to_vec())],
        otherwise: "fragments that come before their first one are dropped",
    };
    link.set_up()
}

/// `struct tc_tbf_qopt`: rate, peak rate (none), limit; buffer and mtu, which are told in bytes elsewhere.
fn parameters() -> Vec<u8> {
    // `struct tc_ratespec`: cell_log, linklayer, overhead, cell_align, mpu, rate.
    let mut bytes = vec![0, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    bytes.extend(BYTES_A_SECOND.to_ne_bytes());
    bytes.extend([0; 12]);
    bytes.extend(BYTES.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes
}
