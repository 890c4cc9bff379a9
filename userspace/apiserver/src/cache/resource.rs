//! One kind's objects and their latest changes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLockReadGuard, RwLockWriteGuard};

use skep_store::Revision;

use super::objects::Objects;
use super::queue::Changes;
use super::watchers::Watchers;
use super::{Change, ChangeKind, Trigger};
use crate::lock::RwLock;
use crate::object::Object;

/// Changes that are kept; a watch that starts further back gets 410.
const MAX_CHANGES: usize = 2_048;
/// Bytes of the changes that are kept, with their lines. Changes of usual size never reach it: 2,048 of 8 KiB each. Without
/// it, 2,048 small patches of one large object would keep gigabytes.
const MAX_CHANGE_BYTES: usize = 24 << 20;
/// Bytes of the changes of all kinds. Beyond it a kind keeps [`MIN_CHANGE_BYTES`].
const MAX_HISTORY_BYTES: usize = 32 << 20;
/// Bytes of changes that a kind keeps whatever the others keep.
const MIN_CHANGE_BYTES: usize = 1 << 20;

/// Bytes of the changes that all kinds keep together.
#[derive(Clone, Default)]
pub(super) struct History(Arc<AtomicUsize>);

#[derive(Default)]
pub(crate) struct Resource {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    objects: Objects,
    changes: VecDeque<Arc<Change>>,
    /// Of the changes.
    bytes: usize,
    history: History,
    /// Every change after this revision is in `changes`.
    complete_after: Revision,
    watchers: Watchers,
    /// Number of changes since the start.
    published: u64,
}

/// The size and activity of a resource, for metrics.
pub(crate) struct Counts {
    pub(crate) objects: usize,
    /// Those of them that cannot be read.
    pub(crate) unreadable: usize,
    pub(crate) watchers: usize,
    /// Changes since the server started.
    pub(crate) changes: u64,
}

/// The changes after the requested revision are no longer known: 410.
#[derive(Debug)]
pub(crate) struct Gone {
    pub(crate) oldest: Revision,
}

impl Resource {
    pub(super) fn with(history: &History) -> Resource {
        let mut inner = Inner::default();
        inner.history = history.clone();
        Resource { inner: RwLock::new(inner) }
    }

