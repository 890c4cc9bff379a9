//! Metadata watches of the kinds that the hub does not hold, and the discovery of those kinds.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::DynamicObject;
use kube::core::PartialObjectMeta;
use kube::core::discovery::ApiResource;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;

use crate::discovery::{Resource, discover};

const MIN_DISCOVERY_RETRY: Duration = Duration::from_millis(100);
const MAX_DISCOVERY_RETRY: Duration = Duration::from_secs(30);

/// The number is the collector's own for the resource.
pub(super) enum Message {
    Init(u32),
    Apply(u32, Box<ObjectMeta>),
    InitDone(u32),
    Delete(Box<ObjectMeta>),
    Discovered(Vec<Resource>),
}

/// Discovers after a pause, trying until the server answers.
pub(super) async fn discover_after(pause: Duration, client: Client, sender: mpsc::Sender<Message>) {
    tokio::time::sleep(pause).await;
    let mut retry = MIN_DISCOVERY_RETRY;
    loop {
        match discover(&client).await {
            Ok(resources) => return drop(sender.send(Message::Discovered(resources)).await),
            Err(error) => tracing::info!(%error, "discover resources failed; it is retried"),
        }
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(MAX_DISCOVERY_RETRY);
    }
}

/// Watches one resource until the receiver is gone.
pub(super) async fn follow(
    client: Client,
    number: u32,
    api: Arc<ApiResource>,
    sender: mpsc::Sender<Message>,
) {
    let objects: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, api.as_ref());
    let mut stream = pin!(watcher(objects, watcher::Config::default()).default_backoff());
    while let Some(step) = stream.next().await {
        let message = match step {
            Ok(watcher::Event::Init) => Message::Init(number),
            Ok(watcher::Event::InitDone) => Message::InitDone(number),
            Ok(watcher::Event::InitApply(o) | watcher::Event::Apply(o)) => {
                Message::Apply(number, Box::new(o.metadata))
            }
            Ok(watcher::Event::Delete(o)) => Message::Delete(Box::new(o.metadata)),
            Err(error) => {
                tracing::debug!(kind = api.kind, %error, "metadata watch failed");
                continue;
            }
        };
        if sender.send(message).await.is_err() {
            return;
        }
    }
}
