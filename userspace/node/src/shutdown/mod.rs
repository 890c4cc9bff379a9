//! The node is shut down: its pods end in order, and the machine waits for them (graceful node shutdown, KEP-2000).
//!
//! In: logind's signals, the pods. Out: pods to end; the node is not Ready and takes no pods meanwhile.

mod groups;
mod logind;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::context::NodeContext;
use crate::eviction::Eviction;
use crate::names;
use crate::plan::{TERMINATED, Termination, is_terminal};

pub use groups::{GroupSettings, PeriodsError, ShutdownSettings};

/// Pause before logind is asked again.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// Delays shutdowns until the pods have ended.
pub(crate) struct Shutdown {
    pub(crate) context: Arc<NodeContext>,
    pub(crate) settings: ShutdownSettings,
    /// Whether the node is being shut down.
    pub(crate) state: watch::Sender<bool>,
    pub(crate) evictions: mpsc::Sender<Eviction>,
}

impl Shutdown {
    pub(crate) async fn run(self, stop: CancellationToken) {
        loop {
            let followed = stop.run_until_cancelled(self.follow()).await;
            let Some(followed) = followed else { return };
            match followed {
                Ok(()) => {
                    tracing::warn!("the connection to logind has ended; a shutdown does not wait for pods")
                }
                Err(error) => {
                    tracing::warn!(%error, "a shutdown does not wait for pods: logind does not answer")
                }
            }
            if stop.run_until_cancelled(tokio::time::sleep(RETRY_INTERVAL)).await.is_none() {
                return;
            }
        }
    }

    /// Follows logind until the connection ends.
    async fn follow(&self) -> zbus::Result<()> {
        let manager = logind::connect(self.settings.bus.as_deref()).await?;
        let mut signals = manager.receive_prepare_for_shutdown().await?;
        let mut lock = Some(logind::delay(&manager).await?);
        let longest = Duration::from_micros(manager.inhibit_delay_max_usec().await?);
        if longest < self.settings.total() {
            tracing::warn!(
                ?longest,
                wanted = ?self.settings.total(),
                "logind cuts the grace period short: set InhibitDelayMaxSec in logind.conf"
            );
        }
        tracing::info!("shutdowns of the node wait for pods");
        while let Some(signal) = signals.next().await {
            if signal.args()?.start {
                self.begin();
                self.end_pods().await;
                // Without the lock the machine goes down.
                drop(lock.take());
            } else {
                lock = Some(logind::delay(&manager).await?);
                self.cancel();
            }
        }
        Ok(())
    }

    fn begin(&self) {
        tracing::info!("the node is being shut down");
        self.state.send_replace(true);
        let message = "Shutdown manager detected shutdown event";
        self.context.events.node(&self.context.node, false, "Shutdown", message);
    }

    fn cancel(&self) {
        tracing::info!("the shutdown of the node was cancelled");
        self.state.send_replace(false);
        let message = "Shutdown manager detected shutdown cancellation";
        self.context.events.node(&self.context.node, false, "ShutdownCancelled", message);
    }

    /// Ends the pods group by group; a group has its grace period.
    async fn end_pods(&self) {
        let pods = self.context.pods().into_iter().filter(|pod| !is_terminal(pod)).map(Arc::new);
        for (of_group, pods) in self.settings.group(pods) {
            tracing::info!(pods = pods.len(), grace = ?of_group, "end pods for the shutdown");
            let uids: Vec<String> = pods.iter().map(|pod| names::of(pod).2).collect();
            for (pod, uid) in pods.iter().zip(&uids) {
                let why = Termination {
                    grace: Some(groups::grace(pod, of_group)),
                    ..Termination::new(TERMINATED, MESSAGE)
                };
                let _ = self.evictions.send(Eviction { uid: uid.clone(), why }).await;
            }
            let all_ended = async {
                while uids.iter().any(|uid| self.runs(uid)) {
                    tokio::time::sleep(CHECK_INTERVAL).await;
                }
            };
            if tokio::time::timeout(of_group, all_ended).await.is_err() {
                tracing::warn!("pods have not ended within the grace period of the shutdown");
            }
        }
    }

    fn runs(&self, uid: &str) -> bool {
        self.context.pod_of(uid).is_some_and(|pod| !is_terminal(&pod))
    }
}
