//! The node's uplinks and its addresses there.
//!
//! In: links, addresses and default routes of this process's network namespace, by netlink. Out: [`NodeLinks`] now, and after each
//! change.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use futures::channel::mpsc::UnboundedReceiver;
use futures::{StreamExt, TryStreamExt};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use crate::config::Uplinks;
use crate::error::DatapathError;
use crate::netlink;

/// Prefix of the names of links that this crate makes beside those of pods.
const OWN_PREFIX: &str = "skep-";
/// How long events are collected before links are read.
const COALESCE_WINDOW: Duration = Duration::from_millis(50);
/// Pause after a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Messages whose changes are read.
const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// The node's uplinks and addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeLinks {
    /// The first is the one with an address that the node was given, if there is such a one.
    pub uplinks: Vec<Uplink>,
    /// At most one of each family: the address that the node was given, or if no link has it, the first uplink's.
    pub primary: Vec<IpAddr>,
    /// Those and all others of the uplinks.
    pub addrs: BTreeSet<IpAddr>,
}

/// An interface that leads to other nodes or the outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uplink {
    pub name: String,
    pub index: u32,
    /// In bytes.
    pub mtu: u32,
    /// Its addresses that are not of the link only, the preferred source of each family first.
    pub addrs: Vec<IpAddr>,
}

/// What an uplink is chosen from.
#[derive(Clone, Debug, Default)]
struct Candidate {
    uplink: Uplink,
    /// Whether the programs can read its frames.
    is_ethernet: bool,
    has_default_route: bool,
}

impl NodeLinks {
    /// The largest packet that every uplink carries, in bytes.
    pub(crate) fn mtu(&self) -> u32 {
        self.uplinks.iter().map(|uplink| uplink.mtu).min().unwrap_or(1_500)
    }

    /// Chooses the uplinks. `given`: the addresses that the node was given; others count only if they are of the same families.
    fn choose(candidates: Vec<Candidate>, wanted: &Uplinks, given: &[IpAddr]) -> NodeLinks {
        let is_served =
            |addr: &IpAddr| given.is_empty() || given.iter().any(|g| g.is_ipv4() == addr.is_ipv4());
        let present: BTreeSet<IpAddr> =
            candidates.iter().flat_map(|c| c.uplink.addrs.iter().copied()).collect();
        let carries = |uplink: &Uplink| uplink.addrs.iter().any(|addr| given.contains(addr));
        let mut uplinks: Vec<Uplink> = candidates
            .into_iter()
            .filter(|candidate| match wanted {
                Uplinks::Named(names) => names.contains(&candidate.uplink.name),
                Uplinks::Routed => {
                    candidate.is_ethernet && (candidate.has_default_route || carries(&candidate.uplink))
                }
            })
            .map(|candidate| candidate.uplink)
            .collect();
        for uplink in &mut uplinks {
            uplink.addrs.retain(is_served);
            uplink.addrs.sort_by_key(|addr| !given.contains(addr));
        }
        uplinks.sort_by_key(|uplink| (!carries(uplink), uplink.index));
        let first = |v4: bool| {
            let of_family = |addr: &IpAddr| addr.is_ipv4() == v4;
            let given = given.iter().copied().filter(of_family);
            let own = given.clone().find(|addr| present.contains(addr));
            let mut others = uplinks.iter().flat_map(|uplink| uplink.addrs.iter().copied()).filter(of_family);
            own.or_else(|| others.next()).or_else(|| given.clone().next())
        };
        let primary: Vec<IpAddr> = [true, false].into_iter().filter_map(first).collect();
        let of_uplinks = uplinks.iter().flat_map(|uplink| uplink.addrs.iter().copied());
        let addrs = of_uplinks.chain(primary.iter().copied()).collect();
        NodeLinks { uplinks, primary, addrs }
    }
}

/// The node's links now.
pub(crate) fn read(wanted: Uplinks, given: Vec<IpAddr>) -> Result<NodeLinks, DatapathError> {
    netlink::run(None, move |handle| async move { list(&handle, &wanted, &given).await })
}

