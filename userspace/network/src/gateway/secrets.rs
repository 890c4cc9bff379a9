//! The Secrets that Ingresses name, each watched by its name: a node may read no other.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use tokio::sync::mpsc::Sender;
use tokio::task::AbortHandle;

/// A Secret as it is now; `None`: it does not exist.
pub(super) struct Found {
    pub(super) key: Arc<str>,
    pub(super) secret: Option<Secret>,
}

pub(super) struct Secrets {
    client: kube::Client,
    found: Sender<Found>,
    watches: HashMap<Arc<str>, Watch>,
    /// Those that were never found or missed, and are waited for.
    pending: HashSet<Arc<str>>,
}

/// A watch; it ends with its drop.
struct Watch(AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Secrets {
    pub(super) fn new(client: kube::Client, found: Sender<Found>) -> Secrets {
        Secrets { client, found, watches: HashMap::new(), pending: HashSet::new() }
    }

    /// Watches these Secrets and no others.
    pub(super) fn follow(&mut self, wanted: &BTreeSet<Arc<str>>) {
        self.watches.retain(|key, _| wanted.contains(key));
        self.pending.retain(|key| wanted.contains(key));
        for key in wanted {
            if !self.watches.contains_key(key) {
                let task = tokio::spawn(watch(self.client.clone(), key.clone(), self.found.clone()));
                self.watches.insert(key.clone(), Watch(task.abort_handle()));
                self.pending.insert(key.clone());
            }
        }
    }

    /// Whether the Secret is still wanted.
    pub(super) fn take(&mut self, found: &Found) -> bool {
        self.pending.remove(&found.key);
        self.watches.contains_key(&found.key)
    }

    /// Those that are pending are not waited for any longer.
    pub(super) fn expect_no_more(&mut self) {
        self.pending.clear();
    }

    pub(super) fn are_pending(&self) -> bool {
        !self.pending.is_empty()
    }
}

async fn watch(client: kube::Client, key: Arc<str>, found: Sender<Found>) {
    let Some((namespace, name)) = key.split_once('/') else { return };
    let api: Api<Secret> = Api::namespaced(client, namespace);
    let mut states = std::pin::pin!(watch_object(api, name).default_backoff());
    let mut is_failing = false;
    while let Some(state) = states.next().await {
        match state {
            Ok(secret) => {
                is_failing = false;
                if found.send(Found { key: key.clone(), secret }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(secret = %key, %error, "watch Secret of an Ingress failed; it is retried");
                }
            }
        }
    }
}