    /// Nothing that panics runs under the lock.
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write()
    }

    pub(super) fn reset(&self, objects: Vec<Arc<Object>>, revision: Revision) {
        let mut inner = self.write();
        inner.objects = objects.into_iter().collect();
        inner.forget();
        inner.complete_after = revision;
        // Watchers missed the changes of the gap: they are dropped, and list again.
        inner.watchers = Watchers::default();
    }

    pub(super) fn put(&self, object: Arc<Object>) {
        let mut inner = self.write();
        let previous = inner.objects.insert(object.clone());
        if object.unreadable.is_some() {
            // Watchers keep what they have: nothing says that the object is gone.
            return;
        }
        let previous = previous.filter(|previous| previous.unreadable.is_none());
        let kind = if previous.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
        inner.publish(Change::new(kind, object, previous));
    }

    pub(super) fn delete(&self, key: &str, revision: Revision) {
        let mut inner = self.write();
        if let Some(previous) = inner.objects.remove(key) {
            let object = Arc::new(previous.deleted(revision));
            inner.publish(Change::new(ChangeKind::Deleted, object, Some(previous)));
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.read().objects.get(key).cloned()
    }

    /// The revision of the last known change.
    pub(crate) fn changed(&self) -> Revision {
        let inner = self.read();
        inner.changes.back().map_or(inner.complete_after, |change| change.object.revision)
    }

    /// The number of objects.
    pub(crate) fn len(&self) -> usize {
        self.read().objects.len()
    }

    pub(crate) fn counts(&self) -> Counts {
        let inner = self.read();
        let unreadable = inner.objects.values().filter(|object| object.unreadable.is_some()).count();
        Counts {
            objects: inner.objects.len(),
            unreadable,
            watchers: inner.watchers.count(),
            changes: inner.published,
        }
    }

    /// As [`Self::list`], with the objects that cannot be read.
    pub(crate) fn list_to_delete(&self, prefix: &str) -> Vec<Arc<Object>> {
        self.read().objects.with_prefix(prefix).cloned().collect()
    }

    /// Objects whose keys start with `prefix`, in key order.
    pub(crate) fn list(&self, prefix: &str) -> Vec<Arc<Object>> {
        self.read().with_prefix(prefix)
    }

    /// As [`Self::list`], at a past revision; `None` if the changes since then are no longer known.
    pub(crate) fn list_at(&self, prefix: &str, at: Revision) -> Option<Vec<Arc<Object>>> {
        let inner = self.read();
        if at < inner.complete_after {
            return None;
        }
        let mut objects = inner.with_prefix(prefix);
        let since = inner.changes.partition_point(|change| change.revision() <= at);
        // The first change of each object since then has its state at that revision.
        let mut before: BTreeMap<&str, Option<&Arc<Object>>> = BTreeMap::new();
        for change in inner.changes.range(since..).filter(|change| change.object.key.starts_with(prefix)) {
            before.entry(&change.object.key).or_insert(change.previous.as_ref());
        }
        if !before.is_empty() {
            objects.retain(|object| !before.contains_key(&*object.key));
            objects.extend(before.into_values().flatten().cloned());
            objects.sort_by(|a, b| a.key.cmp(&b.key));
        }
        Some(objects)
    }

    /// The known changes after a revision, and from here on those that meet the trigger.
    pub(crate) fn watch(
        &self,
        after: Revision,
        trigger: Trigger,
    ) -> Result<(Vec<Arc<Change>>, Changes), Gone> {
        let mut inner = self.write();
        if after < inner.complete_after {
            return Err(Gone { oldest: inner.complete_after });
        }
        let start = inner.changes.partition_point(|change| change.revision() <= after);
        let missed = inner.changes.range(start..).cloned().collect();
        Ok((missed, inner.watchers.subscribe(trigger)))
    }

    /// The present objects with `prefix`, and from here on the changes that meet the trigger.
    pub(crate) fn list_and_watch(&self, prefix: &str, trigger: Trigger) -> (Vec<Arc<Object>>, Changes) {
        let mut inner = self.write();
        let objects = inner.with_prefix(prefix);
        (objects, inner.watchers.subscribe(trigger))
    }

    /// All changes from here on.
    pub(crate) fn subscribe(&self) -> Changes {
        self.subscribe_to(Trigger::Any)
    }

    /// The changes from here on that meet a trigger.
    pub(crate) fn subscribe_to(&self, trigger: Trigger) -> Changes {
        self.write().watchers.subscribe(trigger)
    }
}

impl Inner {
    /// Those that can be read.
    fn with_prefix(&self, prefix: &str) -> Vec<Arc<Object>> {
        self.objects.with_prefix(prefix).filter(|object| object.unreadable.is_none()).cloned().collect()
    }

    /// Whether the changes take more memory than they may.
    fn is_heavy(&self) -> bool {
        let all = self.history.0.load(Ordering::Relaxed);
        self.bytes > MAX_CHANGE_BYTES || all > MAX_HISTORY_BYTES && self.bytes > MIN_CHANGE_BYTES
    }

    /// Forgets the changes.
    fn forget(&mut self) {
        self.changes.clear();
        self.history.0.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = 0;
    }

    fn publish(&mut self, change: Change) {
        self.published += 1;
        let change = Arc::new(change);
        self.bytes += change.weight();
        self.history.0.fetch_add(change.weight(), Ordering::Relaxed);
        self.changes.push_back(change.clone());
        self.watchers.publish(&change);
        while self.changes.len() > MAX_CHANGES || self.is_heavy() {
            let is_heavy = self.is_heavy();
            let Some(oldest) = self.changes.pop_front() else { return };
            self.bytes -= oldest.weight();
            self.history.0.fetch_sub(oldest.weight(), Ordering::Relaxed);
            self.complete_after = oldest.revision();
            // A watcher that still has it would keep more than is kept for all.
            if is_heavy && Arc::strong_count(&oldest) > 1 {
                self.watchers.close_behind(&oldest);
            }
        }
    }
}

