//! Routes to the other nodes' pods, marked as ours by their protocol number.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnetwork::IpNetwork;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::RouteMessageBuilder;

use crate::error::DatapathError;
use crate::netlink::{is_errno, run};

/// rtm_protocol of our routes; the kernel leaves numbers above 4 to whoever sets them (rtnetlink(7)).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(83);

fn message(cidr: IpNetwork, via: Option<IpAddr>) -> Result<RouteMessage, DatapathError> {
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .protocol(PROTOCOL)
        .destination_prefix(cidr.network(), cidr.prefix())
        .map_err(|_| mismatch(cidr))?;
    if let Some(via) = via {
        builder = builder.gateway(via).map_err(|_| mismatch(cidr))?;
    }
    Ok(builder.build())
}

fn mismatch(cidr: IpNetwork) -> DatapathError {
    DatapathError::Changed {
        name: cidr.to_string(),
        what: "prefix and next hop are of different families".to_owned(),
    }
}

pub(crate) fn put(cidr: IpNetwork, via: IpAddr) -> Result<(), DatapathError> {
    let route = message(cidr, Some(via))?;
    run(None, move |handle| async move {
        let added = handle.route().add(route).replace().execute().await;
        added.map_err(DatapathError::netlink(format!("route to {cidr} via {via}")))
    })
}

pub(crate) fn delete(cidr: IpNetwork) -> Result<(), DatapathError> {
    let route = message(cidr, None)?;
    run(None, move |handle| async move {
        match handle.route().del(route).execute().await {
            Err(error) if is_errno(&error, libc::ESRCH) => Ok(()),
            result => result.map_err(DatapathError::netlink(format!("delete the route to {cidr}"))),
        }
    })
}

/// Our routes in this namespace.
pub(crate) fn ours() -> Result<BTreeMap<IpNetwork, IpAddr>, DatapathError> {
    run(None, |handle| async move {
        let mut routes = BTreeMap::new();
        let families =
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
        for family in families {
            let mut all = handle.route().get(family).execute();
            while let Some(route) = all.try_next().await.map_err(DatapathError::netlink("list routes"))? {
                routes.extend(parse(&route));
            }
        }
        Ok(routes)
    })
}

fn parse(route: &RouteMessage) -> Option<(IpNetwork, IpAddr)> {
    if route.header.protocol != PROTOCOL {
        return None;
    }
    let (mut destination, mut gateway) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(to) => destination = address(to),
            RouteAttribute::Gateway(via) => gateway = address(via),
            _ => {}
        }
    }
    Some((IpNetwork::new(destination?, route.header.destination_prefix_length).ok()?, gateway?))
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
