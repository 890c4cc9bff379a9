//! Pruning: drops fields that a structural schema does not specify. Out: their paths.

use serde_json::Value;

use super::schema::Structural;
use crate::schema::{MAX_PROBLEMS, SchemaProblem, check_type, shown};

const OBJECT_META: &str = "apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Drops unspecified fields and returns their paths. `resource`: the value is a whole object, where `apiVersion`, `kind` and
/// `metadata` are implicitly specified.
pub(super) fn prune(schema: &Structural, value: &mut Value, resource: bool) -> Vec<String> {
    let mut pruning = Pruning { path: String::new(), dropped: Vec::new() };
    pruning.walk(Some(schema), value, resource, schema.preserve);
    pruning.dropped.sort();
    pruning.dropped
}

struct Pruning {
    path: String,
    dropped: Vec<String>,
}

impl Pruning {
    /// `keeps`: fields that the schema does not specify are kept. An array hands it to its items; a field has its own.
    fn walk(&mut self, schema: Option<&Structural>, value: &mut Value, resource: bool, keeps: bool) {
        let length = self.path.len();
        match value {
            Value::Object(fields) => fields.retain(|name, value| {
                if resource && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                    return true;
                }
                if length > 0 {
                    self.path.push('.');
                }
                self.path.push_str(name);
                let kept = self.field(schema, name, value, keeps);
                self.path.truncate(length);
                kept
            }),
            Value::Array(items) => {
                let inner = schema.and_then(|schema| schema.items.as_deref());
                if keeps && inner.is_none() {
                    return;
                }
                for (index, item) in items.iter_mut().enumerate() {
                    self.path.push_str(&format!("[{index}]"));
                    let (embedded, own) =
                        inner.map_or((false, false), |inner| (inner.embedded, inner.preserve));
                    self.walk(inner, item, embedded, keeps || own);
                    self.path.truncate(length);
                }
            }
            _ => {}
        }
    }

    /// Prunes the value of a field or entry. False: the schema does not specify it, and it is dropped.
    fn field(&mut self, schema: Option<&Structural>, name: &str, value: &mut Value, keeps: bool) -> bool {
        match schema.and_then(|schema| schema.field(name)) {
            Some(inner) => self.walk(Some(inner), value, inner.embedded, inner.preserve),
            // Entries of any type: nothing within them is specified.
            None if schema.is_some_and(|schema| schema.additional_allowed) => {
                self.walk(None, value, false, false);
            }
            None if keeps => {}
            None => {
                if self.dropped.len() < MAX_PROBLEMS {
                    self.dropped.push(shown(&self.path));
                }
                return false;
            }
        }
        true
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
