//! The time between the create of a CustomResourceDefinition and its kind being served.

use std::time::Duration;

use skep_api::custom::definition;

use crate::cache::Caches;
use crate::definitions::kind;

/// The time that the create of a definition waits for its kind to be served. Nothing is undone after it.
const DECISION_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits until the names of a new definition are accepted, and its kind is served, or they are refused: the next request may
/// be for an instance.
pub(crate) async fn decided(caches: &Caches, name: &str) {
    let Some(kind) = kind() else { return };
    let is_decided = || match caches.get_or_404(kind, "", name) {
        Ok(object) => definition::is_decided(&object.value()),
        // The cache is behind.
        Err(_) => false,
    };
    // The time-out is no failure of the create: a busy server may serve the kind later.
    let _ = tokio::time::timeout(DECISION_TIMEOUT, caches.until(is_decided)).await;
}
