//! The watch of one kind. In: a client. Out: [`Notice`]s over a channel; fields that no one reads are dropped on arrival.

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::cache::kinds::with_type;
use crate::cache::{Kind, Object, Stored, WatchEvent, transformed};

/// How often the server is asked for a kind that it does not serve; the kind may come with its upgrade.
const NOT_SERVED_RETRY_INTERVAL: Duration = Duration::from_secs(300);

pub(super) enum Notice {
    Event(Kind, WatchEvent),
    /// The server does not serve the kind (it may later).
    NotServed(Kind),
}

/// Watches one kind until the receiver is gone.
pub(super) async fn watch(client: Client, kind: Kind, notices: mpsc::Sender<Notice>) {
    with_type!(kind, K => {
        let api: Api<K> = Api::all(client);
        follow(api, kind, notices).await
    })
}

async fn follow<K>(api: Api<K>, kind: Kind, notices: mpsc::Sender<Notice>)
where
    K: Resource + Stored + DeserializeOwned + Debug,
    Object: From<K>,
{
    let mut stream = pin!(watcher(api, config(kind)).default_backoff());
    while let Some(step) = stream.next().await {
        let event = match step {
            Ok(watcher::Event::Init) => WatchEvent::Init,
            Ok(watcher::Event::InitApply(o)) => WatchEvent::InitApply(transformed(o)),
            Ok(watcher::Event::InitDone) => WatchEvent::InitDone,
            Ok(watcher::Event::Apply(o)) => WatchEvent::Apply(transformed(o)),
            Ok(watcher::Event::Delete(o)) => WatchEvent::Delete(transformed(o)),
            Err(error) if is_not_served(&error) => {
                if notices.send(Notice::NotServed(kind)).await.is_err() {
                    return;
                }
                tokio::time::sleep(NOT_SERVED_RETRY_INTERVAL).await;
                continue;
            }
            Err(error) => {
                tracing::debug!(kind = kind.name(), %error, "watch failed");
                continue;
            }
        };
        if notices.send(Notice::Event(kind, event)).await.is_err() {
            return;
        }
    }
}

/// Of kinds that may have many objects, only those that a controller reads.
fn config(kind: Kind) -> watcher::Config {
    match kind {
        Kind::Lease => watcher::Config::default().fields("metadata.namespace=kube-node-lease"),
        Kind::ConfigMap => watcher::Config::default().fields("metadata.name=kube-root-ca.crt"),
        _ => watcher::Config::default(),
    }
}

/// Whether the informer of a kind holds only some of its objects.
pub(crate) fn is_partial(kind: Kind) -> bool {
    matches!(kind, Kind::Lease | Kind::ConfigMap)
}

fn is_not_served(error: &watcher::Error) -> bool {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status,
        _ => return false,
    };
    status.code == 404
}
