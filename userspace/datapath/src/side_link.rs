//! A link on which packets wait.
//!
//! In: a queueing discipline. Out: a veth pair that has it on the near end; `tc_delay` on the far end returns packets to the
//! interface that they came from.

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

/// Bytes of a packet: one from any other link fits.
const MTU: u32 = 65_535;

/// A link that was set up.
pub(crate) struct SideLink {
    /// Index of the near end.
    pub(crate) near: u32,
    /// Name of the far end.
    pub(crate) far: &'static str,
    /// Name of the pin of the far end's program.
    pub(crate) pin: &'static str,
}

/// What a link is to be.
pub(crate) struct SideLinkSpec {
    /// Name of the near end.
    pub(crate) near: &'static str,
    /// Name of the far end.
    pub(crate) far: &'static str,
    /// Name of the pin of the far end's program.
    pub(crate) pin: &'static str,
    /// Name of the queueing discipline, and its attributes as linux/pkt_sched.h has them.
    pub(crate) qdisc: &'static str,
    pub(crate) options: Vec<(u16, Vec<u8>)>,
    /// What happens to the packets without the link, for the log.
    pub(crate) fallback: &'static str,
}

impl SideLinkSpec {
    /// Makes the link; idempotent. `None`: the kernel does not have the discipline. Then there is no link, since packets would
    /// circulate without delay.
    pub(crate) fn set_up(self) -> Result<Option<SideLink>, DatapathError> {
        let SideLinkSpec { near, far, pin, qdisc, options, fallback } = self;
        let (near_index, far_index) = run(None, move |handle| async move {
            if get_link(&handle, near).await?.is_none() {
                let pair = LinkVeth::new(near, far).build();
                let added = handle.link().add(pair).execute().await;
                added.map_err(DatapathError::netlink(format!("add {near}")))?;
            }
            Ok((index(&handle, near).await?, index(&handle, far).await?))
        })?;
        // The ends have no addresses and need no address resolution.
        for name in [near, far] {
            let conf = Path::new("net/ipv6/conf").join(name);
            if Path::new("/proc/sys").join(&conf).exists() {
                sysctl(&conf.join("disable_ipv6"), "1")?;
            }
        }
        let queued = run(None, move |handle| async move {
            for (name, index) in [(near, near_index), (far, far_index)] {
                let mut up = LinkUnspec::new_with_index(index).mtu(MTU).up().build();
                up.header.flags |= LinkFlags::Noarp;
                up.header.change_mask |= LinkFlags::Noarp;
                let set = handle.link().set(up).execute().await;
                set.map_err(DatapathError::netlink(format!("bring {name} up")))?;
            }
            let queued = set_qdisc(&handle, near_index, qdisc, options).await;
            if queued.is_err() {
                remove_link(&handle, near).await?;
            }
            Ok(queued)
        })?;
        match queued {
            Ok(()) => Ok(Some(SideLink { near: near_index, far, pin })),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(qdisc, error, fallback, "add queueing discipline failed");
                Ok(None)
            }
        }
    }
}

/// Index of the link with that name.
async fn index(handle: &Handle, name: &str) -> Result<u32, DatapathError> {
    let found = get_link(handle, name).await?;
    found.map(|link| link.header.index).ok_or_else(|| DatapathError::NoInterface { name: name.to_owned() })
}

/// Sets the root queueing discipline of the interface.
async fn set_qdisc(
    handle: &Handle,
    index: u32,
    kind: &str,
    options: Vec<(u16, Vec<u8>)>,
) -> Result<(), rtnetlink::Error> {
    let mut qdisc = TcMessage::with_index(index as i32);
    qdisc.header.parent = TcHandle::ROOT;
    let options = options.into_iter().map(|(kind, value)| TcOption::Other(DefaultNla::new(kind, value)));
    qdisc.attributes = vec![TcAttribute::Kind(kind.to_owned()), TcAttribute::Options(options.collect())];
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(qdisc));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let mut answers = handle.clone().request(request)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(rtnetlink::Error::NetlinkError(error));
        }
    }
    Ok(())
}
