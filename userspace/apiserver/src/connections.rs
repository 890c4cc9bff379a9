//! The bounds of open connections: in all, and of those whose client is not known yet, in all and by remote address.
//!
//! A connection is unknown until a request on it was authenticated. A new connection always gets in: if there is no room
//! for it, the oldest unknown connection makes room, first of the same address, else of the address that has the most. So
//! a flood costs its own connections, and a probe or an administrator finds an open door.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use crate::lock::Lock;

/// How many connections may be open at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Of clients that are not known yet.
    unknown: usize,
    /// The same, of one remote address. A load balancer may stand behind it, so it is not a small number.
    unknown_of_address: usize,
    /// Of authenticated clients.
    known: usize,
    /// The same, of one remote address that is not this machine's own.
    known_of_address: usize,
}

/// More than this many connections need more memory than a server should spend on them.
const MAX_CONNECTIONS: usize = 32_768;
const MAX_UNKNOWN_OF_ADDRESS: usize = 256;

impl Limits {
    /// By the soft limit of descriptors, which `skep server` raises at its start.
    pub(crate) fn of_this_process() -> Limits {
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Limits::of_descriptors(descriptors.unwrap_or(u64::MAX))
    }

    /// Half of the descriptors are for clients. The rest is for the store, for logs, and for connections to nodes and pods,
    /// of which a proxied request needs one.
    pub(crate) fn of_descriptors(descriptors: u64) -> Limits {
        let all = usize::try_from(descriptors / 2).unwrap_or(MAX_CONNECTIONS).clamp(16, MAX_CONNECTIONS);
        let unknown = all / 4;
        let known = all - unknown;
        Limits {
            unknown,
            unknown_of_address: (unknown / 4).min(MAX_UNKNOWN_OF_ADDRESS),
            known,
            known_of_address: known / 2,
        }
    }

    /// Other programs of this machine are trusted with more room.
    fn unknown_of(&self, address: IpAddr) -> usize {
        if address.is_loopback() { self.unknown / 2 } else { self.unknown_of_address }
    }

    fn known_of(&self, address: IpAddr) -> usize {
        if address.is_loopback() { self.known } else { self.known_of_address }
    }
}

/// All connections of a server. Cheap to clone; clones share the count.
#[derive(Clone)]
pub(crate) struct Connections(Arc<Shared>);

struct Shared {
    limits: Limits,
    open: Lock<Open>,
}

#[derive(Default)]
struct Open {
    next_id: u64,
    unknown: HashMap<u64, Arc<Notify>>,
    known: usize,
    by_address: HashMap<IpAddr, OfAddress>,
}

#[derive(Default)]
struct OfAddress {
    /// Ids rise, so the first is the oldest.
    unknown: BTreeSet<u64>,
    known: usize,
}

impl Connections {
    pub(crate) fn new(limits: Limits) -> Connections {
        Connections(Arc::new(Shared { limits, open: Lock::default() }))
    }

    /// Counts a new connection, and closes another if that is one too many.
    pub(crate) fn enter(&self, address: IpAddr) -> Arc<Connection> {
        let address = client_of(address);
        let close = Arc::new(Notify::new());
        let id = self.0.open.lock().enter(&self.0.limits, address, &close);
        let is_known = AtomicBool::new(false);
        Arc::new(Connection { shared: self.0.clone(), id, address, close, is_known })
    }
}

/// The client behind an address: a machine has a whole network of IPv6.
fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        other => other,
    }
}

impl Open {
    fn enter(&mut self, limits: &Limits, address: IpAddr, close: &Arc<Notify>) -> u64 {
        let of_address = self.by_address.get(&address).map_or(0, |of| of.unknown.len());
        if of_address >= limits.unknown_of(address) {
            self.evict(address);
        } else if self.unknown.len() >= limits.unknown {
            let most = self.by_address.iter().max_by_key(|(_, of)| of.unknown.len());
            if let Some(address) = most.map(|(address, _)| *address) {
                self.evict(address);
            }
        }
        let id = self.next_id;
        self.next_id += 1;
        self.unknown.insert(id, close.clone());
        self.by_address.entry(address).or_default().unknown.insert(id);
        id
    }

    /// Closes the oldest unknown connection of an address. It no longer counts.
    fn evict(&mut self, address: IpAddr) {
        let oldest = self.by_address.get(&address).and_then(|of| of.unknown.first().copied());
        if let Some(close) = oldest.and_then(|id| self.forget_unknown(id, address)) {
            close.notify_one();
        }
    }

    fn forget_unknown(&mut self, id: u64, address: IpAddr) -> Option<Arc<Notify>> {
        let close = self.unknown.remove(&id)?;
        if let Some(of) = self.by_address.get_mut(&address) {
            of.unknown.remove(&id);
        }
        self.forget_if_empty(address);
        Some(close)
    }

    fn forget_if_empty(&mut self, address: IpAddr) {
        if self.by_address.get(&address).is_some_and(|of| of.known == 0 && of.unknown.is_empty()) {
            self.by_address.remove(&address);
        }
    }

