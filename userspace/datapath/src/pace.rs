//! The link on which what a pod sends over its rate waits for its departure time: `fq` holds each packet until then.

use aya::util::KernelVersion;

use crate::error::DatapathError;
use crate::side_link::{SideLink, Wanted};

/// Of linux/pkt_sched.h: packets that may wait, and those of one flow. The programs bound how long, and so how many.
const TCA_FQ_PLIMIT: u16 = 1;
const TCA_FQ_FLOW_PLIMIT: u16 = 2;
const PACKETS: u32 = 65_536;

/// `None` also where a packet's time cannot be set (`bpf_skb_set_tstamp`, Linux 5.18).
pub(crate) fn set_up() -> Result<Option<SideLink>, DatapathError> {
    if !KernelVersion::current().is_ok_and(|kernel| kernel >= KernelVersion::new(5, 18, 0)) {
        return Ok(None);
    }
    let packets = || PACKETS.to_ne_bytes().to_vec();
    let link = Wanted {
        near: "skep-pace",
        far: "skep-paced",
        pin: "pace-ingress",
        qdisc: "fq",
        options: vec![(TCA_FQ_PLIMIT, packets()), (TCA_FQ_FLOW_PLIMIT, packets())],
        otherwise: "what pods send over their bandwidth is dropped",
    };
    link.set_up()
}
