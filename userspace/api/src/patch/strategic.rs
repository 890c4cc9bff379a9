//! Strategic merge patch: lists with a merge key in the schema merge by item. The directives are `$patch`, `$retainKeys`,
//! `$deleteFromPrimitiveList/x` and `$setElementOrder/x`.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{Field, Shape, Type, named};

/// `replace`, `merge` or `delete` in an object or list item.
const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_PRIMITIVE_LIST: &str = "$deleteFromPrimitiveList/";
const SET_ELEMENT_ORDER: &str = "$setElementOrder/";

pub(super) fn apply(schema: &str, object: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed("a strategic merge patch must be an object".into()));
    };
    merge_object(named(schema), object, patch)
}

fn merge_object(
    schema: Option<&'static Type>,
    object: &mut Value,
    patch: &Map<String, Value>,
) -> Result<(), PatchError> {
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace") => {
            *object = Value::Object(without_directives(patch));
            return Ok(());
        }
        Some("delete") => {
            *object = Value::Object(Map::new());
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(PatchError::Malformed(format!("Unknown patch type '{other}'"))),
    }
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Value::Object(fields) = object else { return Ok(()) };
    if let Some(kept) = patch.get(RETAIN_KEYS).and_then(Value::as_array) {
        let kept: HashSet<&str> = kept.iter().filter_map(Value::as_str).collect();
        fields.retain(|name, _| kept.contains(name.as_str()));
    }
    for (name, value) in patch {
        if name == DIRECTIVE || name == RETAIN_KEYS || name.starts_with(SET_ELEMENT_ORDER) {
            continue;
        }
        if let Some(list) = name.strip_prefix(DELETE_FROM_PRIMITIVE_LIST) {
            if let (Some(Value::Array(items)), Some(gone)) = (fields.get_mut(list), value.as_array()) {
                let gone: HashSet<&Value> = gone.iter().collect();
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        merge_field(schema.and_then(|schema| schema.field(name)), fields, name, value)?;
    }
    for (name, order) in
        patch.iter().filter_map(|(name, order)| Some((name.strip_prefix(SET_ELEMENT_ORDER)?, order)))
    {
        let field = schema.and_then(|schema| schema.field(name));
        if let (Some(Value::Array(items)), Value::Array(order)) = (fields.get_mut(name), order) {
            reorder(field, items, order);
        }
    }
    Ok(())
}

fn merge_field(
    field: Option<&'static Field>,
    fields: &mut Map<String, Value>,
    name: &str,
    value: &Value,
) -> Result<(), PatchError> {
    match value {
        Value::Null => drop(fields.remove(name)),
        Value::Object(patch) => {
            let replaced = field.is_some_and(|field| field.has_patch_strategy("replace"));
            let current = fields.entry(name.to_owned()).or_insert(Value::Null);
            if replaced {
                *current = Value::Object(without_directives(patch));
            } else {
                merge_object(field.and_then(|field| type_of(field.shape)), current, patch)?;
            }
        }
        Value::Array(items) => match field.filter(|field| field.has_patch_strategy("merge")) {
            Some(field) => {
                let current = fields.entry(name.to_owned()).or_insert_with(|| Value::Array(Vec::new()));
                if !current.is_array() {
                    *current = Value::Array(Vec::new());
                }
                if let Value::Array(current) = current {
                    merge_list(field, current, items)?;
                }
            }
            None => drop(fields.insert(name.to_owned(), Value::Array(items.clone()))),
        },
        other => drop(fields.insert(name.to_owned(), other.clone())),
    }
    Ok(())
}

fn type_of(shape: Shape) -> Option<&'static Type> {
    match shape {
        Shape::Type(name) => named(name),
        Shape::List(inner) | Shape::Map(inner) => type_of(Shape::of(inner)),
        Shape::Scalar(_) => None,
    }
}

fn merge_list(field: &'static Field, current: &mut Vec<Value>, patch: &[Value]) -> Result<(), PatchError> {
    if patch.iter().any(|item| item[DIRECTIVE] == "replace") {
        let kept = patch.iter().filter(|item| item[DIRECTIVE] != "replace");
        *current = kept.cloned().collect();
        return Ok(());
    }
    match field.merge_key() {
        Some(key) => merge_by_key(field, key, current, patch),
        None => {
            add_missing(current, patch);
            Ok(())
        }
    }
}

/// Scalars: a set.
fn add_missing(current: &mut Vec<Value>, patch: &[Value]) {
    let mut known: HashSet<Value> = current.iter().cloned().collect();
    current.extend(patch.iter().filter(|item| known.insert((*item).clone())).cloned());
}

fn merge_by_key(
    field: &'static Field,
    key: &str,
    current: &mut Vec<Value>,
    patch: &[Value],
) -> Result<(), PatchError> {
    let mut slots: Vec<Option<Value>> = std::mem::take(current).into_iter().map(Some).collect();
    // Of items with one key, the first is merged and all are deleted.
    let mut by_key: HashMap<Value, Vec<usize>> = HashMap::new();
    for (at, item) in slots.iter().flatten().enumerate() {
        by_key.entry(item[key].clone()).or_default().push(at);
    }
    for item in patch {
        let Value::Object(fields) = item else {
            return Err(PatchError::Malformed(format!("items of {} must be objects", field.name)));
        };
        let Some(wanted) = fields.get(key) else {
            return Err(PatchError::Malformed(format!(
                "map: {item} does not contain declared merge key: {key}"
            )));
        };
        if item[DIRECTIVE] == "delete" {
            by_key.remove(wanted).into_iter().flatten().for_each(|at| slots[at] = None);
            continue;
        }
        let found = by_key.get(wanted).and_then(|all| all.first()).and_then(|at| slots[*at].as_mut());
        match found {
            Some(present) => merge_object(type_of(field.shape), present, fields)?,
            None => {
                let mut new = Value::Object(Map::new());
                merge_object(type_of(field.shape), &mut new, fields)?;
                by_key.insert(wanted.clone(), vec![slots.len()]);
                slots.push(Some(new));
            }
        }
    }
    current.extend(slots.into_iter().flatten());
    Ok(())
}

