//! A link beside the node's traffic: a veth pair whose near end lets packets through by a queueing discipline, and from whose
//! far end `tc_delay` gives them back to where they came from.

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

/// Whatever came over another link fits.
const MTU: u32 = 65_535;

/// One that stands.
pub(crate) struct SideLink {
    /// The near end's index.
    pub(crate) near: u32,
    pub(crate) far: &'static str,
    /// Under which the far end's program is pinned.
    pub(crate) pin: &'static str,
}

pub(crate) struct Wanted {
    pub(crate) near: &'static str,
    pub(crate) far: &'static str,
    pub(crate) pin: &'static str,
    /// The discipline, and its attributes as linux/pkt_sched.h has them.
    pub(crate) qdisc: &'static str,
    pub(crate) options: Vec<(u16, Vec<u8>)>,
    /// What becomes of the packets without it.
    pub(crate) otherwise: &'static str,
}

impl Wanted {
    /// Makes the link; idempotent. `None`, and no link, if the kernel does not have the discipline: without it packets would
    /// run in circles.
    pub(crate) fn set_up(self) -> Result<Option<SideLink>, DatapathError> {
        let Wanted { near, far, pin, qdisc, options, otherwise } = self;
        let (near_index, far_index) = run(None, move |handle| async move {
            if get_link(&handle, near).await?.is_none() {
                let pair = LinkVeth::new(near, far).build();
                let added = handle.link().add(pair).execute().await;
                added.map_err(DatapathError::netlink(format!("add {near}")))?;
            }
            Ok((index(&handle, near).await?, index(&handle, far).await?))
        })?;
        // Nobody has an address there, and nobody is to look for one.
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
            let queued = queue(&handle, near_index, qdisc, options).await;
            if queued.is_err() {
                remove_link(&handle, near).await?;
            }
            Ok(queued)
        })?;
        match queued {
            Ok(()) => Ok(Some(SideLink { near: near_index, far, pin })),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, qdisc, "{otherwise}");
                Ok(None)
            }
        }
    }
}

async fn index(handle: &Handle, name: &str) -> Result<u32, DatapathError> {
    let found = get_link(handle, name).await?;
    found.map(|link| link.header.index).ok_or_else(|| DatapathError::NoInterface { name: name.to_owned() })
}

async fn queue(
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
