//! All tables together. In: versions that watches showed and answers to our own writes. Out: [`Change`]s.
//!
//! The answer to a write lands here before its key is reconciled again, so a controller always reads its own writes: a
//! watch that lags can make it neither create an object twice nor delete another one. Revisions decide which of two
//! versions is newer. The uids of deleted objects are remembered, so that a late answer cannot revive one.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::key::Key;
use super::kinds::{Kind, Object, for_each_kind};
use super::table::Table;

/// One object's step: created (`old` absent), changed, or deleted (`new` absent).
#[derive(Clone, Debug)]
pub struct Change {
    pub old: Option<Object>,
    pub new: Option<Object>,
}

impl Change {
    /// The object as it is, or as it last was.
    pub fn object(&self) -> Option<&Object> {
        self.new.as_ref().or(self.old.as_ref())
    }
}

/// Uids of deleted objects, the latest few thousand.
#[derive(Clone, Default)]
struct DeletedUids {
    order: VecDeque<Arc<str>>,
    uids: HashSet<Arc<str>>,
}

impl DeletedUids {
    const MAX: usize = 8192;

    fn insert(&mut self, uid: Option<&str>) {
        let Some(uid) = uid else { return };
        let uid: Arc<str> = uid.into();
        if self.uids.insert(uid.clone()) {
            self.order.push_back(uid);
        }
        while self.order.len() > Self::MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.uids.remove(&oldest);
            }
        }
    }

    fn contains(&self, meta: &ObjectMeta) -> bool {
        meta.uid.as_deref().is_some_and(|uid| self.uids.contains(uid))
    }
}

/// Since when nodes are missing, the latest few thousand.
#[derive(Clone, Default)]
struct MissingNodes {
    order: VecDeque<(Key, Timestamp)>,
    since: HashMap<Key, Timestamp>,
    /// When the first list was complete.
    listed: Option<Timestamp>,
}

impl MissingNodes {
    const MAX: usize = 4096;

    fn insert(&mut self, key: Key, now: Timestamp) {
        self.order.push_back((key.clone(), now));
        self.since.insert(key, now);
        while self.order.len() > Self::MAX {
            if let Some((key, since)) = self.order.pop_front()
                && self.since.get(&key) == Some(&since)
            {
                self.since.remove(&key);
            }
        }
    }
}

impl View {
    /// Since when this process knows of no such node, on the steady clock; `None` if there is one, or nodes were not listed yet.
    pub fn node_missing_since(&self, key: &Key) -> Option<Timestamp> {
        if self.nodes.get(key).is_some() {
            return None;
        }
        self.missing_nodes.since.get(key).copied().or(self.missing_nodes.listed)
    }

    pub(super) fn note_missing_nodes(&mut self, changes: &[Change], now: Timestamp) {
        for change in changes {
            if let (Some(Object::Node(node)), None) = (&change.old, &change.new) {
                self.missing_nodes.insert(Key::of(&node.metadata), now);
            }
        }
    }

    pub(super) fn note_listed_nodes(&mut self, now: Timestamp) {
        self.missing_nodes.listed.get_or_insert(now);
    }
}

macro_rules! view {
    ($({$variant:ident, $field:ident, $type:ty, $index:tt, $transform:tt})*) => {
        /// All tables.
        #[derive(Clone, Default)]
        pub struct View {
            $(pub $field: Table<$type>,)*
            deleted_uids: DeletedUids,
            missing_nodes: MissingNodes,
        }

        impl View {
            /// Stores a version that a watch showed.
            pub fn watched(&mut self, object: Object, now: Timestamp) -> Option<Change> {
                self.put(object, now, true)
            }

            /// Stores the answer to one of our own writes.
            pub fn written(&mut self, object: Object, now: Timestamp) -> Option<Change> {
                self.put(object, now, false)
            }

            fn put(&mut self, object: Object, now: Timestamp, watched: bool) -> Option<Change> {
                if self.deleted_uids.contains(object.meta()) { return None }
                let old = match &object {
                    $(Object::$variant(o) => self.$field.put(o.clone(), now, watched)?.map(Object::$variant)),*
                };
                Some(Change { old, new: Some(object) })
            }

            /// A watch showed that the object was deleted.
            pub fn deleted(&mut self, object: &Object) -> Option<Change> {
                let key = Key::of(object.meta());
                self.deleted_uids.insert(object.meta().uid.as_deref());
                let old = match object {
                    $(Object::$variant(o) => {
                        self.$field.remove(&key, o.metadata().uid.as_deref()).map(Object::$variant)?
                    })*
                };
                Some(Change { old: Some(old), new: None })
            }

            /// A watch showed a version that does not decode. The last good version stays in force, unless it is of an
            /// earlier object with the same name.
            pub fn unreadable(&mut self, kind: Kind, key: &Key, uid: Option<&str>) -> Option<Change> {
                let replaced = match kind {
                    $(Kind::$variant => self.$field.keep(key, uid)),*
                };
                if !replaced { return None }
                let change = self.missing(kind, key);
                match kind { $(Kind::$variant => drop(self.$field.keep(key, uid))),* }
                change
            }

            /// A watch showed that an object was deleted whose last version does not decode.
            pub fn deleted_unreadable(&mut self, kind: Kind, key: &Key, uid: Option<&str>) -> Option<Change> {
                self.deleted_uids.insert(uid);
                let old = match kind {
                    $(Kind::$variant => self.$field.remove(key, uid).map(Object::$variant)?),*
                };
                Some(Change { old: Some(old), new: None })
            }

            /// The server answered that no such object exists.
            pub fn missing(&mut self, kind: Kind, key: &Key) -> Option<Change> {
                let old = match kind {
                    $(Kind::$variant => self.$field.remove(key, None).map(Object::$variant)?),*
                };
                self.deleted_uids.insert(old.meta().uid.as_deref());
                Some(Change { old: Some(old), new: None })
            }

            /// The server accepted our delete; watches show the end.
            pub fn delete_accepted(&mut self, kind: Kind, key: &Key, uid: Option<&str>, now: Timestamp) -> Option<Change> {
                match kind {
                    $(Kind::$variant => {
                        let old = Object::$variant(self.$field.mark_deleted(key, uid, now)?);
                        let new = self.$field.get(key).cloned().map(Object::$variant);
                        Some(Change { old: Some(old), new })
                    })*
                }
            }

            pub fn get(&self, kind: Kind, key: &Key) -> Option<Object> {
                match kind { $(Kind::$variant => self.$field.get(key).cloned().map(Object::$variant)),* }
            }

            /// Every object of a kind.
            pub fn all(&self, kind: Kind) -> Vec<Object> {
                match kind { $(Kind::$variant => self.$field.iter().map(|(_, o)| Object::$variant(o.clone())).collect()),* }
            }

            pub fn begin_list(&mut self, kind: Kind) {
                match kind { $(Kind::$variant => self.$field.begin_list()),* }
            }

            /// Ends a relist: removes what it did not show. The keys returned are known only from our own writes; the
            /// server must be asked for them.
            pub fn end_list(&mut self, kind: Kind) -> (Vec<Change>, Vec<Key>) {
                let unlisted = match kind { $(Kind::$variant => self.$field.end_list()),* };
                let changes = unlisted.gone.iter().filter_map(|key| self.missing(kind, key)).collect();
                (changes, unlisted.unconfirmed)
            }
        }
    };
}
for_each_kind!(view!);
