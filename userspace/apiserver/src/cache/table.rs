//! Which kinds there are and where their objects are kept. A change of definitions makes a new table that shares what
//! did not change with the old one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;
use skep_api::kinds::{DefinedKinds, defined_kinds};
use skep_api::{Kind, KindRef, Registry, kinds, meta};

use super::{ROOT, Resource};
use crate::object::prefix;

/// The cache of a kind, of whichever version its objects are.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) kind: KindRef,
    pub(super) resource: Arc<Resource>,
}

#[derive(Clone)]
pub(super) struct Table {
    pub(super) registry: Arc<Registry>,
    /// By the prefix of the keys: `/registry/pods/`.
    pub(super) places: HashMap<String, Place>,
    /// By the names of definitions.
    pub(super) made: BTreeMap<String, Arc<DefinedKinds>>,
}

impl Default for Table {
    fn default() -> Table {
        let mut places = HashMap::new();
        for kind in kinds() {
            places
                .entry(prefix(kind))
                .or_insert_with(|| Place { kind: kind.into(), resource: Arc::default() });
        }
        Table { registry: Arc::new(Registry::with(Vec::new())), places, made: BTreeMap::new() }
    }
}

/// A place whose objects are to be read from the store.
type Stale = Option<(String, Place)>;

impl Table {
    /// With these definitions and no others.
    pub(super) fn with_all(&self, definitions: &[Value]) -> Table {
        let names: Vec<&str> = definitions.iter().map(meta::name).collect();
        let mut table = self.clone();
        let gone: Vec<String> =
            table.made.keys().filter(|name| !names.contains(&name.as_str())).cloned().collect();
        gone.iter().for_each(|name| table.remove(name));
        for definition in definitions {
            table.put(definition);
        }
        table.register();
        table
    }

    pub(super) fn with(&self, definition: &Value) -> (Table, Stale) {
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

    fn put(&mut self, definition: &Value) -> Stale {
        let made = defined_kinds(definition);
        let before = self.made.insert(meta::name(definition).to_owned(), Arc::new(made.clone()));
        let kind = made.stored?;
        let at = prefix(&kind);
        let resource = match self.places.get(&at) {
            // A built-in kind is never overlaid.
            Some(place) if place.kind.custom.is_none() => return None,
            Some(place) => place.resource.clone(),
            None => Arc::default(),
        };
        let place = Place { kind: KindRef::Custom(kind.clone()), resource };
        self.places.insert(at.clone(), place.clone());
        let same =
            before.and_then(|before| before.stored.clone()).is_some_and(|old| reads_alike(&old, &kind));
        (!same).then_some((at, place))
    }

    fn remove(&mut self, name: &str) {
        let made = self.made.remove(name);
        if let Some(kind) = made.and_then(|made| made.stored.clone())
            && self.places.get(&prefix(&kind)).is_some_and(|place| place.kind.custom.is_some())
        {
            self.places.remove(&prefix(&kind));
        }
    }

    fn register(&mut self) {
        let served = self.made.values().flat_map(|made| made.served.iter().cloned());
        self.registry = Arc::new(Registry::with(served.collect()));
    }

    /// The place of a key, and its prefix.
    pub(super) fn place_of(&self, key: &str) -> Option<(&str, &Place)> {
        // `/registry/pods/...` or `/registry/apps/deployments/...`: one or two parts behind the root.
        let rest = key.strip_prefix(ROOT)?;
        let first = ROOT.len() + rest.find('/')? + 1;
        let second = key[first..].find('/').map(|at| first + at + 1);
        [Some(first), second].into_iter().flatten().find_map(|end| {
            let (prefix, place) = self.places.get_key_value(&key[..end])?;
            Some((prefix.as_str(), place))
        })
    }
}

/// Whether stored bytes become the same object by both.
fn reads_alike(old: &Kind, new: &Kind) -> bool {
    match (&old.custom, &new.custom) {
        (Some(old), Some(new)) => old.definition.hash() == new.definition.hash(),
        _ => false,
    }
}
