//! The kinds that a server serves now: the built-in ones and those that definitions add, found in the same way.
//!
//! In: the custom kinds. Out: kinds by the names in URLs and objects, and the order of discovery.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use super::built_in::ROWS;
use super::kind::{Kind, KindRef};
use super::name::Name;
use crate::version_order::compare_versions;

/// A registry does not change; a change of definitions makes a new one.
#[derive(Debug, Default)]
pub struct Registry {
    kinds: Vec<KindRef>,
    /// By plural, then a few that share it in several groups and versions.
    by_plural: HashMap<Name, Vec<KindRef>>,
    by_kind: HashMap<Name, Vec<KindRef>>,
}

impl Registry {
    /// The built-in kinds, then the custom ones by group, version (the preferred first) and name. A built-in kind is never
    /// replaced.
    pub fn with(mut custom: Vec<Arc<Kind>>) -> Registry {
        custom.sort_by(|a, b| {
            a.group
                .cmp(&b.group)
                .then_with(|| compare_versions(&a.version, &b.version))
                .then_with(|| a.plural.cmp(&b.plural))
        });
        let mut registry = Registry::default();
        kinds().iter().for_each(|kind| registry.add(kind.into()));
        custom.into_iter().for_each(|kind| registry.add(KindRef::Custom(kind)));
        registry
    }

    fn add(&mut self, kind: KindRef) {
        if self.find(&kind.group, &kind.version, &kind.plural).is_some() {
            return;
        }
        self.by_plural.entry(kind.plural.clone()).or_default().push(kind.clone());
        // The first of a kind is the one that is found by its name.
        self.by_kind.entry(kind.kind.clone()).or_default().push(kind.clone());
        self.kinds.push(kind);
    }

    /// By the resource's name in a URL.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<KindRef> {
        let found = self.by_plural.get(plural)?.iter();
        found.into_iter().find(|kind| is_of(kind, group, version)).cloned()
    }

    /// By the object's own `apiVersion` and `kind`.
    pub fn find_kind(&self, group: &str, version: &str, kind: &str) -> Option<KindRef> {
        let found = self.by_kind.get(kind)?.iter();
        found.into_iter().find(|kind| is_of(kind, group, version)).cloned()
    }

    /// All, in the order of discovery.
    pub fn iter(&self) -> impl Iterator<Item = &KindRef> {
        self.kinds.iter()
    }

    /// The resources of one group and version.
    pub fn of(&self, group: &str, version: &str) -> impl Iterator<Item = &KindRef> {
        self.kinds.iter().filter(move |kind| is_of(kind, group, version))
    }

    /// Groups in the order of discovery, each with its versions, the preferred first. The core group is not among them.
    pub fn groups(&self) -> Vec<(&str, Vec<&str>)> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for kind in self.kinds.iter().filter(|kind| !kind.group.is_empty()) {
            let (group, version) = (kind.group.as_str(), kind.version.as_str());
            match groups.iter_mut().find(|(known, _)| *known == group) {
                Some((_, versions)) if versions.contains(&version) => {}
                Some((_, versions)) => versions.push(version),
                None => groups.push((group, vec![version])),
            }
        }
        groups
    }
}

fn is_of(kind: &Kind, group: &str, version: &str) -> bool {
    kind.group == *group && kind.version == *version
}

static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(|| ROWS.iter().map(Kind::from).collect());

/// Every built-in kind, in the order of discovery.
pub fn kinds() -> &'static [Kind] {
    &KINDS
}

type Index = HashMap<(&'static str, &'static str, &'static str), &'static Kind>;

static BY_PLURAL: LazyLock<Index> = LazyLock::new(|| {
    kinds()
        .iter()
        .map(|kind| ((kind.group.as_str(), kind.version.as_str(), kind.plural.as_str()), kind))
        .collect()
});
static BY_KIND: LazyLock<Index> = LazyLock::new(|| {
    kinds()
        .iter()
        .map(|kind| ((kind.group.as_str(), kind.version.as_str(), kind.kind.as_str()), kind))
        .collect()
});

/// A built-in kind by the resource's name in a URL.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    BY_PLURAL.get(&(group, version, plural)).copied()
}

/// A built-in kind by the object's own `apiVersion` and `kind`.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    BY_KIND.get(&(group, version, kind)).copied()
}
