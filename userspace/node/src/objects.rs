//! ConfigMaps and Secrets that pods of this node use.
//!
//! In: reads, and a watch by name for each object that a pod mounts. Out: the objects, and the keys of changed ones. The
//! last known value is used while the API server cannot be reached.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::mpsc;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    ConfigMap,
    Secret,
}

/// One object's identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub kind: ObjectKind,
    pub namespace: String,
    pub name: String,
}

#[derive(Debug, Clone)]
pub enum Object {
    ConfigMap(Arc<ConfigMap>),
    Secret(Arc<Secret>),
}

/// The object is watched, and its last value kept, until this is dropped.
pub struct WatchGuard {
    key: ObjectKey,
    task: tokio::task::AbortHandle,
    cache: ObjectCache,
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.task.abort();
        self.cache.lock().forget(&self.key);
    }
}

/// The node's view of ConfigMaps and Secrets.
#[derive(Clone)]
pub struct ObjectCache {
    client: Client,
    state: Arc<Mutex<State>>,
    changes: mpsc::UnboundedSender<ObjectKey>,
}

#[derive(Default)]
struct State {
    watches: HashMap<ObjectKey, Weak<WatchGuard>>,
    last: LastKnown,
}

impl State {
    fn is_followed(&self, key: &ObjectKey) -> bool {
        self.watches.get(key).is_some_and(|guard| guard.strong_count() > 0)
    }

    /// Unless another guard has taken over.
    fn forget(&mut self, key: &ObjectKey) {
        if !self.is_followed(key) {
            self.watches.remove(key);
            self.last.0.remove(key);
        }
    }
}

/// Objects as they were last read; `None` for one that did not exist.
#[derive(Default)]
struct LastKnown(HashMap<ObjectKey, Option<Object>>);

impl LastKnown {
    /// Stores what was read. True if it differs from what was known: pods may use that.
    fn remember(&mut self, key: &ObjectKey, object: Option<Object>) -> bool {
        let read = object.as_ref().and_then(version);
        match self.0.insert(key.clone(), object) {
            None => false,
            Some(before) => before.as_ref().and_then(version) != read,
        }
    }

    fn get(&self, key: &ObjectKey) -> Option<Object> {
        self.0.get(key).cloned().flatten()
    }
}

impl ObjectCache {
    /// `changes` receives the key of an object that differs from what was read before, whether a read or a watch finds it.
    pub fn new(client: Client, changes: mpsc::UnboundedSender<ObjectKey>) -> Self {
        Self { client, state: Arc::default(), changes }
    }

