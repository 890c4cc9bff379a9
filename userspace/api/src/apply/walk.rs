//! Walks over objects along their schema: the set of their fields, comparing, merging, pruning, validating.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::{Map, Value};

use super::field_set::{self, FieldSet};
use super::merge_type::MergeType;

/// The fields that a configuration sets: every leaf, map entry and list item.
pub(super) fn to_field_set(ty: MergeType<'_>, value: &Value) -> FieldSet {
    let mut out = FieldSet::default();
    match (ty, value) {
        (MergeType::Atomic, _) => out.member = true,
        (ty, Value::Object(entries)) if ty.is_object() => {
            for (name, value) in entries {
                let (inner, named) = ty.child(name);
                let mut part = to_field_set(inner, value);
                let is_empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                part.member |= is_empty || named.is_none();
                out.insert(field_set::field_element(name), part);
            }
        }
        (ty, Value::Array(items)) if ty.is_list() => {
            for item in items {
                if let Some(element) = ty.path_element(item) {
                    let mut part = to_field_set(ty.item(), item);
                    part.member = true;
                    out.insert(element, part);
                }
            }
        }
        _ => out.member = !value.is_null(),
    }
    out
}

/// How a new object differs from an old one (structured-merge-diff's `Comparison`).
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Added or modified.
    pub(super) changed: FieldSet,
    pub(super) removed: FieldSet,
}

impl Comparison {
    fn insert(&mut self, element: String, part: Comparison) {
        let Comparison { changed, removed } = part;
        if !removed.is_empty() {
            self.removed.insert(element.clone(), removed);
        }
        self.changed.insert(element, changed);
    }

    fn compare_child(
        &mut self,
        element: String,
        ty: MergeType<'_>,
        old: &Value,
        new: &Value,
        required: bool,
    ) {
        match (old, new) {
            (Value::Null, Value::Null) => {}
            (Value::Null, new) => self.changed.insert(element, added_fields(ty, new, required)),
            (old, Value::Null) => self.removed.insert(element, removed_fields(ty, old)),
            (old, new) => self.insert(element, compare(ty, old, new)),
        }
    }
}

/// Compares two values that both exist.
pub(super) fn compare(ty: MergeType<'_>, old: &Value, new: &Value) -> Comparison {
    let mut out = Comparison::default();
    match (ty, old, new) {
        (ty, Value::Object(old), Value::Object(new)) if ty.is_object() => {
            for (name, value) in new {
                let (inner, field) = ty.child(name);
                let before = old.get(name).unwrap_or(&Value::Null);
                let required = field.is_some_and(|field| field.required);
                out.compare_child(field_set::field_element(name), inner, before, value, required);
            }
            for (name, value) in old.iter().filter(|(name, _)| !new.contains_key(*name)) {
                out.compare_child(
                    field_set::field_element(name),
                    ty.child(name).0,
                    value,
                    &Value::Null,
                    false,
                );
            }
        }
        (ty, Value::Array(old), Value::Array(new)) if ty.is_list() => {
            let (before, after) = (by_element(ty, old), by_element(ty, new));
            for (element, item) in &after {
                match before.get(element) {
                    Some(old) => out.insert(element.clone(), compare(ty.item(), old, item)),
                    None => {
                        let mut part = added_fields(ty.item(), item, true);
                        part.member = true;
                        out.changed.insert(element.clone(), part);
                    }
                }
            }
            for (element, item) in before.iter().filter(|(element, _)| !after.contains_key(*element)) {
                out.removed.insert(element.clone(), removed_fields(ty.item(), item));
            }
        }
        (_, old, new) => out.changed.member = old != new,
    }
    out
}

fn by_element<'a>(ty: MergeType<'_>, items: &'a [Value]) -> BTreeMap<String, &'a Value> {
    items.iter().filter_map(|item| Some((ty.path_element(item)?, item))).collect()
}

/// The fields of a new value. A struct with fields is no member itself, because it exists as long as they do; lists and
/// maps are members, unless the schema requires them.
fn added_fields(ty: MergeType<'_>, value: &Value, required: bool) -> FieldSet {
    let mut out = FieldSet::default();
    match (ty, value) {
        (_, Value::Null) => return out,
        (ty, Value::Object(entries)) if ty.is_object() => {
            for (name, value) in entries {
                let (inner, field) = ty.child(name);
                let mut part = added_fields(inner, value, field.is_some_and(|field| field.required));
                part.member |= field.is_none();
                out.insert(field_set::field_element(name), part);
            }
            out.member = out.children.is_empty() || !required && !ty.is_struct();
        }
        (ty, Value::Array(items)) if ty.is_list() => {
            for (element, item) in by_element(ty, items) {
                let mut part = added_fields(ty.item(), item, true);
                part.member = true;
                out.insert(element, part);
            }
            out.member = out.children.is_empty() || !required;
        }
        _ => out.member = true,
    }
    out
}

/// The fields of a removed value, the value itself included.
fn removed_fields(ty: MergeType<'_>, value: &Value) -> FieldSet {
    let mut out = FieldSet::leaf();
    match (ty, value) {
        (ty, Value::Object(entries)) if ty.is_object() => {
            for (name, value) in entries {
                out.insert(field_set::field_element(name), removed_fields(ty.child(name).0, value));
            }
        }
        (ty, Value::Array(items)) if ty.is_list() => {
            for (element, item) in by_element(ty, items) {
                out.insert(element, removed_fields(ty.item(), item));
            }
        }
        _ => {}
    }
    out
}

