//! The stored kinds and their caches. A change of definitions makes a new table that shares the unchanged caches with the
//! old one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;
use skep_api::kinds::{DefinedKinds, defined_kinds};
use skep_api::{Kind, KindRef, Registry, kinds, meta};

use super::resource::History;
use super::{ROOT, Resource};
use crate::object::prefix;

/// A stored kind and the cache of its objects, whose versions may differ.
#[derive(Clone)]
pub(super) struct CachedKind {
    pub(super) kind: KindRef,
    pub(super) resource: Arc<Resource>,
}

#[derive(Clone)]
pub(super) struct Table {
    pub(super) registry: Arc<Registry>,
    /// By the prefix of the keys: `/registry/pods/`.
    pub(super) cached_kinds: HashMap<String, CachedKind>,
    /// Of the changes that the caches keep.
    history: History,
    /// By the names of definitions.
    pub(super) made: BTreeMap<String, Arc<DefinedKinds>>,
}

impl Default for Table {
    fn default() -> Table {
        let (mut cached_kinds, history) = (HashMap::new(), History::default());
        for kind in kinds() {
            let resource = || Arc::new(Resource::with(&history));
            cached_kinds
                .entry(prefix(kind))
                .or_insert_with(|| CachedKind { kind: kind.into(), resource: resource() });
        }
        let registry = Arc::new(Registry::with(Vec::new()));
        Table { registry, cached_kinds, history, made: BTreeMap::new() }
    }
}

/// A definition's name and kinds.
pub(super) struct Defined {
    name: String,
    kinds: DefinedKinds,
}

impl Defined {
    pub(super) fn by(definition: &Value) -> Defined {
        Defined { name: meta::name(definition).to_owned(), kinds: defined_kinds(definition) }
    }
}

/// A kind whose objects must be read from the store again.
type Stale = Option<(String, CachedKind)>;

impl Table {
    /// A table with exactly these definitions.
    pub(super) fn with_all(&self, definitions: Vec<Defined>) -> Table {
        let names: HashSet<&str> = definitions.iter().map(|defined| defined.name.as_str()).collect();
        let mut table = self.clone();
        let gone: Vec<String> =
            table.made.keys().filter(|name| !names.contains(name.as_str())).cloned().collect();
        gone.iter().for_each(|name| table.remove(name));
        for definition in definitions {
            table.put(definition);
        }
        table.register();
        table
    }

    pub(super) fn with(&self, definition: Defined) -> (Table, Stale) {
        let mut table = self.clone();
        let stale = table.put(definition);
        table.register();
        (table, stale)
    }

    pub(super) fn without(&self, name: &str) -> Table {
        let mut table = self.clone();
        table.remove(name);
        table.register();
        table
    }

    fn put(&mut self, Defined { name, kinds: made }: Defined) -> Stale {
        let before = self.made.insert(name, Arc::new(made.clone()));
        let kind = made.stored?;
        let at = prefix(&kind);
        let resource = match self.cached_kinds.get(&at) {
            // A definition never replaces a built-in kind.
            Some(cached) if cached.kind.custom.is_none() => return None,
            Some(cached) => cached.resource.clone(),
            None => Arc::new(Resource::with(&self.history)),
        };
        let cached = CachedKind { kind: KindRef::Custom(kind.clone()), resource };
        self.cached_kinds.insert(at.clone(), cached.clone());
        let same =
            before.and_then(|before| before.stored.clone()).is_some_and(|old| reads_alike(&old, &kind));
        (!same).then_some((at, cached))
    }

    fn remove(&mut self, name: &str) {
        let made = self.made.remove(name);
        if let Some(kind) = made.and_then(|made| made.stored.clone())
            && self.cached_kinds.get(&prefix(&kind)).is_some_and(|cached| cached.kind.custom.is_some())
        {
            self.cached_kinds.remove(&prefix(&kind));
        }
    }

    fn register(&mut self) {
        let served = self.made.values().flat_map(|made| made.served.iter().cloned());
        self.registry = Arc::new(Registry::with(served.collect()));
    }

    /// The kind of a key, with its prefix.
    pub(super) fn kind_of_key(&self, key: &str) -> Option<(&str, &CachedKind)> {
        // `/registry/pods/...` or `/registry/apps/deployments/...`: one or two parts behind the root.
        let rest = key.strip_prefix(ROOT)?;
        let first = ROOT.len() + rest.find('/')? + 1;
        let second = key[first..].find('/').map(|at| first + at + 1);
        [Some(first), second].into_iter().flatten().find_map(|end| {
            let (prefix, cached) = self.cached_kinds.get_key_value(&key[..end])?;
            Some((prefix.as_str(), cached))
        })
    }
}

/// Whether stored bytes give the same object under both schemas.
fn reads_alike(old: &Kind, new: &Kind) -> bool {
    match (&old.custom, &new.custom) {
        (Some(old), Some(new)) => old.definition.hash() == new.definition.hash(),
        _ => false,
    }
}
