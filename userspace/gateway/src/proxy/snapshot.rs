//! A configuration with what runs on it: endpoints keep connections and health from one configuration to the next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::seq::IndexedRandom as _;

use super::upstream::{Janitor, Upstream};
use crate::acme::Challenges;
use crate::backend_tls::BackendTls;
use crate::certificate::Certificate;
use crate::config::{Backend, Config, Listener, Route, RouteBackend};
use crate::counters::RouteCounters;
use crate::health::RetryBudget;
use crate::policy::{Preference, weight};

#[derive(Default)]
pub(super) struct Snapshot {
    pub(super) listeners: BTreeMap<u16, Listener>,
    pub(super) counters: Vec<Arc<RouteCounters>>,
    pub(super) challenges: Arc<Challenges>,
    /// By the index of the backend.
    clusters: Vec<Arc<Cluster>>,
    /// Those that are presented the certificate of a listener, by its port and by the index of the backend.
    presented: HashMap<(u16, usize), Presented>,
    upstreams: HashMap<UpstreamKey, Arc<Upstream>>,
}

/// An endpoint, and how it is spoken to.
type UpstreamKey = (SocketAddr, Option<Arc<BackendTls>>);

/// A backend whose endpoints are presented a certificate.
struct Presented {
    backend: Arc<Backend>,
    identity: Arc<Certificate>,
    cluster: Arc<Cluster>,
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
    pub(super) fn next(&self, config: &Config, janitor: &Arc<Janitor>, now_ms: u64) -> Snapshot {
        let Config { listeners, backends, counters, challenges } = config;
        let known: HashMap<&str, &Arc<Cluster>> =
            self.clusters.iter().map(|cluster| (&*cluster.backend.name, cluster)).collect();
        let mut upstreams = Upstreams { old: &self.upstreams, new: HashMap::new(), janitor, now_ms };
        let clusters = backends.iter();
        let clusters = clusters.map(|backend| upstreams.cluster(backend, known.get(&*backend.name).copied()));
        let clusters = clusters.collect();
        let mut presented = HashMap::new();
        for (port, listener) in listeners {
            let Some(identity) = &listener.identity else { continue };
            for (at, backend) in backends.iter().enumerate().filter(|(_, backend)| backend.tls.is_some()) {
                let old = self.presented.get(&(*port, at));
                presented.insert((*port, at), upstreams.presented(backend, identity, old));
            }
        }
        let (listeners, counters, challenges) = (listeners.clone(), counters.clone(), challenges.clone());
        Snapshot { listeners, counters, challenges, clusters, presented, upstreams: upstreams.new }
    }

    /// Closes idle connections to endpoints that the new snapshot does not have. Requests on others go on.
    pub(super) fn retire(&self, new: &Snapshot) {
        for (key, upstream) in &self.upstreams {
            if !new.upstreams.contains_key(key) {
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
            Preference::Endpoint(_) | Preference::Key(_) | Preference::Subset(..) | Preference::Turns => None,
        };
        let at = at.or_else(|| drawn_at(&route.backends, |backend| backend.weight))?;
        Some((at, route.backends.get(at)?))
    }

    pub(super) fn cluster(&self, backend: usize) -> Option<Arc<Cluster>> {
        self.clusters.get(backend).cloned()
    }

    /// For what comes by the listener of this port.
    pub(super) fn cluster_by(&self, port: u16, backend: usize) -> Option<Arc<Cluster>> {
        // Few listeners present a certificate.
        let presented = match self.presented.is_empty() {
            true => None,
            false => self.presented.get(&(port, backend)),
        };
        presented.map(|presented| presented.cluster.clone()).or_else(|| self.cluster(backend))
    }
}

/// Endpoints of the snapshot that is made, from those of the one before.
struct Upstreams<'a> {
    old: &'a HashMap<UpstreamKey, Arc<Upstream>>,
    new: HashMap<UpstreamKey, Arc<Upstream>>,
    janitor: &'a Arc<Janitor>,
    now_ms: u64,
}

