//! From client-side to server-side apply: kubectl's annotation says what kubectl owns already.

use serde_json::{Value, json};

use super::fields::Fields;
use super::place::Place;
use super::walk;
use crate::kinds::Kind;
use crate::meta;

/// Only kubectl's own manager takes over from the annotation and keeps it up.
pub(super) const MANAGER: &str = "kubectl";
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
const ANNOTATIONS_MAX: usize = 256 << 10;

/// What the annotation applied and nobody changed since: no conflict, for it is kubectl's.
pub(super) fn unchanged(kind: &Kind, live: &Value) -> Fields {
    let text = live["metadata"]["annotations"][ANNOTATION].as_str().unwrap_or_default();
    let Ok(applied) = serde_json::from_str::<Value>(text) else { return Fields::default() };
    if applied["apiVersion"] != kind.api_version() {
        return Fields::default();
    }
    let root = Place::root(kind);
    let mut said = walk::said(root, &applied);
    let since = walk::changes(root, &applied, live);
    said.subtract(&since.changed);
    said.subtract(&since.removed);
    said
}

/// Brings an annotation that is there up to the configuration, as long as it fits.
pub(super) fn follow(object: &mut Value, config: &Value) {
    let Some(annotations) = object["metadata"]["annotations"].as_object_mut() else { return };
    if annotations.get(ANNOTATION).and_then(Value::as_str).is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = meta::of_mut(&mut config).get_mut("annotations").and_then(Value::as_object_mut)
    {
        annotations.remove(ANNOTATION);
    }
    annotations.insert(ANNOTATION.into(), json!(format!("{config}\n")));
    let size: usize =
        annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if size > ANNOTATIONS_MAX {
        annotations.remove(ANNOTATION);
    }
}
