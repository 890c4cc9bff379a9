//! ObjectMeta: reading and checking it.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::field::{Errors, Path};
use crate::names::{NameForm, QUALIFIED_NAME, name_problem, qualified_name_problem, validate_labels};
use crate::value::items;

/// Size limit of all annotations of an object, in bytes (validation.TotalAnnotationSizeLimitB).
const MAX_ANNOTATION_BYTES: usize = 256 << 10;

/// The metadata of an object; created if it is missing.
pub fn of_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let metadata = &mut object["metadata"];
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    match metadata {
        Value::Object(fields) => fields,
        _ => unreachable!("the metadata is an object by now"),
    }
}

/// Drops empty lists and maps of the metadata, as Go's types omit them.
pub(crate) fn omit_empty(object: &mut Value) {
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let is_empty = match &object["metadata"][field] {
            Value::Array(items) => items.is_empty(),
            Value::Object(entries) => entries.is_empty(),
            _ => false,
        };
        if is_empty {
            of_mut(object).remove(field);
        }
    }
}

/// `metadata.name`; empty if absent.
pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// `metadata.namespace`; empty if absent.
pub fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

/// `metadata.uid`; empty if absent.
pub fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

/// The metadata of an object's `autoscaling/v1` Scale.
pub fn of_scale(object: &Value) -> Value {
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    Value::Object(metadata)
}

/// Checks the metadata of an object that is embedded in another.
pub(crate) fn validate_embedded(object: &Value, path: &Path, errors: &mut Errors) {
    validate_labels(&object["metadata"]["labels"], &path.child("labels"), errors);
    validate_annotations(&object["metadata"]["annotations"], &path.child("annotations"), errors);
}

/// Checks the metadata of an object whose kind has names of this form.
pub(crate) fn validate(object: &Value, namespaced: bool, form: NameForm, errors: &mut Errors) {
    let metadata = &object["metadata"];
    let path = Path::new("metadata");
    match metadata["name"].as_str() {
        None | Some("") => errors.required(&path.child("name"), "name or generateName is required"),
        Some(name) => {
            if let Some(problem) = name_problem(name, form) {
                errors.invalid(&path.child("name"), &metadata["name"], problem);
            }
        }
    }
    if namespaced && metadata["namespace"].as_str().is_none_or(str::is_empty) {
        errors.required(&path.child("namespace"), "");
    }
    validate_labels(&metadata["labels"], &path.child("labels"), errors);
    validate_annotations(&metadata["annotations"], &path.child("annotations"), errors);
    for (i, finalizer) in metadata["finalizers"].as_array().into_iter().flatten().enumerate() {
        let at = path.child("finalizers").index(i);
        match finalizer.as_str() {
            Some(name) if qualified_name_problem(name).is_none() => {}
            _ => errors.invalid(&at, finalizer, QUALIFIED_NAME),
        }
    }
    validate_owners(&metadata["ownerReferences"], &path.child("ownerReferences"), errors);
}

fn validate_owners(owners: &Value, path: &Path, errors: &mut Errors) {
    let mut controllers = 0;
    for (i, owner) in owners.as_array().into_iter().flatten().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().is_none_or(str::is_empty) {
                let at = path.index(i).child(field);
                errors.invalid(&at, &owner[field], &format!("{field} must not be empty"));
            }
        }
        controllers += usize::from(owner["controller"] == true);
    }
    if controllers > 1 {
        errors.invalid(path, owners, "Only one reference can have Controller set to true.");
    }
}

pub(crate) fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    validate_finalizers_update(&new["metadata"], &old["metadata"], errors);
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let (new, old) = (&new["metadata"][field], &old["metadata"][field]);
        if !new.is_null() && new != old {
            errors.invalid(&Path::new("metadata").child(field), new, "field is immutable");
        }
    }
}

/// An object that is being deleted takes no new finalizers.
fn validate_finalizers_update(new: &Value, old: &Value, errors: &mut Errors) {
    if !old["deletionTimestamp"].is_string() {
        return;
    }
    let before: HashSet<&Value> = items(old, "finalizers").collect();
    let mut added: Vec<String> =
        items(new, "finalizers").filter(|name| !before.contains(name)).map(ToString::to_string).collect();
    if !added.is_empty() {
        added.sort_unstable();
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            added.join(", ")
        );
        errors.forbidden(&Path::new("metadata").child("finalizers"), &detail);
    }
}

fn validate_annotations(annotations: &Value, path: &Path, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        if let Some(problem) = qualified_name_problem(&key.to_lowercase()) {
            errors.invalid(path, &Value::from(key.as_str()), problem);
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATION_BYTES {
        errors.too_long(path, MAX_ANNOTATION_BYTES);
    }
}
