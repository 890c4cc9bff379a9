//! The pace link, on which packets that a pod sends above its rate wait for their departure time.
//!
//! In: the kernel's version. Out: a link whose `fq` holds each packet until its time.

use aya::util::KernelVersion;

use crate::error::DatapathError;
use crate::side_link::{SideLink, SideLinkSpec};

/// linux/pkt_sched.h: packets that may wait in all, and of one flow. The programs limit how long a packet waits, and so the
/// number.
const TCA_FQ_PLIMIT: u16 = 1;
const TCA_FQ_FLOW_PLIMIT: u16 = 2;
const MAX_WAITING_PACKETS: u32 = 65_536;

/// Makes the link. `None`: the kernel has no `fq`, or cannot set a packet's time (`bpf_skb_set_tstamp`, Linux 5.18).
pub(crate) fn set_up() -> Result<Option<SideLink>, DatapathError> {
    if !KernelVersion::current().is_ok_and(|kernel| kernel >= KernelVersion::new(5, 18, 0)) {
        return Ok(None);
    }
    let packets = || MAX_WAITING_PACKETS.to_ne_bytes().to_vec();
    let spec = SideLinkSpec {
        near: "skep-pace",
        far: "skep-paced",
        pin: "pace-ingress",
        qdisc: "fq",
        options: vec![(TCA_FQ_PLIMIT, packets()), (TCA_FQ_FLOW_PLIMIT, packets())],
        fallback: "packets that pods send above their bandwidth are dropped",
    };
    spec.set_up()
}
