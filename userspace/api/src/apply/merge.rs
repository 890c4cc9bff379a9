//! Merging a configuration into a live value.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::merge_type::{Atom, MergeType};
use super::path_element::PathElement;

/// Merges the configuration into the live value. Null and an empty list or map leave a live list or map that merges by
/// item or entry as it is, unless that is empty too.
pub(super) fn merge(ty: MergeType<'_>, live: Value, config: &Value) -> Value {
    match (ty.atom(Some(config)), live, config) {
        (Atom::Map { atomic: false }, Value::Object(live), config) if !live.is_empty() => {
            Value::Object(merge_entries(ty, live, config.as_object()))
        }
        (Atom::List { atomic: false }, Value::Array(live), config) if !live.is_empty() => {
            Value::Array(merge_items(ty, live, config.as_array().map_or(&[], Vec::as_slice)))
        }
        (_, _, config) => config.clone(),
    }
}

fn merge_entries(
    ty: MergeType<'_>,
    mut live: Map<String, Value>,
    config: Option<&Map<String, Value>>,
) -> Map<String, Value> {
    for (name, value) in config.into_iter().flatten() {
        match live.get_mut(name) {
            Some(before) => *before = merge(ty.child(name).0, before.take(), value),
            None => drop(live.insert(name.clone(), value.clone())),
        }
    }
    live
}

/// The live item with a path element.
enum Live {
    One(usize),
    /// Several items have it: they are replaced, not merged.
    Repeated,
}

/// Upstream's order: the configuration's items in their order; live items that it does not name keep their side of the
/// items that both have.
fn merge_items(ty: MergeType<'_>, live: Vec<Value>, config: &[Value]) -> Vec<Value> {
    let wanted: Vec<Option<PathElement>> = config.iter().map(|item| ty.path_element(item).ok()).collect();
    let by_element: BTreeMap<&PathElement, usize> =
        wanted.iter().enumerate().filter_map(|(at, element)| Some((element.as_ref()?, at))).collect();
    // For each live item, the item of the configuration that has the same element.
    let named: Vec<Option<usize>> =
        live.iter().map(|item| by_element.get(&ty.path_element(item).ok()?).copied()).collect();
    let mut lives: Vec<Option<Live>> = config.iter().map(|_| None).collect();
    for (at, other) in named.iter().enumerate() {
        if let Some(slot) = other.and_then(|other| lives.get_mut(other)) {
            *slot = Some(if slot.is_none() { Live::One(at) } else { Live::Repeated });
        }
    }
    let mut shared = lives.iter().enumerate().filter(|(_, live)| live.is_some()).map(|(at, _)| at);
    let mut next_shared = shared.next();
    let mut live: Vec<Option<Value>> = live.into_iter().map(Some).collect();
    let mut done = vec![false; config.len()];
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let (mut l, mut r) = (0, 0);
    while l < live.len() || r < config.len() {
        if let Some(other) = named.get(l) {
            match *other {
                Some(other)
                    if r < config.len() && other != r && next_shared.is_some_and(|next| next != other) =>
                {
                    // A shared item, but not the next one in the configuration's order.
                    l += 1;
                    continue;
                }
                Some(other) if r < config.len() && other == r => l += 1,
                None => {
                    out.extend(live.get_mut(l).and_then(Option::take));
                    l += 1;
                    continue;
                }
                Some(other) if done.get(other).copied().unwrap_or(true) => l += 1,
                Some(_) => {}
            }
        }
        let Some(item) = config.get(r) else { continue };
        let before = match lives.get(r) {
            Some(Some(Live::One(at))) => live.get_mut(*at).and_then(Option::take),
            _ => None,
        };
        out.push(match before {
            Some(before) => merge(ty.item(), before, item),
            None => item.clone(),
        });
        if let Some(done) = done.get_mut(r) {
            *done = true;
        }
        if next_shared == Some(r) {
            next_shared = shared.next();
        }
        r += 1;
    }
    out
}
