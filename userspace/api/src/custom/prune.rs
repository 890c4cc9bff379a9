//! Pruning: drops fields that a structural schema does not specify. Out: their paths.

use serde_json::Value;

use super::schema::Structural;
use crate::schema::{MAX_PROBLEMS, SchemaProblem, check_type, shown};

const OBJECT_META: &str = "apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Drops unspecified fields and returns their paths. `resource`: the value is a whole object, where `apiVersion`, `kind` and
/// `metadata` are implicitly specified.
pub(super) fn prune(schema: &Structural, value: &mut Value, resource: bool) -> Vec<String> {
    let mut dropped = Vec::new();
    walk(schema, value, resource, &mut String::new(), &mut dropped);
    dropped.sort();
    dropped
}

fn walk(
    schema: &Structural,
    value: &mut Value,
    resource: bool,
    path: &mut String,
    dropped: &mut Vec<String>,
) {
    match value {
        Value::Object(fields) => {
            let keeps_all = schema.preserve || schema.additional.is_some() || schema.additional_allowed;
            fields.retain(|name, value| {
                if resource && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                    return true;
                }
                let length = path.len();
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(name);
                let inner = schema.field(name);
                if let Some(inner) = inner {
                    walk(inner, value, inner.embedded, path, dropped);
                } else if !keeps_all {
                    dropped.extend((dropped.len() < MAX_PROBLEMS).then(|| shown(path)));
                }
                path.truncate(length);
                inner.is_some() || keeps_all
            });
        }
        Value::Array(items) => {
            let Some(inner) = schema.items.as_deref() else { return };
            for (index, item) in items.iter_mut().enumerate() {
                let length = path.len();
                path.push_str(&format!("[{index}]"));
                walk(inner, item, inner.embedded, path, dropped);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

/// Checks the metadata of an object and of its embedded resources against ObjectMeta, and drops unknown fields.
pub(super) fn metadata(schema: &Structural, object: &mut Value) -> Vec<SchemaProblem> {
    let mut problems = Vec::new();
    check_metadata(object, "metadata", &mut problems);
    embedded(schema, object, &mut String::new(), &mut problems);
    problems
}

fn check_metadata(object: &mut Value, path: &str, problems: &mut Vec<SchemaProblem>) {
    if problems.len() < MAX_PROBLEMS
        && let Some(metadata) = object.get_mut("metadata")
    {
        problems.extend(check_type(OBJECT_META, path, metadata));
    }
}

fn embedded(schema: &Structural, value: &mut Value, path: &mut String, problems: &mut Vec<SchemaProblem>) {
    let length = path.len();
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let Some(inner) = schema.field(name) else { continue };
                path.push_str(if length == 0 { "" } else { "." });
                path.push_str(name);
                embedded_value(inner, value, path, problems);
                path.truncate(length);
            }
        }
        Value::Array(items) => {
            let Some(inner) = schema.items.as_deref() else { return };
            for (index, item) in items.iter_mut().enumerate() {
                path.push_str(&format!("[{index}]"));
                embedded_value(inner, item, path, problems);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

fn embedded_value(
    schema: &Structural,
    value: &mut Value,
    path: &mut String,
    problems: &mut Vec<SchemaProblem>,
) {
    if schema.embedded && value.is_object() {
        check_metadata(value, &format!("{path}.metadata"), problems);
    }
    embedded(schema, value, path, problems);
}
