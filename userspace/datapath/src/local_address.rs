//! Addresses at which the node itself serves Services, on loopback.
//!
//! In: all such addresses. Out: they are on `lo`, with our protocol number, and no others of ours. They are never chosen as a
//! source for other destinations: IPv4 ones have the scope of the host, IPv6 ones are deprecated (RFC 4862, 5.5.4).

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::address::{
    AddressAttribute, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};
use netlink_packet_route::link::LinkFlags;
use rtnetlink::{Handle, LinkUnspec};

use crate::error::DatapathError;
use crate::netlink::{get_link, is_errno, run};

const LOOPBACK: &str = "lo";
/// IFA_PROTO of our addresses. Linux before 5.18 does not keep it: there addresses of before stay until the node restarts.
const PROTOCOL: u8 = 83;

/// Makes `wanted` all of the addresses of ours; idempotent. In this process's network namespace.
pub fn set_local_addresses(wanted: BTreeSet<IpAddr>) -> Result<(), DatapathError> {
    run(None, move |handle| async move {
        let link = get_link(&handle, LOOPBACK).await?;
        let link = link.ok_or_else(|| DatapathError::NoInterface { name: LOOPBACK.to_owned() })?;
        let index = link.header.index;
        if !link.header.flags.contains(LinkFlags::Up) {
            let up = handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await;
            up.map_err(DatapathError::netlink("set lo up".to_owned()))?;
        }
        let present = addresses(&handle, index).await?;
        for (ip, message) in &present {
            if is_ours(message) && !wanted.contains(ip) {
                remove(&handle, message.clone(), *ip).await?;
            }
        }
        let known: BTreeSet<IpAddr> = present.iter().map(|(ip, _)| *ip).collect();
        for ip in wanted.difference(&known) {
            add(&handle, index, *ip).await?;
        }
        Ok(())
    })
}

async fn addresses(handle: &Handle, index: u32) -> Result<Vec<(IpAddr, AddressMessage)>, DatapathError> {
    let listed = handle.address().get().set_link_index_filter(index).execute();
    let messages: Vec<AddressMessage> =
        listed.try_collect().await.map_err(DatapathError::netlink("list addresses of lo".to_owned()))?;
    let address = |message: AddressMessage| {
        let ip = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        });
        Some((ip?, message))
    };
    Ok(messages.into_iter().filter_map(address).collect())
}

fn is_ours(message: &AddressMessage) -> bool {
    message.attributes.iter().any(|attribute| *attribute == AddressAttribute::Protocol(PROTOCOL.into()))
}

async fn add(handle: &Handle, index: u32, ip: IpAddr) -> Result<(), DatapathError> {
    let bits = if ip.is_ipv4() { 32 } else { 128 };
    let mut request = handle.address().add(index, ip, bits);
    let message = request.message_mut();
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::from(PROTOCOL)));
    if ip.is_ipv4() {
        message.header.scope = AddressScope::Host;
    } else {
        let mut times = CacheInfo::default();
        (times.ifa_preferred, times.ifa_valid) = (0, u32::MAX);
        message.attributes.push(AddressAttribute::CacheInfo(times));
    }
    match request.execute().await {
        Err(error) if is_errno(&error, libc::EEXIST) => Ok(()),
        added => added.map_err(DatapathError::netlink(format!("add {ip} to lo"))),
    }
}

async fn remove(handle: &Handle, message: AddressMessage, ip: IpAddr) -> Result<(), DatapathError> {
    match handle.address().del(message).execute().await {
        Err(error) if is_errno(&error, libc::EADDRNOTAVAIL) => Ok(()),
        removed => removed.map_err(DatapathError::netlink(format!("remove {ip} from lo"))),
    }
}
