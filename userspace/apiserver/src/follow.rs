//! Follows all objects of a kind for as long as the server lives: a round after every change, and after one that failed.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use skep_api::Kind;

use crate::Inner;

/// After a failed round, and how often is looked at what nobody tells of.
pub(crate) const AGAIN: Duration = Duration::from_secs(1);

/// A round looks at all objects as they are now; false if something is to be tried again.
pub(crate) async fn all(
    server: Weak<Inner>,
    kind: &Kind,
    round: impl for<'a> Fn(&'a Arc<Inner>) -> BoxFuture<'a, bool>,
) {
    loop {
        let Some(strong) = server.upgrade() else { return };
        let Some(resource) = strong.caches.of(kind) else { return };
        let mut changes = resource.subscribe();
        drop(resource);
        let mut done = round(&strong).await;
        drop(strong);
        loop {
            let pause = if done { Duration::MAX } else { AGAIN };
            if let Ok(None) = tokio::time::timeout(pause, changes.recv()).await {
                break;
            }
            while changes.try_recv().is_ok() {}
            let Some(strong) = server.upgrade() else { return };
            done = round(&strong).await;
        }
        tokio::time::sleep(AGAIN).await;
    }
}
