//! The kinds that a server serves now: the table's and those that definitions made, one and the same to who asks.
//! A registry does not change; a change of definitions makes a new one.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use super::kind::{Kind, KindRef};
use super::table;

type Place = (&'static str, &'static str, &'static str);

#[derive(Debug, Default)]
pub struct Registry {
    kinds: Vec<KindRef>,
    by_plural: HashMap<Place, KindRef>,
    by_kind: HashMap<Place, KindRef>,
}

impl Registry {
    /// The built-in kinds, then the made ones by group, version (the preferred first) and name. A built-in kind is never
    /// overlaid.
    pub fn with(mut custom: Vec<Arc<Kind>>) -> Registry {
        custom.sort_by(|a, b| {
            a.group
                .cmp(b.group)
                .then_with(|| compare_versions(a.version, b.version))
                .then_with(|| a.plural.cmp(b.plural))
        });
        let mut registry = Registry::default();
        kinds().iter().for_each(|kind| registry.add(kind.into()));
        custom.into_iter().for_each(|kind| registry.add(KindRef::Custom(kind)));
        registry
    }

    fn add(&mut self, kind: KindRef) {
        let place = (kind.group, kind.version, kind.plural);
        if self.by_plural.contains_key(&place) {
            return;
        }
        self.by_plural.insert(place, kind.clone());
        self.by_kind.entry((kind.group, kind.version, kind.kind)).or_insert_with(|| kind.clone());
        self.kinds.push(kind);
    }

    /// By the resource's name in a URL.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<KindRef> {
        self.by_plural.get(&(group, version, plural)).cloned()
    }

    /// By the object's own `apiVersion` and `kind`.
    pub fn find_kind(&self, group: &str, version: &str, kind: &str) -> Option<KindRef> {
        self.by_kind.get(&(group, version, kind)).cloned()
    }

    /// All, in the order of discovery.
    pub fn iter(&self) -> impl Iterator<Item = &KindRef> {
        self.kinds.iter()
    }

    /// The resources of one group and version.
    pub fn of(&self, group: &str, version: &str) -> impl Iterator<Item = &KindRef> {
        self.kinds.iter().filter(move |kind| kind.group == group && kind.version == version)
    }

    /// Groups in the order of discovery, each with its versions, the preferred first. The core group is not among them.
    pub fn groups(&self) -> Vec<(&'static str, Vec<&'static str>)> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for kind in self.kinds.iter().filter(|kind| !kind.group.is_empty()) {
            match groups.iter_mut().find(|(group, _)| *group == kind.group) {
                Some((_, versions)) if versions.contains(&kind.version) => {}
                Some((_, versions)) => versions.push(kind.version),
                None => groups.push((kind.group, vec![kind.version])),
            }
        }
        groups
    }
}

/// Every built-in kind, in the order of discovery.
pub fn kinds() -> &'static [Kind] {
    table::KINDS
}

type Index = HashMap<(&'static str, &'static str, &'static str), &'static Kind>;

static BY_PLURAL: LazyLock<Index> =
    LazyLock::new(|| kinds().iter().map(|kind| ((kind.group, kind.version, kind.plural), kind)).collect());
static BY_KIND: LazyLock<Index> =
    LazyLock::new(|| kinds().iter().map(|kind| ((kind.group, kind.version, kind.kind), kind)).collect());

/// A built-in kind by the resource's name in a URL.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    BY_PLURAL.get(&(group, version, plural)).copied()
}

/// A built-in kind by the object's own `apiVersion` and `kind`.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    BY_KIND.get(&(group, version, kind)).copied()
}

/// Kubernetes' order of versions: stable before beta before alpha, newer before older, all else behind, by name.
pub(crate) fn compare_versions(a: &str, b: &str) -> Ordering {
    match (rank(a), rank(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// Stability, major and minor of `v1`, `v2beta3`; `None` for anything else.
fn rank(version: &str) -> Option<(u8, u32, u32)> {
    let rest = version.strip_prefix('v')?;
    let number = |text: &str| {
        let plain = text.bytes().all(|c| c.is_ascii_digit()) && !text.starts_with('0');
        plain.then(|| text.parse::<u32>().ok()).flatten()
    };
    for (word, stability) in [("alpha", 0), ("beta", 1)] {
        if let Some((major, minor)) = rest.split_once(word) {
            return Some((stability, number(major)?, number(minor)?));
        }
    }
    Some((2, number(rest)?, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_upstreams_order() {
        let mut versions =
            ["foo10", "v1", "v3beta1", "v11alpha2", "v10", "v2", "foo1", "v12alpha1", "v11beta2"];
        versions.sort_by(|a, b| compare_versions(a, b));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v11beta2", "v3beta1", "v12alpha1", "v11alpha2", "foo1", "foo10"]
        );
    }
}
