//! PersistentVolumeClaims: requests for storage.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::access_modes::{short_modes, validate_access_modes};
use crate::kinds::kind::Strategy;
use crate::kinds::label_selector::validate_selector;
use crate::kinds::numbers::warn_of_fraction;
use crate::kinds::row::Row;
use crate::kinds::storage_columns::{ATTRIBUTES_CLASS, CLASS_ANNOTATION, STATUS, STORAGE_CLASS, VOLUME_MODE};
use crate::names::{NameForm, validate_optional_name};
use crate::resources::quantity;
use crate::table::cell::{quantity_cell, text_cell};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{is_zero, items, one_of, require_text, set_default, set_zero_default, text};

pub(super) const ROW: Row = Row {
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    short_names: &["pvc"],
    subresources: &["status"],
    schema: "api.core.v1.PersistentVolumeClaim",
    columns: COLUMNS,
    strategy: Strategy {
        default,
        prepare_create,
        prepare_update,
        validate,
        own_required: true,
        warnings,
        validate_update,
        ..Strategy::NONE
    },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    STATUS,
    Column::text("Volume", |object, _| text_cell(&object["spec"]["volumeName"])),
    Column::text("Capacity", |object, _| {
        if is_bound(object) { quantity_cell(&object["status"]["capacity"]["storage"]) } else { "".into() }
    }),
    Column::text("Access Modes", |object, _| {
        if is_bound(object) { short_modes(&object["status"]).into() } else { "".into() }
    }),
    STORAGE_CLASS,
    ATTRIBUTES_CLASS,
    AGE,
    VOLUME_MODE,
];

/// Warns of sizes that are not whole bytes.
pub(super) fn spec_warnings(spec: &Value, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    for list in ["requests", "limits"] {
        let at = path.child("resources").child(list);
        warn_of_fraction(&spec["resources"][list], "storage", &at, &mut warnings);
    }
    warnings
}

fn warnings(claim: &Value, _: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if claim["metadata"]["annotations"][CLASS_ANNOTATION].is_string() {
        let at = Path::new("metadata").child("annotations").key(CLASS_ANNOTATION);
        warnings.push(format!("{at}: deprecated since v1.8; use \"storageClassName\" attribute instead"));
    }
    warnings.extend(spec_warnings(&claim["spec"], &Path::new("spec")));
    warnings
}

pub(super) fn default(object: &mut Value) {
    set_default(object, "status", json!({}));
    set_zero_default(&mut object["status"], "phase", "Pending");
    set_default(object, "spec", json!({}));
    default_spec(&mut object["spec"]);
}

/// Defaults of a specification: of a claim or of a template.
pub(super) fn default_spec(spec: &mut Value) {
    set_default(spec, "volumeMode", "Filesystem");
    set_default(spec, "resources", json!({}));
}

fn prepare_create(object: &mut Value) {
    normalize_sources(&mut object["spec"], &Value::Null);
}

fn prepare_update(new: &mut Value, old: &Value) {
    normalize_sources(&mut new["spec"], &old["spec"]);
}

/// `dataSource` and `dataSourceRef` have one content (KEP-1495). Sources that the older field does not know are dropped from
/// it, and those of other namespaces, whose feature is off by default.
fn normalize_sources(spec: &mut Value, old: &Value) {
    let Some(fields) = spec.as_object_mut() else { return };
    let is_set = |value: Option<&Value>| value.is_some_and(|value| !value.is_null());
    let is_elsewhere = |source: Option<&Value>| source.is_some_and(|source| !is_zero(&source["namespace"]));
    if is_elsewhere(fields.get("dataSourceRef")) && old["dataSourceRef"].is_null() {
        fields.remove("dataSourceRef");
    }
    let had_source = !old["dataSource"].is_null() || !old["dataSourceRef"].is_null();
    if !had_source && !is_set(fields.get("dataSourceRef")) {
        let is_known = |source: &Value| {
            matches!(
                (text(&source["apiGroup"]), text(&source["kind"])),
                ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
            )
        };
        if fields.get("dataSource").is_some_and(|source| !is_known(source)) {
            fields.remove("dataSource");
        }
    }
    match (fields.get("dataSource").cloned(), fields.get("dataSourceRef").cloned()) {
        (Some(source), None) => drop(fields.insert("dataSourceRef".into(), source)),
        (None, Some(mut source)) if is_zero(&source["namespace"]) => {
            if let Some(source) = source.as_object_mut() {
                source.remove("namespace");
            }
            fields.insert("dataSource".into(), source);
        }
        _ => {}
    }
}