async fn list(handle: &Handle, wanted: &Uplinks, given: &[IpAddr]) -> Result<NodeLinks, DatapathError> {
    let links: Vec<LinkMessage> =
        handle.link().get().execute().try_collect().await.map_err(DatapathError::netlink("list links"))?;
    let mut candidates: Vec<Candidate> = links.iter().filter_map(candidate).collect();
    let of = |candidates: &mut Vec<Candidate>, index: u32| {
        candidates.iter().position(|candidate| candidate.uplink.index == index)
    };
    let addresses = handle.address().get().execute().try_collect::<Vec<AddressMessage>>().await;
    let mut addresses = addresses.map_err(DatapathError::netlink("list addresses"))?;
    // The kernel's order, but temporary and deprecated addresses last.
    let later = AddressFlags::Secondary | AddressFlags::Deprecated;
    addresses.sort_by_key(|message| flags(message).intersects(later));
    for message in &addresses {
        if let Some(position) = of(&mut candidates, message.header.index)
            && let Some(addr) = usable(message)
        {
            candidates[position].uplink.addrs.push(addr);
        }
    }
    if matches!(wanted, Uplinks::Routed) {
        for index in default_routes(handle).await? {
            if let Some(position) = of(&mut candidates, index) {
                candidates[position].has_default_route = true;
            }
        }
    }
    Ok(NodeLinks::choose(candidates, wanted, given))
}

fn candidate(link: &LinkMessage) -> Option<Candidate> {
    let (mut name, mut mtu) = (None, 0);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Mtu(bytes) => mtu = *bytes,
            _ => {}
        }
    }
    let name = name.filter(|name| !name.starts_with(OWN_PREFIX))?;
    let is_loopback = link.header.flags.contains(LinkFlags::Loopback);
    let is_ethernet = !is_loopback && link.header.link_layer_type == LinkLayerType::Ether;
    let uplink = Uplink { name, index: link.header.index, mtu, addrs: Vec::new() };
    Some(Candidate { uplink, is_ethernet, has_default_route: false })
}

fn flags(message: &AddressMessage) -> AddressFlags {
    let all = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    all.unwrap_or_else(AddressFlags::empty)
}

/// The node's own address, if others can reach it.
fn usable(message: &AddressMessage) -> Option<IpAddr> {
    let refused = AddressFlags::Tentative | AddressFlags::Dadfailed;
    let is_local = matches!(message.header.scope, AddressScope::Link | AddressScope::Host);
    if is_local || flags(message).intersects(refused) {
        return None;
    }
    let (mut own, mut peer) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(addr) => own = Some(*addr),
            AddressAttribute::Address(addr) => peer = Some(*addr),
            _ => {}
        }
    }
    own.or(peer)
}

/// Interfaces of the main table's default routes.
async fn default_routes(handle: &Handle) -> Result<BTreeSet<u32>, DatapathError> {
    let mut interfaces = BTreeSet::new();
    for family in [
        RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
        RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
    ] {
        let mut routes = handle.route().get(family).execute();
        while let Some(route) = routes.try_next().await.map_err(DatapathError::netlink("list routes"))? {
            interfaces.extend(is_default(&route).then(|| outputs(&route)).into_iter().flatten());
        }
    }
    Ok(interfaces)
}

fn is_default(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0 && route.header.table == RouteHeader::RT_TABLE_MAIN
}

fn outputs(route: &RouteMessage) -> Vec<u32> {
    let of = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Oif(index) => vec![*index],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => Vec::new(),
    };
    route.attributes.iter().flat_map(of).collect()
}

/// Waits for changes of the node's links. It reads the network namespace in which it was made.
pub struct LinkWatcher {
    wanted: Uplinks,
    given: Vec<IpAddr>,
    last: NodeLinks,
    connection: Connection,
    /// Whether an event came that was not read yet.
    is_stale: bool,
}

struct Connection {
    handle: Handle,
    events: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    task: JoinHandle<()>,
}