/// Merges the configuration into the live value.
pub(super) fn merge(ty: MergeType<'_>, live: Value, config: &Value) -> Value {
    match (ty, live, config) {
        (ty, Value::Object(mut live), Value::Object(config)) if ty.is_object() => {
            for (name, value) in config {
                let before = live.get_mut(name).map(Value::take).unwrap_or_default();
                live.insert(name.clone(), merge(ty.child(name).0, before, value));
            }
            Value::Object(live)
        }
        (ty, Value::Array(live), Value::Array(config)) if ty.is_list() => {
            Value::Array(merge_items(ty, live, config))
        }
        (_, _, config) => config.clone(),
    }
}

/// The items of both lists, each once: the configuration's in its order, the others in their places between them.
fn merge_items(ty: MergeType<'_>, live: Vec<Value>, config: &[Value]) -> Vec<Value> {
    let wanted: Vec<Option<String>> = config.iter().map(|item| ty.path_element(item)).collect();
    let known: HashSet<&str> = wanted.iter().flatten().map(String::as_str).collect();
    let mut shared: BTreeMap<String, Value> = BTreeMap::new();
    let mut slots = Vec::new();
    for item in live {
        match ty.path_element(&item) {
            Some(element) if known.contains(element.as_str()) => {
                if shared.insert(element, item).is_none() {
                    slots.push(None);
                }
            }
            _ => slots.push(Some(item)),
        }
    }
    let is_shared: Vec<bool> =
        wanted.iter().map(|e| e.as_ref().is_some_and(|e| shared.contains_key(e))).collect();
    let mut merged = config.iter().zip(&wanted).map(|(item, element)| {
        match element.as_ref().and_then(|element| shared.remove(element)) {
            Some(live) => merge(ty.item(), live, item),
            None => item.clone(),
        }
    });
    let mut out = Vec::new();
    let mut taken = 0;
    for slot in slots {
        match slot {
            Some(item) => out.push(item),
            // A shared item's slot takes the configuration up to its next shared item.
            None => {
                let more =
                    is_shared.iter().skip(taken).position(|shared| *shared).map_or(0, |index| index + 1);
                out.extend(merged.by_ref().take(more));
                taken += more;
            }
        }
    }
    out.extend(merged);
    out
}

/// Removes fields of the last configuration that have no owner now. False: the value has become empty.
pub(super) fn prune(ty: MergeType<'_>, value: &mut Value, last: &FieldSet, owned: Option<&FieldSet>) -> bool {
    let has_no_owner = |element: &str| owned.and_then(|owned| owned.children.get(element)).is_none();
    let below = |element: &str| owned.and_then(|owned| owned.children.get(element));
    match (ty, value) {
        (ty, Value::Object(entries)) if ty.is_object() => {
            let before = entries.len();
            entries.retain(|name, value| {
                let element = field_set::field_element(name);
                let Some(last) = last.children.get(&element) else { return true };
                let (inner, field) = ty.child(name);
                if has_no_owner(&element) && (last.member || field.is_some()) {
                    return false;
                }
                let owned = below(&element);
                prune(inner, value, last, owned) || owned.is_some_and(|owned| owned.member)
            });
            before == entries.len() || !entries.is_empty()
        }
        (ty, Value::Array(items)) if ty.is_list() => {
            let before = items.len();
            items.retain_mut(|item| {
                let Some(element) = ty.path_element(item) else { return true };
                let Some(last) = last.children.get(&element) else { return true };
                if has_no_owner(&element) && last.member {
                    return false;
                }
                prune(ty.item(), item, last, below(&element));
                true
            });
            before == items.len() || !items.is_empty()
        }
        _ => true,
    }
}

/// A part of a configuration that cannot be merged, in upstream's words.
pub(super) struct Unmergeable {
    path: String,
    why: String,
}

impl std::fmt::Display for Unmergeable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.why)
    }
}

impl Unmergeable {
    fn new(why: String) -> Unmergeable {
        Unmergeable { path: String::new(), why }
    }

    /// The path grows on the way up, so that a valid configuration builds none.
    fn below(mut self, element: &str) -> Unmergeable {
        self.path.insert_str(0, element);
        self
    }
}

/// Checks that a configuration can be merged: its fields are known, its list items have distinct keys.
pub(super) fn validate(ty: MergeType<'_>, value: &Value) -> Result<(), Unmergeable> {
    match value {
        Value::Null => Ok(()),
        Value::Object(entries) if ty.is_object() => entries.iter().try_for_each(|(name, value)| {
            let below = |error: Unmergeable| error.below(&format!(".{name}"));
            if !ty.allows(name) {
                return Err(below(Unmergeable::new("field not declared in schema".to_owned())));
            }
            validate(ty.child(name).0, value).map_err(below)
        }),
        Value::Array(items) if ty.is_list() => validate_items(ty, items),
        _ if matches!(ty, MergeType::Atomic | MergeType::Deduced) => Ok(()),
        other if ty.is_list() => Err(Unmergeable::new(format!("expected list, got {other}"))),
        other => Err(Unmergeable::new(format!("expected map, got {other}"))),
    }
}

fn validate_items(ty: MergeType<'_>, items: &[Value]) -> Result<(), Unmergeable> {
    let mut seen = BTreeSet::new();
    for (i, item) in items.iter().enumerate() {
        let Some(element) = ty.path_element(item) else {
            let keys = ty.keys();
            return Err(Unmergeable::new(format!(
                "element {i}: associative list with keys has an element that omits key field {:?} (and doesn't have default value)",
                keys.first().copied().unwrap_or_default()
            )));
        };
        let displayed = || {
            let only = [(element.clone(), FieldSet::leaf())].into();
            FieldSet { member: false, children: only }.paths().concat()
        };
        if seen.contains(&element) {
            return Err(Unmergeable::new(format!("duplicate entries for key {}", displayed())));
        }
        validate(ty.item(), item).map_err(|error| error.below(&displayed()))?;
        seen.insert(element);
    }
    Ok(())
}
