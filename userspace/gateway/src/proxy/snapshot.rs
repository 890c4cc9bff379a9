//! A configuration with what runs on it: endpoints keep connections and health from one configuration to the next.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::upstream::{Janitor, Upstream};
use crate::acme::Challenges;
use crate::config::{Backend, Config, Listener, Route, RouteBackend};
use crate::counters::RouteCounters;
use crate::health::RetryBudget;
use crate::policy::{Preference, weight};

#[derive(Default)]
pub(super) struct Snapshot {
    pub(super) listeners: BTreeMap<u16, Listener>,
    pub(super) counters: Vec<Arc<RouteCounters>>,
    pub(super) challenges: Arc<Challenges>,
    clusters: Vec<Arc<Cluster>>,
    upstreams: HashMap<SocketAddr, Arc<Upstream>>,
}

/// A backend's endpoints at work.
pub(super) struct Cluster {
    pub(super) backend: Arc<Backend>,
    pub(super) budget: RetryBudget,
    upstreams: Vec<Arc<Upstream>>,
    /// Which one is next.
    turn: AtomicUsize,
}

impl Snapshot {
    /// The snapshot that follows this one.
    pub(super) fn next(&self, config: &Config, janitor: &Arc<Janitor>) -> Snapshot {
        let Config { listeners, backends, counters, challenges } = config;
        let known: HashMap<&str, &Arc<Cluster>> =
            self.clusters.iter().map(|cluster| (&*cluster.backend.name, cluster)).collect();
        let mut upstreams = HashMap::new();
        let clusters = backends.iter().map(|backend| {
            let of_cluster = backend.endpoints.iter().map(|address| {
                let new = || match self.upstreams.get(address) {
                    Some(upstream) => upstream.clone(),
                    None => Arc::new(Upstream::new(*address, janitor.clone())),
                };
                upstreams.entry(*address).or_insert_with(new).clone()
            });
            let of_cluster = of_cluster.collect();
            match known.get(&*backend.name) {
                Some(cluster) if cluster.backend == *backend => Arc::clone(cluster),
                _ => Arc::new(Cluster::new(backend.clone(), of_cluster)),
            }
        });
        let clusters = clusters.collect();
        let (listeners, counters, challenges) = (listeners.clone(), counters.clone(), challenges.clone());
        Snapshot { listeners, counters, challenges, clusters, upstreams }
    }

    /// Closes idle connections to endpoints that the new snapshot does not have. Requests on others go on.
    pub(super) fn retire(&self, new: &Snapshot) {
        for (address, upstream) in &self.upstreams {
            if !new.upstreams.contains_key(address) {
                upstream.retire();
            }
        }
    }

    /// The backend for a request of a route, with its index: that of its session, or by weight. `None`: the route has none.
    pub(super) fn draw<'r>(
        &self,
        route: &'r Route,
        preference: Preference,
    ) -> Option<(usize, &'r RouteBackend)> {
        let at = match preference {
            Preference::Endpoint(id) if route.backends.len() > 1 => {
                route.backends.iter().position(|backend| {
                    let cluster = backend.backend.and_then(|at| self.clusters.get(at));
                    backend.weight > 0 && cluster.is_some_and(|cluster| cluster.has(id))
                })
            }
            Preference::Endpoint(_) | Preference::Key(_) | Preference::Turns => None,
        };
        let at = at.or_else(|| drawn_at(&route.backends, |backend| backend.weight))?;
        Some((at, route.backends.get(at)?))
    }

    pub(super) fn cluster(&self, backend: usize) -> Option<Arc<Cluster>> {
        self.clusters.get(backend).cloned()
    }
}

/// One of several, by weight.
pub(super) fn drawn<T>(all: &[T], weight: impl Fn(&T) -> u32) -> Option<&T> {
    all.get(drawn_at(all, weight)?)
}

fn drawn_at<T>(all: &[T], weight: impl Fn(&T) -> u32) -> Option<usize> {
    let total: u64 = all.iter().map(|one| u64::from(weight(one))).sum();
    let mut drawn = match all {
        [_] if total > 0 => 0,
        _ if total > 0 => rand::random_range(0..total),
        _ => return None,
    };
    all.iter().position(|one| match drawn.checked_sub(u64::from(weight(one))) {
        Some(left) => {
            drawn = left;
            false
        }
        None => true,
    })
}

impl Cluster {
    fn new(backend: Arc<Backend>, upstreams: Vec<Arc<Upstream>>) -> Cluster {
        // Every node has a gateway: they should not all begin with the same endpoint.
        Cluster {
            backend,
            budget: RetryBudget::default(),
            upstreams,
            turn: AtomicUsize::new(rand::random_range(0..1 << 20)),
        }
    }

    /// Whether it has no endpoint.
    pub(super) fn is_empty(&self) -> bool {
        self.upstreams.is_empty()
    }

    /// Whether it has the endpoint of a session.
    pub(super) fn has(&self, id: u64) -> bool {
        self.upstreams.iter().any(|upstream| upstream.id == id)
    }

    /// The endpoint that a request prefers, if it can be had; another one as [`Cluster::choose`] has it.
    pub(super) fn prefer(
        &self,
        preference: Preference,
        tried: &[SocketAddr],
        now_ms: u64,
    ) -> Option<Arc<Upstream>> {
        let available = || {
            let untried = self.upstreams.iter().filter(|upstream| !tried.contains(&upstream.address));
            untried.filter(|upstream| upstream.health.is_available(now_ms))
        };
        let preferred = match preference {
            Preference::Turns => None,
            Preference::Key(key) => available().max_by_key(|upstream| weight(key, upstream.id)),
            Preference::Endpoint(id) => available().find(|upstream| upstream.id == id),
        };
        preferred.cloned().or_else(|| self.choose(tried, now_ms))
    }

    /// An endpoint for a request, in turn; of two that are available the one with less to do. `tried` ones come last, before them those
    /// that are ejected.
    pub(super) fn choose(&self, tried: &[SocketAddr], now_ms: u64) -> Option<Arc<Upstream>> {
        let count = self.upstreams.len();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = || (0..count).map(|step| &self.upstreams[turn.wrapping_add(step) % count]);
        let untried = || in_turn().filter(|upstream| !tried.contains(&upstream.address));
        let mut available = untried().filter(|upstream| upstream.health.is_available(now_ms));
        let chosen = match (available.next(), available.next()) {
            (Some(first), Some(second)) if second.in_flight() < first.in_flight() => Some(second),
            (Some(first), _) => Some(first),
            (None, _) => untried().next().or_else(|| in_turn().next()),
        };
        chosen.cloned()
    }
}
