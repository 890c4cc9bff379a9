//! Routes to the other nodes' pods, and unreachable routes for this node's.
//!
//! In: a pod CIDR and the node that has it. Out: a route with our own protocol number, over the overlay if there is one.
//! Without an overlay a node that is not on a link of ours gets none: the network between the nodes routes its pods, by
//! routes that are not ours, or no route does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnetwork::IpNetwork;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::error::DatapathError;
use crate::netlink::{is_errno, run};
use crate::overlay::{self, Overlay};

/// rtm_protocol of our routes; numbers above 4 are for user space (rtnetlink(7)).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(83);
/// Metric of unreachable routes: every other route for the same prefix goes before them.
const UNREACHABLE_METRIC: u32 = u32::MAX;

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
        match handle.route().add(route.build()).replace().execute().await {
            Err(error) if is_off_link(&error) => {
                // A route to the node's address of before would lead to another machine.
                remove(&handle, message(cidr)?.build(), cidr).await?;
                match is_routed_by_others(&handle, cidr).await? {
                    true => Err(DatapathError::RoutedByOthers { cidr, via }),
                    false => Err(DatapathError::OffLink { cidr, via }),
                }
            }
            added => added.map_err(DatapathError::netlink(format!("route to {cidr} via {via}"))),
        }
    })
}

/// Whether the kernel knows no link with the next hop: IPv4's answer, and IPv6's.
fn is_off_link(error: &rtnetlink::Error) -> bool {
    is_errno(error, libc::ENETUNREACH) || is_errno(error, libc::EHOSTUNREACH)
}

/// Whether a route of others leads to the network. The default route does not count: it leads everywhere, whether there
/// are pods or not.
async fn is_routed_by_others(handle: &Handle, cidr: IpNetwork) -> Result<bool, DatapathError> {
    let length = if cidr.is_ipv4() { 32 } else { 128 };
    let mut question = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(cidr.network(), length)
        .map_err(|_| mismatch(cidr))?
        .build();
    // The route itself, instead of what it means for one packet.
    question.header.flags |= RouteFlags::FibMatch;
    let found = match handle.route().get(question).execute().try_next().await {
        Err(error) if is_off_link(&error) => None,
        found => found.map_err(DatapathError::netlink(format!("look up the route to {cidr}")))?,
    };
    Ok(found.is_some_and(|route| {
        let header = route.header;
        header.kind == RouteType::Unicast
            && header.destination_prefix_length > 0
            && header.protocol != PROTOCOL
    }))
}

/// Adds the route that refuses packets; idempotent.
pub(crate) fn put_unreachable(cidr: IpNetwork) -> Result<(), DatapathError> {
    let route = unreachable(cidr)?;
    run(None, move |handle| async move {
        let added = handle.route().add(route).replace().execute().await;
        added.map_err(DatapathError::netlink(format!("unreachable route for {cidr}")))
    })
}

/// Deletes the route that refuses packets; idempotent.
pub(crate) fn delete_unreachable(cidr: IpNetwork) -> Result<(), DatapathError> {
    let route = unreachable(cidr)?;
    run(None, move |handle| async move { remove(&handle, route, cidr).await })
}

fn unreachable(cidr: IpNetwork) -> Result<RouteMessage, DatapathError> {
    Ok(message(cidr)?.kind(RouteType::Unreachable).priority(UNREACHABLE_METRIC).build())
}

async fn remove(handle: &Handle, route: RouteMessage, cidr: IpNetwork) -> Result<(), DatapathError> {
    match handle.route().del(route).execute().await {
        Err(error) if is_errno(&error, libc::ESRCH) => Ok(()),
        result => result.map_err(DatapathError::netlink(format!("delete the route to {cidr}"))),
    }
}

/// Deletes the route; idempotent.
pub(crate) fn delete(cidr: IpNetwork, overlay: &Overlay) -> Result<(), DatapathError> {
    let route = message(cidr)?.build();
    let before = ours(overlay)?.via;
    run(None, move |handle| async move { remove(&handle, route, cidr).await })?;
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
pub(crate) fn ours(overlay: &Overlay) -> Result<Ours, DatapathError> {
    let overlay = *overlay;
    run(None, move |handle| async move {
        let mut routes = Ours::default();
        let families =
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
        for family in families {
            let mut all = handle.route().get(family).execute();
            while let Some(route) = all.try_next().await.map_err(DatapathError::netlink("list routes"))? {
                routes.insert(&route, &overlay);
            }
        }
        Ok(routes)
    })
}

/// The agent's own routes.
#[derive(Debug, Default)]
pub(crate) struct Ours {
    pub(crate) via: BTreeMap<IpNetwork, IpAddr>,
    pub(crate) unreachable: BTreeSet<IpNetwork>,
}

impl Ours {
    fn insert(&mut self, route: &RouteMessage, overlay: &Overlay) {
        if route.header.protocol != PROTOCOL {
            return;
        }
        match route.header.kind {
            RouteType::Unreachable => self.unreachable.extend(destination(route)),
            _ => self.via.extend(parse(route, overlay)),
        }
    }
}

fn destination(route: &RouteMessage) -> Option<IpNetwork> {
    let to = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(to) => address(to),
        _ => None,
    });
    IpNetwork::new(to?, route.header.destination_prefix_length).ok()
}

fn parse(route: &RouteMessage, overlay: &Overlay) -> Option<(IpNetwork, IpAddr)> {
    let (mut gateway, mut interface) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Gateway(via) => gateway = address(via),
            RouteAttribute::Oif(index) => interface = Some(*index),
            _ => {}
        }
    }
    let gateway = gateway?;
    if overlay.device(gateway.is_ipv4()).is_some_and(|device| interface != Some(device.index)) {
        return None;
    }
    Some((destination(route)?, gateway))
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
