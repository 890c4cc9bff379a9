//! For which route a connection to an endpoint was opened: the flow log names it. Of the newest connections only.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::counters::RouteCounters;

const MAX_CONNECTIONS: usize = 16_384;

/// The gateway's own address and port, and the endpoint's.
type Ends = (SocketAddr, SocketAddr);

#[derive(Default)]
pub(super) struct Opened(Mutex<Newest>);

#[derive(Default)]
struct Newest {
    routes: HashMap<Ends, Arc<RouteCounters>>,
    oldest_first: VecDeque<Ends>,
}

/// A route that opens a connection.
#[derive(Clone, Copy)]
pub(super) struct Opener<'a> {
    pub(super) opened: &'a Opened,
    pub(super) route: &'a Arc<RouteCounters>,
}

impl Opener<'_> {
    pub(super) fn opens(&self, own: SocketAddr, endpoint: SocketAddr) {
        let mut newest = self.opened.newest();
        if newest.routes.insert((own, endpoint), self.route.clone()).is_none() {
            newest.oldest_first.push_back((own, endpoint));
            if newest.oldest_first.len() > MAX_CONNECTIONS
                && let Some(oldest) = newest.oldest_first.pop_front()
            {
                newest.routes.remove(&oldest);
            }
        }
    }
}

impl Opened {
    pub(super) fn route(&self, own: SocketAddr, endpoint: SocketAddr) -> Option<Arc<RouteCounters>> {
        self.newest().routes.get(&(own, endpoint)).cloned()
    }

    fn newest(&self) -> MutexGuard<'_, Newest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_connections_are_kept() {
        let opened = Opened::default();
        let endpoint = SocketAddr::from(([10, 0, 0, 1], 80));
        let own =
            |number: usize| SocketAddr::from(([10, 0, (number >> 15) as u8, 2], (number & 0x7fff) as u16));
        let name = |number| opened.route(own(number), endpoint).map(|route| route.name.to_string());
        for number in 0..=MAX_CONNECTIONS {
            let route = Arc::new(RouteCounters::new(format!("httproute/shop/{number}")));
            Opener { opened: &opened, route: &route }.opens(own(number), endpoint);
        }
        assert_eq!(name(0), None);
        assert_eq!(name(1).as_deref(), Some("httproute/shop/1"));
        assert_eq!(name(MAX_CONNECTIONS), Some(format!("httproute/shop/{MAX_CONNECTIONS}")));
        let again = Arc::new(RouteCounters::new("tcproute/shop/other"));
        Opener { opened: &opened, route: &again }.opens(own(1), endpoint);
        assert_eq!(name(1).as_deref(), Some("tcproute/shop/other"));
    }
}