/// Puts the items that the patch names in its order; the others keep their positions.
fn reorder(field: Option<&'static Field>, items: &mut Vec<Value>, order: &[Value]) {
    let key = field.and_then(Field::merge_key);
    let identity = |item: &Value| key.map_or_else(|| item.clone(), |key| item[key].clone());
    let mut positions: HashMap<Value, usize> = HashMap::new();
    for (at, wanted) in order.iter().enumerate() {
        positions.entry(identity(wanted)).or_insert(at);
    }
    let mut named: Vec<(usize, Value)> = Vec::new();
    let mut slots = Vec::new();
    for item in std::mem::take(items) {
        match positions.get(&identity(&item)) {
            Some(at) => {
                named.push((*at, item));
                slots.push(None);
            }
            None => slots.push(Some(item)),
        }
    }
    named.sort_by_key(|(at, _)| *at);
    let mut named = named.into_iter().map(|(_, item)| item);
    items.extend(slots.into_iter().filter_map(|slot| slot.or_else(|| named.next())));
}

fn without_directives(patch: &Map<String, Value>) -> Map<String, Value> {
    patch
        .iter()
        .filter(|(name, value)| !name.starts_with('$') && !value.is_null())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(mut object: Value, patch: Value) -> Value {
        apply("api.apps.v1.Deployment", &mut object, &patch).unwrap();
        object
    }

    fn deployment() -> Value {
        json!({"spec": {"template": {"spec": {"containers": [
            {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}], "args": ["x", "y"]},
            {"name": "b", "image": "b:1"},
        ]}}, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}})
    }

    #[test]
    fn lists_merge_by_key_and_plain_lists_are_replaced() {
        let containers =
            json!([{"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "2"}], "args": ["z"]}]);
        let new = patched(deployment(), json!({"spec": {"template": {"spec": {"containers": containers}}}}));
        let containers = &new["spec"]["template"]["spec"]["containers"];
        assert_eq!(containers[0]["image"], "a:2");
        assert_eq!(containers[0]["args"], json!(["z"]));
        assert_eq!(containers[0]["env"].as_array().map(Vec::len), Some(2));
        assert_eq!(containers[1]["image"], "b:1");
    }

    #[test]
    fn directives_delete_replace_and_retain() {
        let gone = json!([{"name": "a", "$patch": "delete"}]);
        let new = patched(deployment(), json!({"spec": {"template": {"spec": {"containers": gone}}}}));
        assert_eq!(new["spec"]["template"]["spec"]["containers"], json!([{"name": "b", "image": "b:1"}]));
        let strategy = json!({"$retainKeys": ["type"], "type": "Recreate"});
        let new = patched(deployment(), json!({"spec": {"strategy": strategy}}));
        assert_eq!(new["spec"]["strategy"], json!({"type": "Recreate"}));
        let new = patched(deployment(), json!({"spec": {"strategy": null}}));
        assert_eq!(new["spec"].get("strategy"), None);
    }

    #[test]
    fn set_element_order_reorders_a_list() {
        let spec = json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b", "image": "b:2"}]});
        let new = patched(deployment(), json!({"spec": {"template": {"spec": spec}}}));
        let names: Vec<_> = new["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| &c["name"])
            .collect();
        assert_eq!(names, ["b", "a"]);
    }

    #[test]
    fn long_lists_merge_in_linear_time() {
        let names =
            |from: usize| -> Vec<String> { (from..from + 50_000).map(|n| format!("f/{n}")).collect() };
        let (first, second) = (names(0), names(25_000));
        let mut order = second.clone();
        order.reverse();
        let patch = json!({"metadata": {
            "$setElementOrder/finalizers": order, "$deleteFromPrimitiveList/finalizers": names(12_500), "finalizers": second,
        }});
        let new = patched(json!({"metadata": {"finalizers": first}}), patch);
        let last = new["metadata"]["finalizers"].as_array().and_then(|all| all.last().cloned());
        assert_eq!(last, Some("f/25000".into()));
        let items = |from: usize| -> Vec<Value> {
            (from..from + 20_000).map(|n| json!({"name": format!("n{n}"), "value": "x"})).collect()
        };
        let of = |env: Vec<Value>| json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "env": env}]}}}});
        let new = patched(of(items(0)), of(items(10_000)));
        let env = new["spec"]["template"]["spec"]["containers"][0]["env"].as_array().map(Vec::len);
        assert_eq!(env, Some(30_000));
    }

    #[test]
    fn an_item_without_its_key_is_refused() {
        let patch = json!({"spec": {"template": {"spec": {"containers": [{"image": "x"}]}}}});
        assert!(apply("api.apps.v1.Deployment", &mut deployment(), &patch).is_err());
    }
}
