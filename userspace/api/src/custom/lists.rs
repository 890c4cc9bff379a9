//! Validates lists that are sets or maps (`x-kubernetes-list-type`): items and keys must be unique.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::schema::{ListType, Structural};
use crate::field::{Errors, Path};

pub(super) fn validate(schema: &Structural, value: &Value, path: &Path, errors: &mut Errors) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let Some(inner) = schema.properties.get(name) {
                    validate(inner, value, &path.child(name), errors);
                } else if let Some(inner) = schema.additional.as_deref() {
                    validate(inner, value, &path.key(name), errors);
                }
            }
        }
        Value::Array(items) => {
            match schema.list_type {
                ListType::Set => unique(items.iter().cloned(), path, errors),
                ListType::Map => unique(items.iter().map(|item| keys(schema, item)), path, errors),
                ListType::Atomic => {}
            }
            if let Some(inner) = schema.items.as_deref() {
                for (index, item) in items.iter().enumerate() {
                    validate(inner, item, &path.index(index), errors);
                }
            }
        }
        _ => {}
    }
}

fn keys(schema: &Structural, item: &Value) -> Value {
    let mut keys = Map::new();
    for name in &schema.list_keys {
        let absent = schema.items.as_deref().and_then(|items| items.properties.get(name)?.default.clone());
        if let Some(value) = item.get(name).cloned().or(absent) {
            keys.insert(name.clone(), value);
        }
    }
    Value::Object(keys)
}

fn unique(items: impl Iterator<Item = Value>, path: &Path, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (index, item) in items.enumerate() {
        if !seen.insert(canonical(&item)) {
            errors.duplicate(&path.index(index), &item);
        }
    }
}

/// A text that is equal for equal values, in any order of fields.
pub(super) fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut parts: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), canonical(value)))
                .collect();
            parts.sort();
            format!("{{{}}}", parts.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        Value::Number(number) if number.is_f64() => match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() < 1e15 => format!("{float:.0}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}
