//! Names of other zones: cache, then upstream servers.
//!
//! In: a question. Out: what is known or what the upstreams say. One question is asked once, whatever the number of clients
//! that wait for it; questions that are being asked are bounded, and so is the cache.

pub mod accept;
mod cache;
mod exchange;
mod health;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

pub(crate) use accept::Asked;
use cache::{Cache, Cached};
use exchange::Exchanger;
use health::HealthTable;

use crate::metrics::Metrics;
use crate::reply::Reply;
use crate::resolution::Forwarded;
use crate::settings::{Settings, Upstream};

/// Questions that are being asked; more fail at once.
const MAX_OPEN_QUESTIONS: usize = 2048;
/// How long all upstreams together have for a question: less than a resolver waits (resolv.conf(5): 5 s).
const QUESTION_TIMEOUT: Duration = Duration::from_secs(4);

type Flight = watch::Receiver<Option<Forwarded>>;

/// Asks upstreams; cheap to clone.
#[derive(Clone)]
pub(crate) struct Forwarder {
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Handle,
    started: Instant,
    cache: Mutex<Cache>,
    health: Mutex<HealthTable>,
    flights: Mutex<HashMap<Asked, Flight>>,
    exchanger: Exchanger,
    metrics: Arc<Metrics>,
}

/// What there is at once.
pub(crate) enum Start {
    Known(Forwarded),
    /// The answer comes by [`Forwarder::wait`].
    Waiting(Flight),
}

impl Forwarder {
    /// Questions are asked on `runtime`.
    pub(crate) fn new(
        runtime: Handle,
        settings: &Settings,
        tls: Arc<ClientConfig>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let shared = Shared {
            runtime,
            started: Instant::now(),
            cache: Mutex::new(Cache::new(settings.cache)),
            health: Mutex::default(),
            flights: Mutex::default(),
            exchanger: Exchanger::new(tls),
            metrics,
        };
        Forwarder { shared: Arc::new(shared) }
    }

    pub(crate) fn configure(&self, settings: &Settings) {
        self.shared.cache().limit(settings.cache);
        let upstreams: Vec<Upstream> =
            settings.forwards.iter().flat_map(|forward| forward.upstreams.clone()).collect();
        lock(&self.shared.health).keep(&upstreams);
    }

    /// Answers from the cache, or joins those who wait for the same question, or asks it.
    pub(crate) fn start(&self, asked: Asked, settings: &Settings) -> Start {
        let shared = &self.shared;
        let cached = shared.cache().get(&asked, shared.now());
        let mut stale = None;
        match cached {
            Some(Cached { reply, stale: false, renew }) => {
                shared.metrics.cache_hit();
                if renew {
                    drop(self.fly(asked, settings, None));
                }
                return Start::Known(Forwarded::Answer(reply));
            }
            Some(Cached { reply, .. }) => stale = Some(reply),
            None => {}
        }
        shared.metrics.cache_miss();
        match self.fly(asked, settings, stale.clone()) {
            Some(flight) => Start::Waiting(flight),
            None => Start::Known(stale.map_or(Forwarded::Failed, Forwarded::Answer)),
        }
    }

    pub(crate) async fn wait(mut flight: Flight) -> Forwarded {
        match flight.wait_for(Option::is_some).await {
            Ok(said) => said.clone().unwrap_or(Forwarded::Failed),
            Err(_) => Forwarded::Failed,
        }
    }

    /// `None`: there are no upstreams, or too many questions are open.
    fn fly(&self, asked: Asked, settings: &Settings, stale: Option<Reply>) -> Option<Flight> {
        let upstreams = settings.forward_for(&asked.name)?.upstreams.clone();
        let mut flights = lock(&self.shared.flights);
        if let Some(flight) = flights.get(&asked) {
            return Some(flight.clone());
        }
        if flights.len() >= MAX_OPEN_QUESTIONS {
            self.shared.metrics.overloaded();
            return None;
        }
        let (landed, flight) = watch::channel(None);
        flights.insert(asked.clone(), flight.clone());
        let shared = self.shared.clone();
        self.shared.runtime.spawn(async move {
            let landing = Landing { shared: shared.clone(), asked: asked.clone() };
            let said = match shared.race(&upstreams, &asked).await {
                Some(reply) => {
                    shared.cache().put(&asked, &reply, shared.now());
                    Forwarded::Answer(reply)
                }
                None => stale.map_or(Forwarded::Failed, Forwarded::Answer),
            };
            // A question that comes now finds the cache, or asks again.
            drop(landing);
            landed.send_replace(Some(said));
        });
        Some(flight)
    }

    /// Bytes and answers in the cache.
    pub(crate) fn cache_size(&self) -> (usize, usize) {
        let cache = self.shared.cache();
        (cache.bytes(), cache.len())
    }
}

/// Removes the question from the open ones, however it ends.
struct Landing {
    shared: Arc<Shared>,
    asked: Asked,
}

impl Drop for Landing {
    fn drop(&mut self) {
        lock(&self.shared.flights).remove(&self.asked);
    }
}

impl Shared {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        lock(&self.cache)
    }

    /// Asks one upstream after the other, each with a head start, and takes the first answer.
    async fn race(self: &Arc<Self>, upstreams: &[Upstream], asked: &Asked) -> Option<Reply> {
        let order = lock(&self.health).order(upstreams, self.now());
        let mut waiting = order.into_iter();
        let mut running = JoinSet::new();
        let deadline = sleep(QUESTION_TIMEOUT);
        tokio::pin!(deadline);
        let mut head_start = Duration::ZERO;
        loop {
            let more = waiting.len() > 0;
            tokio::select! {
                biased;
                Some(ended) = running.join_next() => match ended {
                    Ok(Some(reply)) => return Some(reply),
                    // The next one is asked at once.
                    _ if more => head_start = Duration::ZERO,
                    _ if running.is_empty() => return None,
                    _ => {}
                },
                () = &mut deadline => return None,
                () = sleep(head_start), if more => if let Some((upstream, next)) = waiting.next() {
                    head_start = next;
                    let (shared, asked) = (self.clone(), asked.clone());
                    running.spawn(async move { shared.ask(&upstream, &asked).await });
                },
                else => return None,
            }
        }
    }

    async fn ask(&self, upstream: &Upstream, asked: &Asked) -> Option<Reply> {
        let begun = Instant::now();
        match self.exchanger.ask(upstream, asked).await {
            Ok(reply) => {
                lock(&self.health).succeeded(upstream, begun.elapsed());
                Some(reply)
            }
            Err(error) => {
                self.metrics.upstream_failed();
                let down = lock(&self.health).failed(upstream, self.now());
                if down {
                    tracing::warn!(upstream = %upstream.addr, %error, "ask upstream failed; it is tried again with pauses");
                }
                None
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
