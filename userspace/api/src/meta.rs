//! ObjectMeta: reading and checking it.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Map, Value};

use crate::field::{Errors, Path};
use crate::names::{NameForm, name_problems, validate_labels, validate_name};
use crate::value::{items, text};

/// Size limit of all annotations of an object, in bytes (validation.TotalAnnotationSizeLimitB).
const MAX_ANNOTATION_BYTES: usize = 256 << 10;
/// Finalizers without a domain that mean the same everywhere.
const STANDARD: [&str; 3] = ["kubernetes", ORPHAN, FOREGROUND];
/// The finalizers by which a deletion orphans dependents or waits for them.
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

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

/// Checks the metadata of an object whose kind has names of this form. `is_built_in` kinds know the finalizers without a domain.
pub(crate) fn validate(
    object: &Value,
    namespaced: bool,
    form: NameForm,
    is_built_in: bool,
    errors: &mut Errors,
) {
    let metadata = &object["metadata"];
    let path = Path::new("metadata");
    if let Some(base) = metadata["generateName"].as_str().filter(|base| !base.is_empty()) {
        // What is appended replaces a last dash.
        let masked = base.strip_suffix('-').filter(|rest| !rest.is_empty());
        let shown = masked.map_or_else(|| base.to_owned(), |rest| format!("{rest}a"));
        for problem in name_problems(&shown, form) {
            errors.invalid(&path.child("generateName"), &metadata["generateName"], problem);
        }
    }
    match metadata["name"].as_str() {
        None | Some("") => errors.required(&path.child("name"), "name or generateName is required"),
        Some(name) => validate_name(name, form, &path.child("name"), errors),
    }
    if namespaced {
        match metadata["namespace"].as_str() {
            None | Some("") => errors.required(&path.child("namespace"), ""),
            Some(name) => validate_name(name, NameForm::Label, &path.child("namespace"), errors),
        }
    }
    validate_labels(&metadata["labels"], &path.child("labels"), errors);
    validate_annotations(&metadata["annotations"], &path.child("annotations"), errors);
    validate_owners(&metadata["ownerReferences"], &path.child("ownerReferences"), errors);
    validate_finalizers(&metadata["finalizers"], is_built_in, &path.child("finalizers"), errors);
}

fn validate_finalizers(finalizers: &Value, is_built_in: bool, path: &Path, errors: &mut Errors) {
    let names = || finalizers.as_array().into_iter().flatten().map(text);
    names().for_each(|name| validate_name(name, NameForm::LabelKey, path, errors));
    if names().any(|name| name == ORPHAN) && names().any(|name| name == FOREGROUND) {
        let detail = format!("finalizer {FOREGROUND} and {ORPHAN} cannot be both set");
        errors.invalid(path, finalizers, &detail);
    }
    for (i, name) in names().enumerate().filter(|_| is_built_in) {
        if !name.contains('/') && !STANDARD.contains(&name) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&path.index(i), &name.into(), detail);
        }
    }
}

/// Warns of new finalizers of a custom resource without a domain or a path: two writers could mean different things by one.
pub(crate) fn finalizer_warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let names = |object: &Value| -> BTreeSet<String> {
        object["metadata"]["finalizers"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|name| text(name).to_owned())
            .collect()
    };
    let (new, known) = (names(object), old.map(names).unwrap_or_default());
    let plain =
        new.difference(&known).filter(|name| !name.contains('/') && !STANDARD.contains(&name.as_str()));
    let warn = |name: &String| {
        let with = if name.contains('.') { "name including a path (/)" } else { "name" };
        format!(
            "metadata.finalizers: {name:?}: prefer a domain-qualified finalizer {with} to avoid accidental conflicts with other finalizer writers"
        )
    };
    plain.map(warn).collect()
}

fn validate_owners(owners: &Value, path: &Path, errors: &mut Errors) {
    let mut controller: Option<String> = None;
    for owner in owners.as_array().into_iter().flatten() {
        let api_version = text(&owner["apiVersion"]);
        let version = api_version.split_once('/').map_or(api_version, |(_, version)| version);
        if version.is_empty() || api_version.matches('/').count() > 1 {
            errors.invalid(&path.child("apiVersion"), &api_version.into(), "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if text(&owner[field]).is_empty() {
                errors.invalid(&path.child(field), &"".into(), "must not be empty");
            }
        }
        if api_version == "v1" && owner["kind"] == "Event" {
            errors.invalid(path, owner, "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner["controller"] == true {
            let found = format!("{}/{}", text(&owner["kind"]), text(&owner["name"]));
            match &controller {
                Some(first) => errors.invalid(
                    path,
                    owners,
                    &format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {found}"
                    ),
                ),
                None => controller = Some(found),
            }
        }
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

pub(crate) fn validate_annotations(annotations: &Value, path: &Path, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        for problem in name_problems(&key.to_lowercase(), NameForm::LabelKey) {
            errors.invalid(path, &Value::from(key.as_str()), problem);
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATION_BYTES {
        errors.too_long(path, MAX_ANNOTATION_BYTES);
    }
}
