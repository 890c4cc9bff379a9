//! The namespaces that every cluster has: created again when they are gone.

use super::reconcile_loop;
use crate::bootstrap::ensure_namespaces;
use crate::stored::Storage;

/// Follows namespaces.
pub(super) async fn run(storage: Storage) {
    let Some(kind) = skep_api::find("", "v1", "namespaces") else { return };
    let round = || async {
        let ensured = ensure_namespaces(&storage).await;
        if let Err(error) = &ensured {
            tracing::warn!(%error, "create system namespaces failed; it is retried");
        }
        ensured.is_ok()
    };
    reconcile_loop::run(&storage.caches, kind, round).await;
}
