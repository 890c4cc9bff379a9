//! The change from client-side to server-side apply: kubectl already owns the fields in its last-applied annotation.

use serde_json::{Value, json};

use super::compare::compare;
use super::field_set::FieldSet;
use super::fields::fields_of;
use super::merger::Merger;
use super::path_element::escape_html;
use super::validate::validate;
use crate::meta;

/// The only manager that takes fields over from the annotation and keeps it up to date.
pub(super) const MANAGER: &str = "kubectl";
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Size limit of all annotations of an object, in bytes.
const MAX_ANNOTATION_BYTES: usize = 256 << 10;

/// Fields that the annotation set and that still have its values. kubectl owns them, so they cause no conflict.
pub(super) fn unchanged_fields(merger: &Merger<'_>, live: &Value) -> FieldSet {
    let text = live["metadata"]["annotations"][ANNOTATION].as_str().unwrap_or_default();
    let Ok(applied) = serde_json::from_str::<Value>(text) else { return FieldSet::default() };
    if applied["apiVersion"] != merger.version {
        return FieldSet::default();
    }
    let root = merger.root;
    if validate(root, &applied).is_err() {
        return FieldSet::default();
    }
    let mut fields = fields_of(root, &applied);
    let comparison = compare(root, Some(&applied), Some(live));
    fields.subtract(&comparison.changed);
    fields.subtract(&comparison.removed);
    fields
}

/// Replaces an existing annotation by the configuration; removes it if it would be too large.
pub(super) fn update_annotation(object: &mut Value, config: &Value) {
    let Some(annotations) = object["metadata"]["annotations"].as_object_mut() else { return };
    if annotations.get(ANNOTATION).and_then(Value::as_str).is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = meta::of_mut(&mut config).get_mut("annotations").and_then(Value::as_object_mut)
    {
        annotations.remove(ANNOTATION);
    }
    annotations.insert(ANNOTATION.into(), json!(escape_html(format!("{config}\n"))));
    let size: usize =
        annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if size > MAX_ANNOTATION_BYTES {
        annotations.remove(ANNOTATION);
    }
}
