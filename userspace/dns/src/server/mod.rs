//! The server: sockets on a thread of their own, so that no other work of the agent delays an answer.
//!
//! In: packets, changes of the index and of the settings. Out: answers. A question about the cluster is answered at once on
//! that thread; one that upstreams must be asked for waits on the agent's runtime.

mod seats;
mod shared;
mod sockets;
mod tcp;
mod turns;
mod udp;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ClientConfig;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

pub use sockets::{BindError, Sockets};

use crate::forward::Forwarder;
use crate::index::Index;
use crate::metrics::Metrics;
use crate::settings::Settings;
use seats::Seats;
use shared::{MAX_WAITING, MAX_WAITING_OF_CLIENT, Shared, View};

/// A node's DNS; cheap to clone.
#[derive(Clone)]
pub struct Dns {
    shared: Arc<Shared>,
}

/// Stops the server's thread when it is dropped; the sockets may go on in other hands.
pub struct Serving {
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Dns {
    /// Upstreams are asked on `runtime`, over TLS with `tls`. Answers come once [`Dns::listed`] was called, or after some
    /// seconds without what is not known.
    pub fn new(settings: Settings, tls: Arc<ClientConfig>, runtime: Handle) -> Self {
        let metrics = Arc::new(Metrics::default());
        let forwarder = Forwarder::new(runtime.clone(), &settings, tls, metrics.clone());
        let shared = Shared {
            view: RwLock::new(View { index: Index::default(), settings: Arc::new(settings) }),
            listed: AtomicBool::new(false),
            forwarder,
            waiting: Seats::new(MAX_WAITING, MAX_WAITING_OF_CLIENT),
            runtime,
            metrics,
            // The first address of an answer shall not be the same on all nodes.
            seed: AtomicU32::new(RandomState::new().hash_one(0) as u32),
        };
        Dns { shared: Arc::new(shared) }
    }

    /// Changes the index; the next question sees the change.
    pub fn update(&self, change: impl FnOnce(&mut Index)) {
        change(&mut self.shared.view.write().unwrap_or_else(PoisonError::into_inner).index);
    }

    /// Says that the index is complete.
    pub fn listed(&self) {
        self.shared.listed.store(true, Ordering::Release);
    }

    pub fn configure(&self, settings: Settings) {
        self.shared.forwarder.configure(&settings);
        let mut view = self.shared.view.write().unwrap_or_else(PoisonError::into_inner);
        view.settings = Arc::new(settings);
    }

    /// The counters in Prometheus' text format.
    pub fn write_metrics(&self, out: &mut String) {
        self.shared.metrics.write(self.shared.forwarder.cache_size(), out);
    }

    /// Answers on the sockets until the result is dropped.
    pub fn serve(&self, sockets: Sockets) -> std::io::Result<Serving> {
        let stop = CancellationToken::new();
        let (shared, stopped) = (self.shared.clone(), stop.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let sockets = {
            let _runtime = runtime.enter();
            sockets.into_tokio()?
        };
        let run = move || {
            let serve = async {
                shared.wait_until_listed().await;
                let mut tasks = tokio::task::JoinSet::new();
                for socket in sockets.udp {
                    tasks.spawn(udp::serve(Arc::new(socket), shared.clone()));
                }
                let connections = tcp::seats();
                for listener in sockets.tcp {
                    tasks.spawn(tcp::serve(listener, connections.clone(), shared.clone()));
                }
                while tasks.join_next().await.is_some() {}
            };
            runtime.block_on(stopped.run_until_cancelled_owned(serve));
        };
        let thread = std::thread::Builder::new().name("dns".to_owned()).spawn(run)?;
        Ok(Serving { stop, thread: Some(thread) })
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic of it was reported by the hook.
            let _ = thread.join();
        }
    }
}
