//! The link on which fragments wait that come before their first one: a veth pair whose near end lets through so many bytes
//! a second (a token bucket filter) and holds so many. `tc_delay` on the far end gives them back.

use std::path::Path;

use futures::StreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkFlags;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::{Handle, LinkUnspec, LinkVeth};

use crate::error::DatapathError;
use crate::netlink::{get_link, remove_link, run};
use crate::pod_link::sysctl;

const NEAR: &str = "skep-delay";
pub(crate) const FAR: &str = "skep-delayed";

/// A fragment comes again after its length by this, or that of all that wait with it: a whole datagram is 32 ms.
const BYTES_A_SECOND: u32 = 2_000_000;
/// What waits is at most this: four of the largest datagrams.
const BYTES: u32 = 262_144;
const MTU: u32 = 65_535;

/// Of linux/pkt_sched.h.
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_BURST: u16 = 6;
const TC_LINKLAYER_ETHERNET: u8 = 1;

/// Makes the link; idempotent. Returns the near end's index, 0 if the kernel has no token bucket filter: without it
/// fragments would run in circles.
pub(crate) fn set_up(uplink_mtu: u32) -> Result<u32, DatapathError> {
    let (near, far) = run(None, |handle| async move {
        if get_link(&handle, NEAR).await?.is_none() {
            let pair = LinkVeth::new(NEAR, FAR).build();
            let added = handle.link().add(pair).execute().await;
            added.map_err(DatapathError::netlink(format!("add {NEAR}")))?;
        }
        Ok((index(&handle, NEAR).await?, index(&handle, FAR).await?))
    })?;
    // Nobody has an address there, and nobody is to look for one.
    for name in [NEAR, FAR] {
        let conf = Path::new("net/ipv6/conf").join(name);
        if Path::new("/proc/sys").join(&conf).exists() {
            sysctl(&conf.join("disable_ipv6"), "1")?;
        }
    }
    let shaped = run(None, move |handle| async move {
        for (name, index) in [(NEAR, near), (FAR, far)] {
            let mut up = LinkUnspec::new_with_index(index).mtu(MTU).up().build();
            up.header.flags |= LinkFlags::Noarp;
            up.header.change_mask |= LinkFlags::Noarp;
            let set = handle.link().set(up).execute().await;
            set.map_err(DatapathError::netlink(format!("bring {name} up")))?;
        }
        let burst = uplink_mtu.max(1_500) + 64;
        let shaped = shape(&handle, near, burst).await;
        if shaped.is_err() {
            remove_link(&handle, NEAR).await?;
        }
        Ok(shaped)
    })?;
    match shaped {
        Ok(()) => Ok(near),
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "fragments that come before their first one are dropped");
            Ok(0)
        }
    }
}

async fn index(handle: &Handle, name: &str) -> Result<u32, DatapathError> {
    let found = get_link(handle, name).await?;
    found.map(|link| link.header.index).ok_or_else(|| DatapathError::NoInterface { name: name.to_owned() })
}

/// `burst`: bytes that pass at once, no fewer than any packet has.
async fn shape(handle: &Handle, index: u32, burst: u32) -> Result<(), DatapathError> {
    let failed = DatapathError::netlink(format!("limit the rate of {NEAR}"));
    let mut qdisc = TcMessage::with_index(index as i32);
    qdisc.header.parent = TcHandle::ROOT;
    let options = [(TCA_TBF_PARMS, parameters()), (TCA_TBF_BURST, burst.to_ne_bytes().to_vec())];
    let options = options.map(|(kind, value)| TcOption::Other(DefaultNla::new(kind, value)));
    qdisc.attributes = vec![TcAttribute::Kind("tbf".to_owned()), TcAttribute::Options(options.to_vec())];
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(qdisc));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let mut handle = handle.clone();
    let mut answers = match handle.request(request) {
        Ok(answers) => answers,
        Err(error) => return Err(failed(error)),
    };
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(failed(rtnetlink::Error::NetlinkError(error)));
        }
    }
    Ok(())
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
