//! Pruning: drops fields that a structural schema does not specify. Out: their paths.

use serde_json::Value;

use super::schema::Structural;
use crate::schema::{SchemaProblem, check_type};

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
                    dropped.push(path.clone());
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
pub(super) fn metadata(schema: &Structural, kind: &str, object: &mut Value) -> Vec<SchemaProblem> {
    let mut problems = Vec::new();
    check_metadata(kind, object, "metadata", &mut problems);
    embedded(schema, kind, object, "", &mut problems);
    problems
}

fn check_metadata(kind: &str, object: &mut Value, path: &str, problems: &mut Vec<SchemaProblem>) {
    if let Some(metadata) = object.get_mut("metadata") {
        problems.extend(check_type(OBJECT_META, kind, path, metadata));
    }
}

fn embedded(
    schema: &Structural,
    kind: &str,
    value: &mut Value,
    path: &str,
    problems: &mut Vec<SchemaProblem>,
) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let Some(inner) = schema.field(name) else { continue };
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                if inner.embedded && value.is_object() {
                    check_metadata(kind, value, &format!("{path}.metadata"), problems);
                }
                embedded(inner, kind, value, &path, problems);
            }
        }
        Value::Array(items) => {
            let Some(inner) = schema.items.as_deref() else { return };
            for (index, item) in items.iter_mut().enumerate() {
                let path = format!("{path}[{index}]");
                if inner.embedded && item.is_object() {
                    check_metadata(kind, item, &format!("{path}.metadata"), problems);
                }
                embedded(inner, kind, item, &path, problems);
            }
        }
        _ => {}
    }
}
