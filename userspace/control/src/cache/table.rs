//! All objects of one kind: by key, by controlling owner and by the kind's own index.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::key::Key;
use super::stored::Stored;
use crate::meta::controller_of;

#[derive(Clone, Debug)]
struct Entry<K> {
    object: Arc<K>,
    /// When this process first received this version, on the steady clock. Other machines and steps of the wall clock
    /// play no part in it.
    changed: Timestamp,
    revision: u64,
    /// Known only from the answer to a write; no watch event has shown it yet.
    unwatched: bool,
}

/// All objects of one kind.
#[derive(Clone)]
pub struct Table<K> {
    entries: BTreeMap<Key, Entry<K>>,
    owned: HashMap<Arc<str>, BTreeSet<Key>>,
    indexed: HashMap<Arc<str>, BTreeSet<Key>>,
    /// Keys that the relist under way has shown; `None` outside a relist.
    listed: Option<HashSet<Key>>,
    /// Objects whose present version does not decode.
    unreadable: HashSet<Key>,
}

/// Keys that a relist did not show.
pub(super) struct Unlisted {
    /// A watch had shown them: they are gone.
    pub(super) gone: Vec<Key>,
    /// Known only from our own writes. The list may be older than the write, so the server must be asked.
    pub(super) unconfirmed: Vec<Key>,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Table {
            entries: BTreeMap::new(),
            owned: HashMap::new(),
            indexed: HashMap::new(),
            listed: None,
            unreadable: HashSet::new(),
        }
    }
}

impl<K: Stored> Table<K> {
    pub fn get(&self, key: &Key) -> Option<&Arc<K>> {
        self.entries.get(key).map(|e| &e.object)
    }

    /// When this process first received the object's present version, on the steady clock.
    pub fn changed_at(&self, key: &Key) -> Option<Timestamp> {
        self.entries.get(key).map(|e| e.changed)
    }

    /// Whether the object exists, in a version that does not decode. The table may hold an earlier version.
    pub fn is_unreadable(&self, key: &Key) -> bool {
        self.unreadable.contains(key)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<K>)> {
        self.entries.iter().map(|(k, e)| (k, &e.object))
    }

    pub fn in_namespace<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<K>)> + use<'a, K> {
        let from = Key::new(namespace, "");
        let namespace = from.namespace.clone();
        self.entries
            .range(from..)
            .take_while(move |(k, _)| k.namespace == namespace)
            .map(|(k, e)| (k, &e.object))
    }

    /// Objects whose controlling owner has this uid.
    pub fn owned_by<'a>(&'a self, uid: &str) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        self.objects(self.owned.get(uid))
    }

    /// Objects whose `Stored::index` is `value`.
    pub fn indexed<'a>(&'a self, value: &str) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        self.objects(self.indexed.get(value))
    }

    fn objects<'a>(
        &'a self,
        keys: Option<&'a BTreeSet<Key>>,
    ) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        keys.into_iter().flatten().filter_map(|k| self.entries.get(k)).map(|e| &e.object)
    }

    /// Stores an object if it is newer than the known one. `None` if it is not; else the version that it replaced.
    pub(super) fn put(&mut self, object: Arc<K>, now: Timestamp, watched: bool) -> Option<Option<Arc<K>>> {
        let key = Key::of(object.metadata());
        if let (true, Some(listed)) = (watched, &mut self.listed) {
            listed.insert(key.clone());
        }
        if !self.unreadable.is_empty() {
            self.unreadable.remove(&key);
        }
        let revision = revision(object.metadata());
        if let Some(entry) = self.entries.get_mut(&key)
            && entry.revision >= revision
            && revision != 0
        {
            entry.unwatched &= !watched;
            return None;
        }
        let entry = Entry { object: object.clone(), changed: now, revision, unwatched: !watched };
        let old = self.entries.insert(key.clone(), entry).map(|e| e.object);
        if let Some(old) = &old {
            self.unindex(&key, old);
        }
        if let Some(uid) = controller_uid(object.metadata()) {
            self.owned.entry(uid.into()).or_default().insert(key.clone());
        }
        if let Some(value) = object.index() {
            self.indexed.entry(value.into()).or_default().insert(key);
        }
        Some(old)
    }

    /// Notes that the object exists in a version that does not decode. Returns whether the table holds another object of
    /// that name, which is gone.
    pub(super) fn keep(&mut self, key: &Key, uid: Option<&str>) -> bool {
        if let Some(listed) = &mut self.listed {
            listed.insert(key.clone());
        }
        self.unreadable.insert(key.clone());
        let Some(entry) = self.entries.get_mut(key) else { return false };
        entry.unwatched = false;
        uid.is_some() && entry.object.metadata().uid.as_deref() != uid
    }

    /// Removes the object; with a uid, only the object that has it.
    pub(super) fn remove(&mut self, key: &Key, uid: Option<&str>) -> Option<Arc<K>> {
        if !self.unreadable.is_empty() {
            self.unreadable.remove(key);
        }
        let found = self.entries.get(key)?;
        if uid.is_some() && found.object.metadata().uid.as_deref() != uid {
            return None;
        }
        let object = self.entries.remove(key)?.object;
        self.unindex(key, &object);
        Some(object)
    }

    fn unindex(&mut self, key: &Key, object: &K) {
        let indexes =
            [(&mut self.owned, controller_uid(object.metadata())), (&mut self.indexed, object.index())];
        for (index, value) in indexes {
            let Some(value) = value else { continue };
            if let Some(keys) = index.get_mut(value) {
                keys.remove(key);
                if keys.is_empty() {
                    index.remove(value);
                }
            }
        }
    }

    /// Sets the deletion timestamp before a watch event shows it; returns the version before.
    pub(super) fn mark_deleted(&mut self, key: &Key, uid: Option<&str>, now: Timestamp) -> Option<Arc<K>> {
        let entry = self.entries.get_mut(key)?;
        let meta = entry.object.metadata();
        if meta.deletion_timestamp.is_some() || (uid.is_some() && meta.uid.as_deref() != uid) {
            return None;
        }
        let old = entry.object.clone();
        Arc::make_mut(&mut entry.object).metadata_mut().deletion_timestamp = Some(Time(now));
        Some(old)
    }

    pub(super) fn begin_list(&mut self) {
        self.listed = Some(HashSet::new());
    }

    pub(super) fn end_list(&mut self) -> Unlisted {
        let listed = self.listed.take().unwrap_or_default();
        self.unreadable.retain(|key| listed.contains(key));
        let unlisted = self.entries.iter().filter(|(k, _)| !listed.contains(*k));
        let (unconfirmed, gone): (Vec<_>, Vec<_>) = unlisted.partition(|(_, e)| e.unwatched);
        let keys = |list: Vec<(&Key, &Entry<K>)>| list.into_iter().map(|(k, _)| k.clone()).collect();
        Unlisted { gone: keys(gone), unconfirmed: keys(unconfirmed) }
    }
}

/// The resourceVersion as a number; 0 (never stale) if it is not one.
fn revision(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// Uid of the owner that controls the object.
fn controller_uid(meta: &ObjectMeta) -> Option<&str> {
    controller_of(meta).map(|o| o.uid.as_str())
}