fn validate(object: &Value, errors: &mut Errors) {
    validate_spec(&object["spec"], &Path::new("spec"), errors);
}

/// Checks a specification: of a claim or of a template.
pub(super) fn validate_spec(spec: &Value, path: &Path, errors: &mut Errors) {
    if items(spec, "accessModes").next().is_none() {
        errors.required(&path.child("accessModes"), "at least 1 access mode is required");
    }
    validate_selector(&spec["selector"], &path.child("selector"), errors);
    validate_access_modes(spec, path, errors);
    let at = path.child("resources").key("storage");
    match quantity(&spec["resources"]["requests"]["storage"]) {
        None => errors.required(&at, ""),
        Some(size) if size.millis() <= 0 => {
            errors.invalid(&at, &size.to_string().into(), "must be greater than zero");
        }
        Some(_) => {}
    }
    validate_optional_name(spec, "storageClassName", NameForm::Subdomain, path, errors);
    one_of(spec, "volumeMode", path, &["Block", "Filesystem"], errors);
    for field in ["dataSource", "dataSourceRef"] {
        validate_source(&spec[field], &path.child(field), errors);
    }
    validate_sources(spec, path, errors);
    validate_optional_name(spec, "volumeAttributesClassName", NameForm::Subdomain, path, errors);
}

fn validate_source(source: &Value, path: &Path, errors: &mut Errors) {
    if !source.is_object() {
        return;
    }
    require_text(source, "name", path, errors);
    require_text(source, "kind", path, errors);
    if is_zero(&source["apiGroup"]) && source["kind"] != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.invalid(path, &text(&source["kind"]).into(), detail);
    }
    validate_optional_name(source, "apiGroup", NameForm::Subdomain, path, errors);
    validate_optional_name(source, "namespace", NameForm::Label, path, errors);
}

fn validate_sources(spec: &Value, path: &Path, errors: &mut Errors) {
    let (source, reference) = (&spec["dataSource"], &spec["dataSourceRef"]);
    if !source.is_object() || !reference.is_object() {
        return;
    }
    let differs = ["apiGroup", "kind", "name"].iter().any(|field| source[*field] != reference[*field]);
    let detail = if !is_zero(&reference["namespace"]) {
        "may not be specified when dataSourceRef.namespace is specified"
    } else if differs {
        "must match dataSourceRef"
    } else {
        return;
    };
    // As upstream shows the path in place of the value.
    errors.invalid(path, &json!({}), detail);
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let bound = old["status"]["phase"] == "Bound";
    let (mut expected, before) = (new["spec"].clone(), &old["spec"]);
    for field in ["volumeName", "storageClassName"] {
        if before[field].as_str().is_none_or(str::is_empty) {
            put(&mut expected, field, before.get(field));
        }
    }
    put(&mut expected, "volumeAttributesClassName", before.get("volumeAttributesClassName"));
    if bound && !before["resources"]["requests"].is_null() {
        put(&mut expected["resources"], "requests", before["resources"].get("requests"));
    }
    if expected != *before {
        errors.forbidden(
            &path,
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
    }
    let size = |object: &Value| quantity(&object["spec"]["resources"]["requests"]["storage"]);
    if let (Some(new), Some(old)) = (size(new), size(old))
        && new < old
        && bound
    {
        let at = path.child("resources").child("requests").child("storage");
        errors.forbidden(&at, "field can not be less than status.capacity");
    }
}

fn put(object: &mut Value, field: &str, value: Option<&Value>) {
    let Some(fields) = object.as_object_mut() else { return };
    match value {
        Some(value) => drop(fields.insert(field.to_owned(), value.clone())),
        None => drop(fields.remove(field)),
    }
}

fn is_bound(claim: &Value) -> bool {
    claim["spec"]["volumeName"].as_str().is_some_and(|name| !name.is_empty())
}
