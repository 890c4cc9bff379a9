//! What answers challenges of ACME, as the server publishes it: one ConfigMap, watched by its name.

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use skep_gateway::acme::{CHALLENGES, Challenges};
use tokio::sync::watch;

/// The challenges, and the future that follows them. While the API server is away the last ones stay.
pub(super) fn follow(client: kube::Client) -> (watch::Receiver<Challenges>, impl Future<Output = ()>) {
    let (sender, challenges) = watch::channel(Challenges::default());
    let (namespace, name) = CHALLENGES;
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    let following = async move {
        let mut states = std::pin::pin!(watch_object(api, name).default_backoff());
        let mut is_failing = false;
        while let Some(state) = states.next().await {
            match state {
                Ok(map) => {
                    is_failing = false;
                    let data = map.and_then(|map| map.data).unwrap_or_default();
                    let now = Challenges::parse(&data);
                    sender.send_if_modified(|challenges| {
                        let changed = *challenges != now;
                        *challenges = now;
                        changed
                    });
                }
                // Another Kubernetes than this one's own publishes none, and lets no node look.
                Err(error) if !std::mem::replace(&mut is_failing, true) => {
                    tracing::debug!(%error, "watch the challenges of ACME failed; it is retried");
                }
                Err(_) => {}
            }
        }
    };
    (challenges, following)
}