impl Upstreams<'_> {
    /// `known`: the backend's before.
    fn cluster(&mut self, backend: &Arc<Backend>, known: Option<&Arc<Cluster>>) -> Arc<Cluster> {
        // The first endpoints of a backend begin at once.
        let joined = known.is_some_and(|known| !known.is_empty()).then_some(self.now_ms);
        let of_cluster = backend.endpoints.iter().map(|address| {
            let key = (*address, backend.tls.clone());
            let (old, janitor) = (self.old.get(&key), self.janitor);
            let new = || Arc::new(Upstream::new(*address, backend.tls.clone(), joined, janitor.clone()));
            self.new.entry(key).or_insert_with(|| old.cloned().unwrap_or_else(new)).clone()
        });
        let of_cluster = of_cluster.collect();
        match known {
            Some(cluster) if cluster.backend == *backend => cluster.clone(),
            _ => Arc::new(Cluster::new(backend.clone(), of_cluster)),
        }
    }

    /// A backend as it is spoken to with the certificate. `old`: what was presented there before.
    fn presented(
        &mut self,
        backend: &Arc<Backend>,
        identity: &Arc<Certificate>,
        old: Option<&Presented>,
    ) -> Presented {
        let old = old.filter(|old| old.backend == *backend && Arc::ptr_eq(&old.identity, identity));
        let with_identity = match old {
            Some(old) => old.cluster.backend.clone(),
            None => Arc::new(present(backend, identity)),
        };
        let cluster = self.cluster(&with_identity, old.map(|old| &old.cluster));
        Presented { backend: backend.clone(), identity: identity.clone(), cluster }
    }
}

/// Without the certificate nothing is sent.
fn present(backend: &Backend, identity: &Arc<Certificate>) -> Backend {
    let tls = backend.tls.as_ref().map(|tls| tls.with_identity(identity)).transpose();
    match tls {
        Ok(tls) => Backend { tls: tls.map(Arc::new), ..backend.clone() },
        Err(error) => {
            tracing::error!(backend = %backend.name, %error, "present a certificate failed; the backend gets no requests");
            Backend { endpoints: Vec::new(), ..backend.clone() }
        }
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

    /// Whether it is not ejected, and may have another request at once.
    fn is_free(&self, upstream: &Upstream, now_ms: u64) -> bool {
        let at_once = self.backend.demand.at_once;
        upstream.health.is_available(now_ms) && at_once.is_none_or(|most| upstream.in_flight() < most)
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
            untried.filter(|upstream| self.is_free(upstream, now_ms))
        };
        let preferred = match preference {
            Preference::Turns => None,
            Preference::Key(key) => available().max_by_key(|upstream| weight(key, upstream.id)),
            Preference::Subset(key, size) => {
                let mut subset: Vec<_> = available().collect();
                subset.sort_unstable_by_key(|upstream| Reverse(weight(key, upstream.id)));
                subset.truncate(size);
                subset.choose(&mut rand::rng()).copied()
            }
            Preference::Endpoint(id) => available().find(|upstream| upstream.id == id),
        };
        preferred.cloned().or_else(|| self.choose(tried, now_ms))
    }

    /// An endpoint for a request, in turn; of two that are available the one with less to do. `tried` ones come last, before them those
    /// that are ejected, and before those the ones that joined a short time ago.
    pub(super) fn choose(&self, tried: &[SocketAddr], now_ms: u64) -> Option<Arc<Upstream>> {
        let count = self.upstreams.len();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = || (0..count).map(|step| &self.upstreams[turn.wrapping_add(step) % count]);
        let untried = || in_turn().filter(|upstream| !tried.contains(&upstream.address));
        let is_free = |upstream: &&Arc<Upstream>| self.is_free(upstream, now_ms);
        let slow_start = self.backend.demand.slow_start;
        let mut available =
            untried().filter(is_free).filter(|upstream| upstream.takes_part(now_ms, slow_start));
        let chosen = match (available.next(), available.next()) {
            (Some(first), Some(second)) if second.in_flight() < first.in_flight() => Some(second),
            (Some(first), _) => Some(first),
            (None, _) => untried().find(is_free).or_else(|| untried().next()).or_else(|| in_turn().next()),
        };
        chosen.cloned()
    }
}
