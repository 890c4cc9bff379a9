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
    let before = orders(schema, fields, patch);
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
        let key = schema.and_then(|schema| schema.field(name)).and_then(Field::merge_key);
        if let (Some(Value::Array(items)), Value::Array(order)) = (fields.get_mut(name), order) {
            arrange(key, items, order, before.get(name).unwrap_or(&Positions::new()));
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
    let key = field.merge_key();
    let before = positions(key, current);
    match key {
        Some(key) => merge_by_key(field, key, current, patch)?,
        None => add_missing(current, patch),
    }
    arrange(key, current, patch, &before);
    Ok(())
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

/// What identifies an item of a list: its merge key, or itself.
fn identity(key: Option<&str>, item: &Value) -> Value {
    key.map_or_else(|| item.clone(), |key| item[key].clone())
}

/// The first position of each item.
type Positions = HashMap<Value, usize>;

fn positions(key: Option<&str>, items: &[Value]) -> Positions {
    let mut positions = Positions::new();
    for (at, item) in items.iter().enumerate() {
        positions.entry(identity(key, item)).or_insert(at);
    }
    positions
}

/// The order before the patch of each list for which the patch sets one.
fn orders<'a>(
    schema: Option<&'static Type>,
    fields: &Map<String, Value>,
    patch: &'a Map<String, Value>,
) -> HashMap<&'a str, Positions> {
    let lists = patch.keys().filter_map(|name| name.strip_prefix(SET_ELEMENT_ORDER));
    let order = |name: &'a str| {
        let key = schema.and_then(|schema| schema.field(name)).and_then(Field::merge_key);
        Some((name, positions(key, fields.get(name)?.as_array()?)))
    };
    lists.filter_map(order).collect()
}

/// Puts the items that the patch names in its order, and merges the others into them as they were. An item that is new goes
/// before those that the patch does not name (upstream's mergeSortedSlice).
fn arrange(key: Option<&str>, items: &mut Vec<Value>, order: &[Value], before: &Positions) {
    let wanted = positions(key, order);
    let mut named: Vec<(usize, Option<usize>, Value)> = Vec::new();
    let mut others: Vec<(usize, Value)> = Vec::new();
    for item in items.drain(..) {
        let name = identity(key, &item);
        let known = before.get(&name).copied();
        match wanted.get(&name) {
            Some(at) => named.push((*at, known, item)),
            None => others.push((known.unwrap_or(usize::MAX), item)),
        }
    }
    named.sort_by_key(|(at, ..)| *at);
    others.sort_by_key(|(at, _)| *at);
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let other_is_first = match (others.peek(), named.peek()) {
            (Some((other, _)), Some((_, Some(known), _))) => other < known,
            (Some(_), None) => true,
            _ => false,
        };
        let next = if other_is_first {
            others.next().map(|(_, item)| item)
        } else {
            named.next().map(|(.., item)| item)
        };
        match next {
            Some(item) => items.push(item),
            None => return,
        }
    }
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
    fn a_new_item_goes_before_items_that_the_patch_does_not_name() {
        let names = |object: &Value| -> String {
            let containers = object["spec"]["template"]["spec"]["containers"].as_array();
            containers.into_iter().flatten().filter_map(|c| c["name"].as_str()).collect()
        };
        let spec = |order: &[&str], containers: &[&str]| {
            let items = |names: &[&str]| -> Vec<Value> { names.iter().map(|n| json!({"name": n})).collect() };
            let mut spec = json!({"containers": items(containers)});
            if !order.is_empty() {
                spec["$setElementOrder/containers"] = items(order).into();
            }
            json!({"spec": {"template": {"spec": spec}}})
        };
        for (order, containers, expected) in [
            (&[][..], &["n"][..], "nab"),
            (&[], &["n", "b"], "nab"),
            (&[], &["b", "n"], "abn"),
            (&["a", "n"], &["n"], "anb"),
            (&["n", "a"], &["n"], "nab"),
            (&["b", "n"], &["n"], "abn"),
        ] {
            let new = patched(deployment(), spec(order, containers));
            assert_eq!(names(&new), expected, "{order:?} {containers:?}");
        }
        let new = patched(
            json!({"metadata": {"finalizers": ["x/1"]}}),
            json!({"metadata": {"finalizers": ["x/2"]}}),
        );
        assert_eq!(new["metadata"]["finalizers"], json!(["x/2", "x/1"]));
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
