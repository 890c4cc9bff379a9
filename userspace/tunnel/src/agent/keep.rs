//! Keeps a tunnel to every server, for as long as the servers are known.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::Rng as _;
use rustls::ClientConfig;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::back_off::BackOff;
use super::upgrade::{ServerAddress, open};
use super::{Reach, serve};
use crate::counts::{AgentCounts, Counters, read};

/// The tunnels of one agent. Cheap to clone; clones share the counts.
#[derive(Clone)]
pub struct Keeper {
    node: Arc<str>,
    tls: Arc<ClientConfig>,
    /// The server that the agent was started with.
    first: ServerAddress,
    counters: Arc<Counters>,
}

/// One server's task.
struct Kept {
    /// Cancelled when the server is no longer known: the tunnel ends with its last connection.
    unknown: CancellationToken,
}

impl Keeper {
    /// `tls` has the node's client certificate. `first` serves until others are known and reached.
    pub fn new(node: &str, tls: Arc<ClientConfig>, first: ServerAddress) -> Keeper {
        Keeper { node: node.into(), tls, first, counters: Arc::default() }
    }

    pub fn counts(&self) -> AgentCounts {
        let counters = &self.counters;
        AgentCounts {
            open: read(&counters.open),
            opened: read(&counters.opened),
            streams: read(&counters.streams),
            dialled: read(&counters.dialled),
            failed: read(&counters.failed),
            refused: read(&counters.refused),
            sent: read(&counters.sent),
            received: read(&counters.received),
        }
    }

    /// Keeps the tunnels until `stop`. `servers` are all living servers, as far as they are known.
    pub async fn run(
        self,
        mut servers: watch::Receiver<BTreeSet<ServerAddress>>,
        reach: Arc<dyn Reach>,
        stop: CancellationToken,
    ) {
        let reached = Arc::new(Reached::default());
        let mut kept: HashMap<ServerAddress, Kept> = HashMap::new();
        let mut tasks = JoinSet::new();
        loop {
            let known = servers.borrow_and_update().clone();
            let mut wanted = known.clone();
            if !reached.any.load(Ordering::Acquire) || known.is_empty() {
                wanted.insert(self.first.clone());
            }
            kept.retain(|server, kept| {
                let stays = wanted.contains(server);
                if !stays {
                    kept.unknown.cancel();
                }
                stays
            });
            for server in wanted {
                if kept.contains_key(&server) {
                    continue;
                }
                let unknown = CancellationToken::new();
                kept.insert(server.clone(), Kept { unknown: unknown.clone() });
                let reached = known.contains(&server).then(|| reached.clone());
                tasks.spawn(self.clone().keep(server, reach.clone(), unknown, reached));
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = servers.changed() => {
                    if changed.is_err() {
                        // Those that are known stay in force.
                        stop.cancelled().await;
                        return;
                    }
                }
                () = reached.changed.notified() => {}
                Some(_) = tasks.join_next() => {}
            }
        }
    }

    /// One server: a tunnel, and another when it ends, until the server is unknown.
    async fn keep(
        self,
        server: ServerAddress,
        reach: Arc<dyn Reach>,
        unknown: CancellationToken,
        reached: Option<Arc<Reached>>,
    ) {
        let (mut back_off, mut is_logged) = (BackOff::default(), false);
        while !unknown.is_cancelled() {
            let opened = tokio::select! {
                opened = open(&server, &self.node, &self.tls) => opened,
                () = unknown.cancelled() => return,
            };
            let began = Instant::now();
            let ended = match opened {
                Ok(connection) => {
                    tracing::info!(%server, "tunnel opened");
                    is_logged = false;
                    reached.iter().for_each(|reached| reached.note());
                    let _open = self.counters.tunnel();
                    let leave = Notify::new();
                    let tunnel = serve::run(connection, &reach, &self.counters, &leave);
                    tokio::pin!(tunnel);
                    let ended = tokio::select! {
                        ended = &mut tunnel => ended,
                        () = unknown.cancelled() => {
                            leave.notify_one();
                            tunnel.await
                        }
                    };
                    let why = ended.err().map_or_else(|| "closed".to_owned(), |error| error.to_string());
                    tracing::info!(%server, why, "tunnel ended");
                    began.elapsed()
                }
                Err(error) => {
                    // Logged once an outage.
                    if !std::mem::replace(&mut is_logged, true) {
                        tracing::warn!(%server, %error, "open tunnel failed; it is retried");
                    }
                    std::time::Duration::ZERO
                }
            };
            let pause = back_off.pause(ended, rand::rng().random());
            tokio::select! {
                () = sleep(pause) => {}
                () = unknown.cancelled() => return,
            }
        }
    }
}

/// Whether a tunnel to one of the servers that are known was ever open.
#[derive(Default)]
struct Reached {
    any: AtomicBool,
    changed: Notify,
}

impl Reached {
    fn note(&self) {
        if !self.any.swap(true, Ordering::AcqRel) {
            self.changed.notify_one();
        }
    }
}