    /// The object as the API server has it now; `None` when it does not exist.
    pub async fn get(&self, key: &ObjectKey) -> Result<Option<Object>, kube::Error> {
        let fetched = match key.kind {
            ObjectKind::ConfigMap => {
                let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &key.namespace);
                api.get_opt(&key.name).await.map(|o| o.map(|o| Object::ConfigMap(Arc::new(o))))
            }
            ObjectKind::Secret => {
                let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
                api.get_opt(&key.name).await.map(|o| o.map(|o| Object::Secret(Arc::new(o))))
            }
        };
        match fetched {
            Ok(object) => {
                // The watch finds nothing new afterwards, so this informs the pods that have an earlier version.
                self.remember(key, object.clone());
                Ok(object)
            }
            Err(kube::Error::Api(status)) => Err(kube::Error::Api(status)),
            Err(error) => match self.lock().last.get(key) {
                Some(object) => Ok(Some(object)),
                None => Err(error),
            },
        }
    }

    /// Watches the object until the last guard is dropped.
    pub fn follow(&self, key: &ObjectKey) -> Arc<WatchGuard> {
        let mut state = self.lock();
        if let Some(guard) = state.watches.get(key).and_then(Weak::upgrade) {
            return guard;
        }
        let (cache, own) = (self.clone(), key.clone());
        let task = tokio::spawn(async move { cache.watch(own).await }).abort_handle();
        let guard = Arc::new(WatchGuard { key: key.clone(), task, cache: self.clone() });
        state.watches.insert(key.clone(), Arc::downgrade(&guard));
        guard
    }

    async fn watch(&self, key: ObjectKey) {
        let config = watcher::Config::default().fields(&format!("metadata.name={}", key.name)).page_size(2);
        match key.kind {
            ObjectKind::ConfigMap => {
                let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &key.namespace);
                self.pump(watcher(api, config), &key, |o| Object::ConfigMap(Arc::new(o))).await;
            }
            ObjectKind::Secret => {
                let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
                self.pump(watcher(api, config), &key, |o| Object::Secret(Arc::new(o))).await;
            }
        }
    }

    async fn pump<K>(
        &self,
        stream: impl futures::Stream<Item = watcher::Result<watcher::Event<K>>>,
        key: &ObjectKey,
        wrap: impl Fn(K) -> Object,
    ) {
        let stream = kube::runtime::WatchStreamExt::default_backoff(stream);
        let mut stream = std::pin::pin!(stream);
        let mut listed = false;
        loop {
            let object = match stream.try_next().await {
                Ok(Some(watcher::Event::Init)) => {
                    listed = false;
                    continue;
                }
                Ok(Some(watcher::Event::InitApply(object))) => {
                    listed = true;
                    Some(wrap(object))
                }
                // It was deleted while nothing watched.
                Ok(Some(watcher::Event::InitDone)) if !listed => None,
                Ok(Some(watcher::Event::InitDone)) => continue,
                Ok(Some(watcher::Event::Apply(object))) => Some(wrap(object)),
                Ok(Some(watcher::Event::Delete(_))) => None,
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(name = key.name, %error, "watch object failed");
                    continue;
                }
            };
            self.remember(key, object);
        }
    }

    /// Stores what was read of an object that is followed, and says so if it has changed.
    fn remember(&self, key: &ObjectKey, object: Option<Object>) {
        let mut state = self.lock();
        if state.is_followed(key) && state.last.remember(key, object) {
            // The agent ends: no pod is left to refresh.
            let _ = self.changes.send(key.clone());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn version(object: &Object) -> Option<String> {
    match object {
        Object::ConfigMap(map) => map.metadata.resource_version.clone(),
        Object::Secret(secret) => secret.metadata.resource_version.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(version: &str) -> Option<Object> {
        let mut secret = Secret::default();
        secret.metadata.resource_version = Some(version.to_owned());
        Some(Object::Secret(Arc::new(secret)))
    }

    #[tokio::test]
    async fn an_object_is_kept_while_a_guard_is() {
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let (changes, _received) = mpsc::unbounded_channel();
        let cache = ObjectCache::new(Client::try_from(config).unwrap(), changes);
        let key = ObjectKey { kind: ObjectKind::Secret, namespace: "a".into(), name: "b".into() };
        let is_kept = || cache.lock().last.get(&key).is_some();
        cache.remember(&key, secret("1"));
        assert!(!is_kept(), "no pod uses it");
        let first = cache.follow(&key);
        cache.remember(&key, secret("1"));
        let second = cache.follow(&key);
        drop(first);
        assert!(is_kept());
        drop(second);
        assert!(!is_kept());
        assert!(cache.lock().watches.is_empty());
    }

    #[test]
    fn a_read_that_differs_from_the_one_before_is_a_change() {
        let key = ObjectKey { kind: ObjectKind::Secret, namespace: "a".into(), name: "b".into() };
        let mut last = LastKnown::default();
        for (read, changed) in [
            (None, false),
            (secret("1"), true),
            (secret("1"), false),
            (secret("2"), true),
            // An answer that was under way.
            (secret("1"), true),
            (secret("2"), true),
            (secret("2"), false),
            (None, true),
            (None, false),
        ] {
            assert_eq!(last.remember(&key, read.clone()), changed, "{read:?}");
        }
        assert!(last.get(&key).is_none());
    }
}
