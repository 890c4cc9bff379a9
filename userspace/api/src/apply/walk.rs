//! The walks over an object by its schema: what it says, how two differ, what merging and taking away make.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::fields::{self, Fields};
use super::place::Place;

/// All that a configuration says: every leaf, entry and item.
pub(super) fn said(place: Place<'_>, value: &Value) -> Fields {
    let mut out = Fields::default();
    match (place, value) {
        (Place::Leaf, _) => out.member = true,
        (place, Value::Object(entries)) if place.is_object() => {
            for (name, value) in entries {
                let (inner, named) = place.child(name);
                let mut part = said(inner, value);
                let hollow = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                part.member |= hollow || named.is_none();
                out.put(fields::field(name), part);
            }
        }
        (place, Value::Array(items)) if place.is_list() => {
            for item in items {
                if let Some(element) = place.element(item) {
                    let mut part = said(place.item(), item);
                    part.member = true;
                    out.put(element, part);
                }
            }
        }
        _ => out.member = !value.is_null(),
    }
    out
}

/// How a new object differs from an old one.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Added or of another value.
    pub(super) changed: Fields,
    pub(super) removed: Fields,
}

impl Changes {
    fn put(&mut self, element: String, part: Changes) {
        let Changes { changed, removed } = part;
        if !removed.is_empty() {
            self.removed.put(element.clone(), removed);
        }
        self.changed.put(element, changed);
    }

    fn put_child(&mut self, element: String, place: Place<'_>, old: &Value, new: &Value, required: bool) {
        match (old, new) {
            (Value::Null, Value::Null) => {}
            (Value::Null, new) => self.changed.put(element, appeared(place, new, required)),
            (old, Value::Null) => self.removed.put(element, gone(place, old)),
            (old, new) => self.put(element, changes(place, old, new)),
        }
    }
}

/// Compares two values that are both there.
pub(super) fn changes(place: Place<'_>, old: &Value, new: &Value) -> Changes {
    let mut out = Changes::default();
    match (place, old, new) {
        (place, Value::Object(old), Value::Object(new)) if place.is_object() => {
            for (name, value) in new {
                let (inner, field) = place.child(name);
                let before = old.get(name).unwrap_or(&Value::Null);
                let required = field.is_some_and(|field| field.required);
                out.put_child(fields::field(name), inner, before, value, required);
            }
            for (name, value) in old.iter().filter(|(name, _)| !new.contains_key(*name)) {
                out.put_child(fields::field(name), place.child(name).0, value, &Value::Null, false);
            }
        }
        (place, Value::Array(old), Value::Array(new)) if place.is_list() => {
            let (before, after) = (by_element(place, old), by_element(place, new));
            for (element, item) in &after {
                match before.get(element) {
                    Some(old) => out.put(element.clone(), changes(place.item(), old, item)),
                    None => {
                        let mut part = appeared(place.item(), item, true);
                        part.member = true;
                        out.changed.put(element.clone(), part);
                    }
                }
            }
            for (element, item) in before.iter().filter(|(element, _)| !after.contains_key(*element)) {
                out.removed.put(element.clone(), gone(place.item(), item));
            }
        }
        (_, old, new) => out.changed.member = old != new,
    }
    out
}

fn by_element<'a>(place: Place<'_>, items: &'a [Value]) -> BTreeMap<String, &'a Value> {
    items.iter().filter_map(|item| Some((place.element(item)?, item))).collect()
}

/// What a value that was not there brings. Structs with something in them are no members, for they come and go with
/// what is in them; lists and maps are, unless they are always there.
fn appeared(place: Place<'_>, value: &Value, required: bool) -> Fields {
    let mut out = Fields::default();
    match (place, value) {
        (_, Value::Null) => return out,
        (place, Value::Object(entries)) if place.is_object() => {
            for (name, value) in entries {
                let (inner, field) = place.child(name);
                let mut part = appeared(inner, value, field.is_some_and(|field| field.required));
                part.member |= field.is_none();
                out.put(fields::field(name), part);
            }
            out.member = out.children.is_empty() || !required && !place.is_struct();
        }
        (place, Value::Array(items)) if place.is_list() => {
            for (element, item) in by_element(place, items) {
                let mut part = appeared(place.item(), item, true);
                part.member = true;
                out.put(element, part);
            }
            out.member = out.children.is_empty() || !required;
        }
        _ => out.member = true,
    }
    out
}

