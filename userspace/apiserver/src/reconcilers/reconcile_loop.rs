//! Runs a reconciler of one kind: a round after every change of its objects, and again after a round that failed.

use std::time::Duration;

use skep_api::Kind;

use crate::cache::Caches;

/// The pause after a failed round, and the interval at which conditions without events are checked.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Runs for ever. `round` reconciles all objects as they are now; it returns false if it must be repeated.
pub(super) async fn run<F: Future<Output = bool>>(caches: &Caches, kind: &Kind, round: impl Fn() -> F) {
    loop {
        let Some(resource) = caches.of(kind) else { return };
        let mut changes = resource.subscribe();
        drop(resource);
        let mut done = round().await;
        loop {
            let pause = if done { Duration::MAX } else { RETRY_INTERVAL };
            if let Ok(None) = tokio::time::timeout(pause, changes.recv()).await {
                break;
            }
            while changes.try_recv().is_ok() {}
            done = round().await;
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}