/// The kind of a definition that is gone.
impl Drop for Inner {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use skep_store::Entry;

    use super::*;
    use crate::cache::queue::NoChange;

    fn object(key: &str, revision: Revision) -> Arc<Object> {
        let kind = skep_api::find("", "v1", "configmaps").unwrap();
        let value = format!("{{\"metadata\":{{\"name\":\"{key}\"}}}}").into();
        let entry = Entry { key: format!("/n/{key}").into(), value, created: 1, modified: revision };
        Arc::new(Object::from_entry(kind, &entry))
    }

    fn seen(objects: &[Arc<Object>]) -> Vec<(String, Revision)> {
        objects.iter().map(|object| (object.key.to_string(), object.revision)).collect()
    }

    fn large(revision: Revision) -> Arc<Object> {
        let kind = skep_api::find("", "v1", "configmaps").unwrap();
        let value = format!("{{\"metadata\":{{\"name\":\"k\"}},\"data\":\"{}\"}}", "x".repeat(1 << 20));
        let entry = Entry { key: "/n/k".into(), value: value.into(), created: 1, modified: revision };
        Arc::new(Object::from_entry(kind, &entry))
    }

    #[test]
    fn large_changes_are_kept_by_their_bytes_and_older_ones_are_gone() {
        let resource = Resource::default();
        let mut stalled = resource.subscribe();
        for revision in 1..=200 {
            resource.put(large(revision));
        }
        let inner = resource.read();
        let kept: usize = inner.changes.iter().map(|change| change.object.bytes.len()).sum();
        assert!(kept <= MAX_CHANGE_BYTES && kept > MAX_CHANGE_BYTES / 2, "{kept} bytes");
        assert_eq!(inner.changes.back().map(|change| change.revision()), Some(200));
        let complete_after = inner.complete_after;
        drop(inner);
        assert_eq!(
            stalled.try_recv().unwrap_err(),
            NoChange::Closed,
            "a watcher keeps no more than the ring"
        );
        assert!(resource.watch(complete_after - 1, Trigger::Any).is_err());
        assert!(resource.watch(complete_after, Trigger::Any).is_ok());
    }

    #[test]
    fn many_kinds_with_large_changes_share_their_bytes() {
        let history = History::default();
        let kinds: Vec<Resource> = (0..8).map(|_| Resource::with(&history)).collect();
        for (kind, revision) in kinds.iter().zip((1..).step_by(30)) {
            (revision..revision + 30).for_each(|revision| kind.put(large(revision)));
        }
        let kept = |kind: &Resource| kind.read().bytes;
        let all: usize = kinds.iter().map(kept).sum();
        assert_eq!(all, history.0.load(Ordering::Relaxed));
        assert!(all <= MAX_HISTORY_BYTES + kinds.len() * (MIN_CHANGE_BYTES + (2 << 20)), "{all} bytes");
        drop(kinds);
        assert_eq!(history.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_watcher_that_follows_large_changes_stays_open() {
        let resource = Resource::default();
        let mut changes = resource.subscribe();
        for revision in 1..=200 {
            resource.put(large(revision));
            assert_eq!(changes.try_recv().map(|change| change.revision()), Ok(revision));
        }
    }

    proptest! {
        #[test]
        fn the_past_is_as_it_was(writes in prop::collection::vec((0u8..5, any::<bool>()), 0..60)) {
            let resource = Resource::default();
            resource.reset(vec![object("k0", 1), object("k3", 2)], 2);
            let mut states = vec![seen(&resource.list("/n/"))];
            for (revision, (key, delete)) in (3..).zip(writes) {
                match delete {
                    true => resource.delete(&format!("/n/k{key}"), revision),
                    false => resource.put(object(&format!("k{key}"), revision)),
                }
                states.push(seen(&resource.list("/n/")));
            }
            for (revision, state) in (2..).zip(states) {
                prop_assert_eq!(seen(&resource.list_at("/n/", revision).unwrap()), state);
            }
            prop_assert!(resource.list_at("/n/", 1).is_none());
        }
    }
}
