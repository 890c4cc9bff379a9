//! The data plane: connections of clients, requests to endpoints. In: a [`Config`] and sockets. Out: responses.
//!
//! A request takes the configuration of its moment and keeps it until its end, so a change ends no connection and no request.

mod access_log;
mod acme;
mod activity;
mod connection;
mod deadline;
mod endpoint_body;
mod endpoint_stream;
mod exchange;
mod forward;
mod gathered;
mod head_scan;
mod http_1;
mod idle_timer;
mod listener;
mod mirror;
mod on_wake;
mod opened;
mod pacer;
mod policy;
mod request_body;
mod response_body;
mod seats;
mod send_error;
mod snapshot;
mod streams;
mod switched;
mod tls;
mod upstream;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::watch;

pub use access_log::AccessLog;
pub use listener::{Bound, ListenError};

use crate::config::Config;
use crate::counters::{Counters, add};
use crate::limits::Limits;
use opened::Opened;
use seats::Seats;
use snapshot::Snapshot;
use upstream::Janitor;

/// The data plane of a node. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Gateway(Arc<Shared>);

struct Shared {
    limits: Limits,
    snapshot: ArcSwap<Snapshot>,
    /// Held while a configuration is applied.
    applying: Mutex<()>,
    counters: Arc<Counters>,
    seats: Arc<Seats>,
    janitor: Arc<Janitor>,
    access_log: Option<AccessLog>,
    opened: Opened,
    /// Changes after each configuration.
    applied: watch::Sender<()>,
    started: Instant,
}

impl Gateway {
    pub fn new(limits: Limits, access_log: Option<AccessLog>) -> Gateway {
        let seats = Seats::new(limits.max_connections, limits.max_connections_of_address);
        Gateway(Arc::new(Shared {
            snapshot: ArcSwap::default(),
            applying: Mutex::new(()),
            counters: Arc::default(),
            seats: Arc::new(seats),
            janitor: Arc::default(),
            access_log,
            opened: Opened::default(),
            applied: watch::Sender::new(()),
            started: Instant::now(),
            limits,
        }))
    }

    /// Puts a configuration in force: for every request that begins from now on, on old and new connections. Endpoints that are in both
    /// keep their connections; those that are gone finish their requests.
    pub fn apply(&self, config: &Config) {
        let _one_at_a_time = self.0.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.0.snapshot.load_full();
        let new = Arc::new(old.next(config, &self.0.janitor, self.0.now_ms()));
        self.0.snapshot.store(new.clone());
        old.retire(&new);
        add(&self.0.counters.configurations);
        self.0.applied.send_replace(());
    }

    /// The route for which the gateway opened this connection to an endpoint, as in the access log. Of the newest connections only.
    pub fn route_of(&self, own: SocketAddr, endpoint: SocketAddr) -> Option<String> {
        self.0.opened.route(own, endpoint).map(|route| route.name.to_string())
    }

    /// In Prometheus' text format.
    pub fn write_metrics(&self, out: &mut String) {
        self.0.counters.write(&self.0.snapshot.load().counters, out);
    }
}

impl Shared {
    /// Of this gateway's own clock.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