impl Connection {
    fn open() -> Result<Connection, DatapathError> {
        let opened = rtnetlink::new_multicast_connection(&GROUPS);
        let (connection, handle, events) = opened.map_err(DatapathError::file("open", "a netlink socket"))?;
        Ok(Connection { handle, events, task: tokio::spawn(connection) })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl LinkWatcher {
    /// `last`: the links that are known. To be called in a runtime.
    pub(crate) fn new(wanted: Uplinks, given: Vec<IpAddr>, last: NodeLinks) -> Result<Self, DatapathError> {
        Ok(LinkWatcher { wanted, given, last, connection: Connection::open()?, is_stale: true })
    }

    /// Waits until the links are others than before. A failure is logged and tried again.
    pub async fn next(&mut self) -> NodeLinks {
        loop {
            if !self.is_stale {
                self.wait().await;
            }
            self.is_stale = false;
            match list(&self.connection.handle, &self.wanted, &self.given).await {
                Ok(links) if links == self.last => {}
                Ok(links) => {
                    self.last = links.clone();
                    return links;
                }
                Err(error) => {
                    tracing::warn!(%error, source = ?std::error::Error::source(&error), "read the node's links failed");
                    self.is_stale = true;
                    sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    /// Waits for an event that matters, and for those soon after it.
    async fn wait(&mut self) {
        loop {
            match self.connection.events.next().await {
                Some((message, _)) if matters(&message) => break,
                Some(_) => {}
                None => return self.reopen().await,
            }
        }
        let until = Instant::now() + COALESCE_WINDOW;
        while let Ok(Some(_)) = timeout_at(until, self.connection.events.next()).await {}
    }

    /// After more events than the socket holds, or a failure of it.
    async fn reopen(&mut self) {
        loop {
            match Connection::open() {
                Ok(connection) => {
                    self.connection = connection;
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "watch the node's links failed");
                    sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }
}

/// Whether uplinks or addresses may have changed. Routes to pods are many, and no default ones.
fn matters(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
        ) => is_default(route),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(index: u32, addrs: &[&str], has_default_route: bool) -> Candidate {
        let addrs = addrs.iter().map(|addr| addr.parse().unwrap()).collect();
        let uplink = Uplink { name: format!("eth{index}"), index, mtu: 1_500, addrs };
        Candidate { uplink, is_ethernet: true, has_default_route }
    }

    fn chosen(candidates: &[Candidate], wanted: &Uplinks, given: &[&str]) -> (Vec<u32>, Vec<String>, usize) {
        let given: Vec<IpAddr> = given.iter().map(|addr| addr.parse().unwrap()).collect();
        let links = NodeLinks::choose(candidates.to_vec(), wanted, &given);
        let primary = links.primary.iter().map(ToString::to_string).collect();
        (links.uplinks.iter().map(|uplink| uplink.index).collect(), primary, links.addrs.len())
    }

    #[test]
    fn uplinks_have_a_default_route_or_the_nodes_address() {
        let all = [
            candidate(2, &["192.0.2.5", "2001:db8::5"], true),
            candidate(3, &["10.0.0.5", "10.0.0.6"], false),
            candidate(4, &["172.17.0.1"], false),
        ];
        let found = chosen(&all, &Uplinks::Routed, &["10.0.0.5"]);
        assert_eq!(found, (vec![3, 2], vec!["10.0.0.5".to_owned()], 3));
        let named = Uplinks::Named(vec!["eth4".to_owned(), "eth9".to_owned()]);
        assert_eq!(chosen(&all, &named, &["10.0.0.5"]), (vec![4], vec!["10.0.0.5".to_owned()], 2));
        let tunnel = Candidate { is_ethernet: false, ..candidate(5, &["10.0.0.5"], true) };
        assert_eq!(chosen(&[tunnel], &Uplinks::Routed, &["10.0.0.5"]).0, Vec::<u32>::new());
    }

    #[test]
    fn an_address_that_no_link_has_is_replaced_by_the_uplinks() {
        let all = [candidate(2, &["10.0.0.9", "fd00::9"], true)];
        let (_, primary, addrs) = chosen(&all, &Uplinks::Routed, &["10.0.0.5", "fd00::5"]);
        assert_eq!((primary, addrs), (vec!["10.0.0.9".to_owned(), "fd00::9".to_owned()], 2));
        // Before the link has any address.
        let (_, primary, _) = chosen(&[candidate(2, &[], true)], &Uplinks::Routed, &["10.0.0.5"]);
        assert_eq!(primary, ["10.0.0.5"]);
    }
}
