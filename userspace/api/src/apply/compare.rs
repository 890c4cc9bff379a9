//! How a new value differs from an old one (structured-merge-diff's `Comparison`).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::field_set::FieldSet;
use super::merge_type::{Atom, MergeType};
use super::path_element::{PathElement, equal};

#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Added or modified.
    pub(super) changed: FieldSet,
    pub(super) removed: FieldSet,
}

impl Comparison {
    /// Adds the difference below an element.
    fn insert(&mut self, element: impl Fn() -> PathElement, part: Comparison) {
        let Comparison { changed, removed } = part;
        if !changed.is_empty() {
            self.changed.insert(element(), changed);
        }
        if !removed.is_empty() {
            self.removed.insert(element(), removed);
        }
    }
}

/// Compares two values, of which at most one is absent.
pub(super) fn compare(ty: MergeType<'_>, old: Option<&Value>, new: Option<&Value>) -> Comparison {
    let mut out = Comparison::default();
    let mut is_leaf = false;
    let (before, after) = (ty.atom(old), ty.atom(new));
    match (old, new) {
        (None, None) => return out,
        (Some(_), Some(_)) if before != after => {
            compare_as(before, ty, old, new, &mut out);
            compare_as(after, ty, old, new, &mut out);
        }
        (_, None) => is_leaf = compare_as(before, ty, old, new, &mut out),
        (_, Some(_)) => is_leaf = compare_as(after, ty, old, new, &mut out),
    }
    if !is_leaf {
        out.changed.member |= old.is_none();
        out.removed.member |= new.is_none();
    }
    out
}

/// Compares two values in the form of one of them. True: they were compared as a whole.
fn compare_as(
    atom: Atom,
    ty: MergeType<'_>,
    old: Option<&Value>,
    new: Option<&Value>,
    out: &mut Comparison,
) -> bool {
    match atom {
        Atom::Map { atomic: false } => {
            let (old, new) = (entries(old), entries(new));
            if old.is_some() || new.is_some() {
                compare_entries(ty, old, new, out);
                return false;
            }
        }
        Atom::List { atomic: false } => {
            let (old, new) = (items(old), items(new));
            if !old.is_empty() || !new.is_empty() {
                compare_items(ty, old, new, out);
                return false;
            }
        }
        _ => {}
    }
    match (old, new) {
        (None, _) => out.changed.member = true,
        (_, None) => out.removed.member = true,
        (Some(old), Some(new)) => out.changed.member |= !equal(old, new),
    }
    true
}

/// The entries of a map that has any.
fn entries(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value?.as_object().filter(|entries| !entries.is_empty())
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Most of two versions is equal: nothing is looked up or allocated for that.
fn compare_entries(
    ty: MergeType<'_>,
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    out: &mut Comparison,
) {
    for (name, value) in new.into_iter().flatten() {
        let before = old.and_then(|old| old.get(name));
        if before != Some(value) {
            out.insert(|| PathElement::field(name), compare(ty.child(name).0, before, Some(value)));
        }
    }
    for (name, value) in old.into_iter().flatten() {
        if new.is_none_or(|new| !new.contains_key(name)) {
            out.insert(|| PathElement::field(name), compare(ty.child(name).0, Some(value), None));
        }
    }
}

fn compare_items(ty: MergeType<'_>, old: &[Value], new: &[Value], out: &mut Comparison) {
    let (before, mut after) = (by_element(ty, old), by_element(ty, new));
    for (element, old) in before {
        let new = after.remove(&element).unwrap_or_default();
        let part = compare_item(ty, &old, &new);
        out.insert(|| element.clone(), part);
    }
    for (element, new) in after {
        let part = compare_item(ty, &[], &new);
        out.insert(|| element.clone(), part);
    }
}

/// Compares the items that have one path element. Several of them are compared, added and removed as one field.
fn compare_item(ty: MergeType<'_>, old: &[&Value], new: &[&Value]) -> Comparison {
    let mut out;
    match (old, new) {
        ([old], [new]) if old == new => out = Comparison::default(),
        (old, new) if old.len() <= 1 && new.len() <= 1 => {
            out = compare(ty.item(), old.first().copied(), new.first().copied());
        }
        (old, new) if old.len() > 1 && new.len() > 1 => {
            out = Comparison::default();
            let same = old.len() == new.len() && old.iter().zip(new).all(|(old, new)| equal(old, new));
            out.changed.member = !same;
        }
        (old, new) if old.len() > 1 => {
            out = compare(ty.item(), None, new.first().copied());
            out.removed.member = true;
        }
        (old, _) => {
            out = compare(ty.item(), old.first().copied(), None);
            out.changed.member = true;
        }
    }
    out
}

fn by_element<'v>(ty: MergeType<'_>, items: &'v [Value]) -> BTreeMap<PathElement, Vec<&'v Value>> {
    let mut out: BTreeMap<PathElement, Vec<&Value>> = BTreeMap::new();
    for item in items {
        if let Ok(element) = ty.path_element(item) {
            out.entry(element).or_default().push(item);
        }
    }
    out
}
