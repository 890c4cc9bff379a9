//! The Secrets and ConfigMaps that Ingresses and Gateways name, each watched by its name: a node may read no other.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use skep_gateway::ingress::Index;
use tokio::sync::mpsc::Sender;
use tokio::task::AbortHandle;

/// An object as it is now, by its key; `None`: it does not exist.
pub(super) enum Found {
    Secret(Arc<str>, Option<Secret>),
    ConfigMap(Arc<str>, Option<ConfigMap>),
}

/// All objects that the index names.
pub(super) struct Inputs {
    secrets: Named<Secret, Found>,
    config_maps: Named<ConfigMap, Found>,
}

/// The objects of a kind that are watched. What is found is sent as `F`.
pub(super) struct Named<K, F> {
    client: kube::Client,
    found: Sender<F>,
    of: fn(Arc<str>, Option<K>) -> F,
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

impl Inputs {
    pub(super) fn new(client: kube::Client, found: Sender<Found>) -> Inputs {
        Inputs {
            secrets: Named::new(client.clone(), found.clone(), Found::Secret),
            config_maps: Named::new(client, found, Found::ConfigMap),
        }
    }

    /// Watches what the index names, and nothing else.
    pub(super) fn follow(&mut self, index: &mut Index) {
        self.secrets.follow(&index.secrets());
        self.config_maps.follow(&index.config_maps());
    }

    /// Tells the index, if it still names the object. `now` in seconds since 1970.
    pub(super) fn take(&mut self, found: &Found, index: &mut Index, now: i64) {
        match found {
            Found::Secret(key, secret) => {
                if self.secrets.take(key) {
                    index.apply_secret(key, secret.as_ref(), now);
                }
            }
            Found::ConfigMap(key, config_map) => {
                if self.config_maps.take(key) {
                    index.apply_config_map(key, config_map.as_ref());
                }
            }
        }
    }

    /// Those that are pending are not waited for any longer.
    pub(super) fn expect_no_more(&mut self) {
        self.secrets.pending.clear();
        self.config_maps.pending.clear();
    }

    pub(super) fn are_pending(&self) -> bool {
        !(self.secrets.pending.is_empty() && self.config_maps.pending.is_empty())
    }
}

impl<K, F> Named<K, F>
where
    F: Send + 'static,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    pub(super) fn new(
        client: kube::Client,
        found: Sender<F>,
        of: fn(Arc<str>, Option<K>) -> F,
    ) -> Named<K, F> {
        Named { client, found, of, watches: HashMap::new(), pending: HashSet::new() }
    }

    /// Watches these objects and no others.
    pub(super) fn follow(&mut self, wanted: &BTreeSet<Arc<str>>) {
        self.watches.retain(|key, _| wanted.contains(key));
        self.pending.retain(|key| wanted.contains(key));
        for key in wanted {
            if !self.watches.contains_key(key) {
                let task = watch(self.client.clone(), key.clone(), self.of, self.found.clone());
                self.watches.insert(key.clone(), Watch(tokio::spawn(task).abort_handle()));
                self.pending.insert(key.clone());
            }
        }
    }

    /// Whether the object is still wanted.
    pub(super) fn take(&mut self, key: &Arc<str>) -> bool {
        self.pending.remove(key);
        self.watches.contains_key(key)
    }
}

async fn watch<K, F>(client: kube::Client, key: Arc<str>, of: fn(Arc<str>, Option<K>) -> F, found: Sender<F>)
where
    F: Send + 'static,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    let Some((namespace, name)) = key.split_once('/') else { return };
    let api: Api<K> = Api::namespaced(client, namespace);
    let mut states = std::pin::pin!(watch_object(api, name).default_backoff());
    let mut is_failing = false;
    while let Some(state) = states.next().await {
        match state {
            Ok(object) => {
                is_failing = false;
                if found.send(of(key.clone(), object)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    let kind = K::kind(&());
                    tracing::warn!(%kind, object = %key, %error, "watch an object that the gateway reads failed; it is retried");
                }
            }
        }
    }
}
