//! The API server's watches, as changes to the index.
//!
//! A list that was broken off and began anew ends by deleting what it did not have; lost events cannot linger. Watches
//! retry for ever with back-off, and what was known stays known meanwhile.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Resource;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use serde::de::DeserializeOwned;
use skep_netplan::{Index, key_of};
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::engine::Message;

/// A kind that the index takes.
trait Indexed:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + Sized + 'static
{
    fn apply(&self, index: &mut Index);
    fn delete(key: &str, index: &mut Index);
    fn keep(listed: &HashSet<Arc<str>>, index: &mut Index);
}

macro_rules! indexed {
    ($($kind:ty: $apply:ident, $delete:ident, $keep:ident;)+) => {
        /// How many kinds must be listed before anything is written.
        pub const KINDS: usize = [$(stringify!($kind)),+].len();

        $(impl Indexed for $kind {
            fn apply(&self, index: &mut Index) {
                index.$apply(self);
            }
            fn delete(key: &str, index: &mut Index) {
                index.$delete(key);
            }
            fn keep(listed: &HashSet<Arc<str>>, index: &mut Index) {
                index.$keep(listed);
            }
        })+

        /// Starts all watches; they end with `stop` or with the receiver.
        pub(super) fn spawn(client: &kube::Client, to: Sender<Message>, stop: &CancellationToken) -> JoinSet<()> {
            let mut watches = JoinSet::new();
            $(watches.spawn(ended_by(stop.clone(), follow::<$kind>(client.clone(), to.clone())));)+
            watches
        }
    };
}

indexed! {
    Service: apply_service, delete_service, keep_services;
    EndpointSlice: apply_slice, delete_slice, keep_slices;
    Pod: apply_pod, delete_pod, keep_pods;
    Node: apply_node, delete_node, keep_nodes;
    Namespace: apply_namespace, delete_namespace, keep_namespaces;
    NetworkPolicy: apply_policy, delete_policy, keep_policies;
}

async fn ended_by(stop: CancellationToken, watch: impl Future<Output = ()>) {
    stop.run_until_cancelled(watch).await.unwrap_or_default()
}

async fn follow<K: Indexed>(client: kube::Client, to: Sender<Message>) {
    let kind = K::kind(&()).into_owned();
    let events = watcher(Api::<K>::all(client), watcher::Config::default()).default_backoff();
    pin_mut!(events);
    let mut listed = HashSet::new();
    let mut complete = false;
    let mut failing = false;
    while let Some(event) = events.next().await {
        let message = match event {
            Err(error) => {
                // Once for each outage: the back-off would repeat it for as long as that lasts.
                if !failing {
                    tracing::warn!(kind, %error, "watch failed; what is known stays in force");
                }
                failing = true;
                continue;
            }
            Ok(watcher::Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(watcher::Event::InitApply(object)) => {
                listed.insert(key_of(object.meta()));
                Message::index(move |index| object.apply(index))
            }
            Ok(watcher::Event::InitDone) => {
                let listed = std::mem::take(&mut listed);
                if to.send(Message::index(move |index| K::keep(&listed, index))).await.is_err() {
                    return;
                }
                if std::mem::replace(&mut complete, true) {
                    continue;
                }
                Message::Listed
            }
            Ok(watcher::Event::Apply(object)) => Message::index(move |index| object.apply(index)),
            Ok(watcher::Event::Delete(object)) => {
                Message::index(move |index| K::delete(&key_of(object.meta()), index))
            }
        };
        if std::mem::take(&mut failing) {
            tracing::info!(kind, "watch is back");
        }
        if to.send(message).await.is_err() {
            return;
        }
    }
}
