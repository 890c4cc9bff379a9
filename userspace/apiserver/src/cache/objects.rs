//! The objects of one kind under their keys: in order for lists, and by hash for reads of one object.
//!
//! A search in the ordered map compares a dozen keys, each a cache miss: a third of the time of a read from memory.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::ops::Bound;
use std::sync::Arc;

use crate::object::Object;

/// Both maps hold the same objects.
#[derive(Default)]
pub(super) struct Objects {
    ordered: BTreeMap<Arc<str>, Arc<Object>>,
    hashed: HashSet<Keyed>,
}

/// An object that is compared and hashed by its key.
struct Keyed(Arc<Object>);

impl Objects {
    pub(super) fn get(&self, key: &str) -> Option<&Arc<Object>> {
        self.hashed.get(key).map(|keyed| &keyed.0)
    }

    /// Returns the object that had the key.
    pub(super) fn insert(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        self.hashed.replace(Keyed(object.clone()));
        self.ordered.insert(object.key.clone(), object)
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Arc<Object>> {
        self.hashed.remove(key);
        self.ordered.remove(key)
    }

    pub(super) fn len(&self) -> usize {
        self.ordered.len()
    }

    /// In the order of their keys.
    pub(super) fn values(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.ordered.values()
    }

    /// Objects whose keys start with `prefix`, in the order of their keys.
    pub(super) fn with_prefix(&self, prefix: &str) -> impl Iterator<Item = &Arc<Object>> {
        let range = self.ordered.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        range.take_while(move |(key, _)| key.starts_with(prefix)).map(|(_, object)| object)
    }
}

impl FromIterator<Arc<Object>> for Objects {
    fn from_iter<I: IntoIterator<Item = Arc<Object>>>(objects: I) -> Objects {
        let ordered: BTreeMap<_, _> =
            objects.into_iter().map(|object| (object.key.clone(), object)).collect();
        Objects { hashed: ordered.values().cloned().map(Keyed).collect(), ordered }
    }
}

impl Borrow<str> for Keyed {
    fn borrow(&self) -> &str {
        &self.0.key
    }
}

impl PartialEq for Keyed {
    fn eq(&self, other: &Keyed) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for Keyed {}

impl Hash for Keyed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}
