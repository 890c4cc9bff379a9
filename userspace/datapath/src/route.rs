//! Routes to the other nodes' pods.
//!
//! In: a pod CIDR and the node that has it. Out: a route with our own protocol number, over the overlay if there is one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnetwork::IpNetwork;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::RouteMessageBuilder;

use crate::error::DatapathError;
use crate::netlink::{is_errno, run};
use crate::overlay::{self, Overlay};

/// rtm_protocol of our routes; numbers above 4 are for user space (rtnetlink(7)).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(83);

fn message(cidr: IpNetwork) -> Result<RouteMessageBuilder<IpAddr>, DatapathError> {
    let builder = RouteMessageBuilder::<IpAddr>::new()
        .protocol(PROTOCOL)
        .destination_prefix(cidr.network(), cidr.prefix())
        .map_err(|_| mismatch(cidr))?;
    Ok(builder)
}

fn mismatch(cidr: IpNetwork) -> DatapathError {
    DatapathError::Changed {
        name: cidr.to_string(),
        what: "prefix and next hop are of different families".to_owned(),
    }
}

/// Adds or replaces the route, and over an overlay the peer.
pub(crate) fn put(cidr: IpNetwork, via: IpAddr, overlay: &Overlay) -> Result<(), DatapathError> {
    let mut route = message(cidr)?.gateway(via).map_err(|_| mismatch(cidr))?;
    let device = overlay.device(cidr.is_ipv4());
    if let Some(device) = device {
        route = route.output_interface(device.index).onlink();
        route = route.pref_source(device.local).map_err(|_| mismatch(cidr))?;
    }
    run(None, move |handle| async move {
        if let Some(device) = device {
            overlay::add_peer(&handle, device.index, via).await?;
        }
        let added = handle.route().add(route.build()).replace().execute().await;
        added.map_err(DatapathError::netlink(format!("route to {cidr} via {via}")))
    })
}

/// Deletes the route; idempotent.
pub(crate) fn delete(cidr: IpNetwork, overlay: &Overlay) -> Result<(), DatapathError> {
    let route = message(cidr)?.build();
    let before = ours(overlay)?;
    run(None, move |handle| async move {
        match handle.route().del(route).execute().await {
            Err(error) if is_errno(&error, libc::ESRCH) => Ok(()),
            result => result.map_err(DatapathError::netlink(format!("delete the route to {cidr}"))),
        }
    })?;
    // With the last route to a node its overlay peer is removed too.
    let Some((via, device)) = before.get(&cidr).copied().zip(overlay.device(cidr.is_ipv4())) else {
        return Ok(());
    };
    if before.iter().any(|(other, to)| *other != cidr && *to == via) {
        return Ok(());
    }
    run(None, move |handle| async move { overlay::delete_peer(&handle, device.index, via).await })
}

/// Our routes in this namespace. With an overlay, routes that do not go over it are left out, so that they are replaced.
pub(crate) fn ours(overlay: &Overlay) -> Result<BTreeMap<IpNetwork, IpAddr>, DatapathError> {
    let overlay = *overlay;
    run(None, move |handle| async move {
        let mut routes = BTreeMap::new();
        let families =
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
        for family in families {
            let mut all = handle.route().get(family).execute();
            while let Some(route) = all.try_next().await.map_err(DatapathError::netlink("list routes"))? {
                routes.extend(parse(&route, &overlay));
            }
        }
        Ok(routes)
    })
}

fn parse(route: &RouteMessage, overlay: &Overlay) -> Option<(IpNetwork, IpAddr)> {
    if route.header.protocol != PROTOCOL {
        return None;
    }
    let (mut destination, mut gateway, mut interface) = (None, None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(to) => destination = address(to),
            RouteAttribute::Gateway(via) => gateway = address(via),
            RouteAttribute::Oif(index) => interface = Some(*index),
            _ => {}
        }
    }
    let gateway = gateway?;
    if overlay.device(gateway.is_ipv4()).is_some_and(|device| interface != Some(device.index)) {
        return None;
    }
    Some((IpNetwork::new(destination?, route.header.destination_prefix_length).ok()?, gateway))
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