    /// Counts an unknown connection as known if there is room. An administrator always gets it.
    fn promote(&mut self, limits: &Limits, id: u64, address: IpAddr, is_administrator: bool) -> bool {
        let of_address = self.by_address.get(&address).map_or(0, |of| of.known);
        let has_room = self.known < limits.known && of_address < limits.known_of(address);
        if !(has_room || is_administrator) || !self.unknown.contains_key(&id) {
            return false;
        }
        self.known += 1;
        self.by_address.entry(address).or_default().known += 1;
        self.forget_unknown(id, address);
        true
    }

    fn leave(&mut self, id: u64, address: IpAddr, is_known: bool) {
        if !is_known {
            self.forget_unknown(id, address);
            return;
        }
        self.known = self.known.saturating_sub(1);
        if let Some(of) = self.by_address.get_mut(&address) {
            of.known = of.known.saturating_sub(1);
        }
        self.forget_if_empty(address);
    }
}

/// One open connection; it leaves with its drop.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    id: u64,
    address: IpAddr,
    close: Arc<Notify>,
    is_known: AtomicBool,
}

impl Connection {
    /// A request of an authenticated client arrived on it.
    pub(crate) fn authenticated(&self, is_administrator: bool) {
        if self.is_known() {
            return;
        }
        let mut open = self.shared.open.lock();
        if open.promote(&self.shared.limits, self.id, self.address, is_administrator) {
            self.is_known.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Relaxed)
    }

    /// Returns when the connection must make room for another.
    pub(crate) async fn evicted(&self) {
        self.close.notified().await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let is_known = self.is_known();
        self.shared.open.lock().leave(self.id, self.address, is_known);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn is_evicted(connection: &Connection) -> bool {
        connection.evicted().now_or_never().is_some()
    }

    #[test]
    fn a_flood_of_one_address_costs_its_own_oldest_connections() {
        let limits = Limits::of_descriptors(1_024);
        let connections = Connections::new(limits);
        let other = connections.enter(address(1));
        let flood: Vec<_> = (0..1_000).map(|_| connections.enter(address(2))).collect();
        assert!(!is_evicted(&other));
        let evicted = flood.iter().position(|connection| !is_evicted(connection));
        assert_eq!(evicted, Some(1_000 - limits.unknown_of_address));
    }

    #[test]
    fn among_many_addresses_the_one_with_the_most_makes_room() {
        let limits = Limits::of_descriptors(1_024);
        let connections = Connections::new(limits);
        let flood: Vec<_> = (0..250).map(|last| connections.enter(address(last))).collect();
        let twice = connections.enter(address(200));
        assert!(!is_evicted(&twice));
        let next = connections.enter(address(251));
        assert!(!is_evicted(&next) && flood.iter().filter(|connection| is_evicted(connection)).count() > 0);
    }

    #[test]
    fn known_connections_are_never_closed_for_others() {
        let limits = Limits::of_descriptors(1_024);
        let connections = Connections::new(limits);
        let known: Vec<_> = (0..limits.known_of_address + 1)
            .map(|_| {
                let connection = connections.enter(address(1));
                connection.authenticated(false);
                connection
            })
            .collect();
        let last = known.last().unwrap();
        assert!(!last.is_known(), "over the bound of the address");
        last.authenticated(true);
        assert!(last.is_known(), "an administrator's");
        let flood: Vec<_> = (0..1_000).map(|_| connections.enter(address(1))).collect();
        assert!(flood.iter().any(|connection| is_evicted(connection)));
        assert!(!known.iter().any(|connection| is_evicted(connection)));
    }

    #[test]
    fn a_machine_is_a_network_of_ipv6() {
        let parse = |text: &str| client_of(text.parse().unwrap());
        assert_eq!(parse("2001:db8::1"), parse("2001:db8::ffff:2"));
        assert_ne!(parse("2001:db8::1"), parse("2001:db8:0:1::1"));
        assert_eq!(parse("::ffff:192.0.2.1"), address(1));
        assert!(parse("::1").is_loopback());
    }

    proptest! {
        #[test]
        fn the_counts_are_those_of_the_open_connections(
            steps in prop::collection::vec((0u8..4, 0u8..5, 0usize..40), 0..400)
        ) {
            let limits = Limits::of_descriptors(64);
            let connections = Connections::new(limits);
            let mut open: Vec<Arc<Connection>> = Vec::new();
            for (what, last, at) in steps {
                match what {
                    0 | 1 => open.push(connections.enter(address(last))),
                    2 if at < open.len() => open[at].authenticated(false),
                    _ if at < open.len() => drop(open.swap_remove(at)),
                    _ => {}
                }
                open.retain(|connection| !is_evicted(connection));
                let counts = connections.0.open.lock();
                let known = open.iter().filter(|connection| connection.is_known()).count();
                prop_assert!(counts.unknown.len() <= limits.unknown && counts.known <= limits.known);
                prop_assert_eq!((counts.known, counts.unknown.len()), (known, open.len() - known));
                let of_addresses = counts.by_address.values().map(|of| (of.unknown.len(), of.known));
                let sums = of_addresses.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
                prop_assert_eq!(sums, (open.len() - known, known));
            }
        }
    }
}