/// All places of a value that went away, itself among them.
fn gone(place: Place<'_>, value: &Value) -> Fields {
    let mut out = Fields::leaf();
    match (place, value) {
        (place, Value::Object(entries)) if place.is_object() => {
            for (name, value) in entries {
                out.put(fields::field(name), gone(place.child(name).0, value));
            }
        }
        (place, Value::Array(items)) if place.is_list() => {
            for (element, item) in by_element(place, items) {
                out.put(element, gone(place.item(), item));
            }
        }
        _ => {}
    }
    out
}

/// The live value with the configuration laid over it.
pub(super) fn merge(place: Place<'_>, live: Value, config: &Value) -> Value {
    match (place, live, config) {
        (place, Value::Object(mut live), Value::Object(config)) if place.is_object() => {
            for (name, value) in config {
                let before = live.get_mut(name).map(Value::take).unwrap_or_default();
                live.insert(name.clone(), merge(place.child(name).0, before, value));
            }
            Value::Object(live)
        }
        (place, Value::Array(live), Value::Array(config)) if place.is_list() => {
            Value::Array(merge_items(place, live, config))
        }
        (_, _, config) => config.clone(),
    }
}

/// Items of both, each once: those of the configuration in its order, the others where they were between them.
fn merge_items(place: Place<'_>, live: Vec<Value>, config: &[Value]) -> Vec<Value> {
    let wanted: Vec<Option<String>> = config.iter().map(|item| place.element(item)).collect();
    let mut shared: BTreeMap<String, Value> = BTreeMap::new();
    let mut slots = Vec::new();
    for item in live {
        match place.element(&item) {
            Some(element) if wanted.iter().flatten().any(|wanted| *wanted == element) => {
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
            Some(live) => merge(place.item(), live, item),
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
                let more = is_shared.iter().skip(taken).position(|shared| *shared).map_or(0, |at| at + 1);
                out.extend(merged.by_ref().take(more));
                taken += more;
            }
        }
    }
    out.extend(merged);
    out
}

/// Takes away what was applied last time and is nobody's now. False: nothing of the value is left.
pub(super) fn prune(place: Place<'_>, value: &mut Value, last: &Fields, owned: Option<&Fields>) -> bool {
    let is_free = |element: &str| owned.and_then(|owned| owned.children.get(element)).is_none();
    let below = |element: &str| owned.and_then(|owned| owned.children.get(element));
    match (place, value) {
        (place, Value::Object(entries)) if place.is_object() => {
            let before = entries.len();
            entries.retain(|name, value| {
                let element = fields::field(name);
                let Some(last) = last.children.get(&element) else { return true };
                let (inner, field) = place.child(name);
                if is_free(&element) && (last.member || field.is_some()) {
                    return false;
                }
                let owned = below(&element);
                prune(inner, value, last, owned) || owned.is_some_and(|owned| owned.member)
            });
            before == entries.len() || !entries.is_empty()
        }
        (place, Value::Array(items)) if place.is_list() => {
            let before = items.len();
            items.retain_mut(|item| {
                let Some(element) = place.element(item) else { return true };
                let Some(last) = last.children.get(&element) else { return true };
                if is_free(&element) && last.member {
                    return false;
                }
                prune(place.item(), item, last, below(&element));
                true
            });
            before == items.len() || !items.is_empty()
        }
        _ => true,
    }
}

/// Checks that a configuration can be merged: known fields, list items that can be told apart.
pub(super) fn check(place: Place<'_>, value: &Value, path: &str) -> Result<(), String> {
    match value {
        Value::Null => Ok(()),
        Value::Object(entries) if place.is_object() => entries.iter().try_for_each(|(name, value)| {
            let path = format!("{path}.{name}");
            if !place.allows(name) {
                return Err(format!("{path}: field not declared in schema"));
            }
            check(place.child(name).0, value, &path)
        }),
        Value::Array(items) if place.is_list() => check_items(place, items, path),
        _ if matches!(place, Place::Leaf | Place::Untyped) => Ok(()),
        other if place.is_list() => Err(format!("{path}: expected list, got {other}")),
        other => Err(format!("{path}: expected map, got {other}")),
    }
}

fn check_items(place: Place<'_>, items: &[Value], path: &str) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for (i, item) in items.iter().enumerate() {
        let Some(element) = place.element(item) else {
            let keys = place.keys();
            return Err(format!(
                "{path}: element {i}: associative list with keys has an element that omits key field {:?} (and doesn't have default value)",
                keys.first().copied().unwrap_or_default()
            ));
        };
        let shown =
            Fields { member: false, children: [(element.clone(), Fields::leaf())].into() }.paths().concat();
        if !seen.insert(element) {
            return Err(format!("{path}: duplicate entries for key {shown}"));
        }
        check(place.item(), item, &format!("{path}{shown}"))?;
    }
    Ok(())
}
