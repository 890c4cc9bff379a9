//! The `kubernetes` Service, its Endpoints and its EndpointSlices: made again when they are gone, and set right when they
//! name other servers than those that live.

use std::sync::Arc;
use std::time::Duration;

use futures::future::select_all;
use skep_api::find;

use super::reconcile_loop::RETRY_INTERVAL;
use crate::bootstrap::kubernetes_service;
use crate::cache::{Caches, Changes, Trigger};
use crate::object::prefix;
use crate::server_endpoints::ServerEndpoints;
use crate::write::Writer;

/// Changes that come within this time are handled together.
const BATCH_PERIOD: Duration = Duration::from_millis(50);

/// Follows the objects, and the servers' leases if there are any.
pub(super) async fn run(writer: Arc<Writer>, endpoints: Arc<ServerEndpoints>) {
    let caches = &writer.storage.caches;
    loop {
        let Some(mut changes) = followed(caches) else { return };
        loop {
            let done = async {
                kubernetes_service(&writer.allocator, endpoints.own()).await?;
                endpoints.round().await
            };
            let pause = match done.await {
                Ok(()) => endpoints.interval(),
                Err(error) => {
                    // Another server that writes them now is right as well.
                    if !error.is_stale() {
                        tracing::warn!(%error, "reconcile the kubernetes Service failed; it is retried");
                    }
                    RETRY_INTERVAL
                }
            };
            let next = select_all(changes.iter_mut().map(|changes| Box::pin(changes.recv())));
            if let Ok((None, ..)) = tokio::time::timeout(pause, next).await {
                break;
            }
            tokio::time::sleep(BATCH_PERIOD).await;
            changes.iter_mut().for_each(|changes| while changes.try_recv().is_ok() {});
        }
    }
}

fn followed(caches: &Caches) -> Option<Vec<Changes>> {
    let kinds = [("", "services"), ("", "endpoints"), ("discovery.k8s.io", "endpointslices")];
    let of = kinds.map(|(group, plural)| {
        let kind = find(group, "v1", plural)?;
        let within = format!("{}default/", prefix(kind));
        let trigger = match plural {
            "endpointslices" => Trigger::Namespace(within),
            _ => Trigger::Object(within + "kubernetes"),
        };
        Some(caches.of(kind)?.subscribe_to(trigger))
    });
    of.into_iter().collect()
}
