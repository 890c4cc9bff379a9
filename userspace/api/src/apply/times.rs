//! The times of managers: a write that changes nothing else leaves them as they were.

use serde_json::{Map, Value};

use crate::meta;

/// Takes over the managers of `old` if `new` differs from it in nothing but their times, so that the write stores
/// nothing.
pub fn keep_times(old: &Value, new: &mut Value) {
    let (before, after) = (&old["metadata"]["managedFields"], &new["metadata"]["managedFields"]);
    if before == after || !is_same_but_times(before, after) || !is_same_but_managers(old, new) {
        return;
    }
    let before = before.clone();
    meta::of_mut(new).insert("managedFields".into(), before);
}

fn is_same_but_times(old: &Value, new: &Value) -> bool {
    let (Some(old), Some(new)) = (old.as_array(), new.as_array()) else { return false };
    let fields =
        |entry: &Value| entry.as_object().map_or(0, Map::len) - usize::from(entry.get("time").is_some());
    let same_entry = |old: &Value, new: &Value| {
        let mut all = new.as_object().into_iter().flatten();
        fields(old) == fields(new) && all.all(|(name, value)| name == "time" || old.get(name) == Some(value))
    };
    old.len() == new.len() && old.iter().zip(new).all(|(old, new)| same_entry(old, new))
}

fn is_same_but_managers(old: &Value, new: &Value) -> bool {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return false };
    let is_ignored = |name: &str| matches!(name, "managedFields" | "resourceVersion");
    let fields = |metadata: &Value| {
        metadata.as_object().into_iter().flatten().filter(|(name, _)| !is_ignored(name)).count()
    };
    let same_metadata = |old: &Value, new: &Value| {
        let mut all = new.as_object().into_iter().flatten();
        fields(old) == fields(new)
            && all.all(|(name, value)| is_ignored(name) || old.get(name) == Some(value))
    };
    old.len() == new.len()
        && new.iter().all(|(name, value)| match old.get(name) {
            Some(old) if name == "metadata" => same_metadata(old, value),
            before => before == Some(value),
        })
}
