//! Texts that cells of many kinds share.

use serde_json::Value;

use crate::value::items;

pub(crate) const NONE: &str = "<none>";
pub(crate) const UNSET: &str = "<unset>";

/// A value as text; empty for null.
pub(crate) fn text_cell(value: &Value) -> Value {
    match value {
        Value::Null => "".into(),
        Value::String(text) => text.as_str().into(),
        other => other.to_string().into(),
    }
}

/// A number; 0 if it is absent.
pub(crate) fn number_cell(value: &Value) -> Value {
    value.as_i64().unwrap_or(0).into()
}

/// A quantity; `0` if it is absent.
pub(crate) fn quantity_cell(value: &Value) -> Value {
    if value.is_null() { "0".into() } else { text_cell(value) }
}

/// The texts of a list field, with commas between them, or `none`.
pub(crate) fn list_cell(object: &Value, field: &str, none: &str) -> Value {
    match joined(items(object, field).filter_map(Value::as_str)) {
        text if text.is_empty() => none.into(),
        text => text.into(),
    }
}

/// A text, or `<none>` for an empty one.
pub(crate) fn or_none(text: String) -> Value {
    if text.is_empty() { NONE.into() } else { text.into() }
}

/// A string field, or `default`.
pub(crate) fn text_or<'a>(value: &'a Value, default: &'a str) -> &'a str {
    value.as_str().unwrap_or(default)
}

pub(crate) fn joined<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

/// At most three, and how many more there are.
pub(crate) fn first_three(all: &[&str]) -> String {
    match all {
        [a, b, c, rest @ ..] if !rest.is_empty() => format!("{a},{b},{c} + {} more...", rest.len()),
        all => all.join(","),
    }
}

/// The number of a map's entries.
pub(crate) fn entry_count(map: &Value) -> usize {
    map.as_object().map_or(0, serde_json::Map::len)
}

/// The names of a pod specification's containers.
pub(crate) fn container_names(spec: &Value) -> Value {
    joined(items(spec, "containers").filter_map(|container| container["name"].as_str())).into()
}

/// The images of a pod specification's containers.
pub(crate) fn container_images(spec: &Value) -> Value {
    joined(items(spec, "containers").filter_map(|container| container["image"].as_str())).into()
}

/// `app=web,tier=front`
pub(crate) fn labels_text(labels: &Value) -> String {
    let pairs = labels.as_object().into_iter().flatten();
    let pairs: Vec<String> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    pairs.join(",")
}

/// `app=web,tier in (a,b),!x`
pub(crate) fn selector_text(selector: &Value) -> String {
    let mut parts = vec![labels_text(&selector["matchLabels"])];
    for expression in items(selector, "matchExpressions") {
        let key = expression["key"].as_str().unwrap_or_default();
        let values = joined(items(expression, "values").filter_map(Value::as_str));
        parts.push(match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.retain(|part| !part.is_empty());
    parts.join(",")
}
