//! PersistentVolumeClaims: requests for storage.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::access_modes::{short_modes, validate_access_modes};
use crate::kinds::kind::Strategy;
use crate::kinds::persistent_volume::{ATTRIBUTES_CLASS, STATUS, STORAGE_CLASS, VOLUME_MODE};
use crate::kinds::row::Row;
use crate::names::{self, NameForm};
use crate::resources::quantity;
use crate::table::cell::{quantity_cell, text_cell};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{items, one_of, set_default};

pub(super) const ROW: Row = Row {
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    short_names: &["pvc"],
    subresources: &["status"],
    schema: "api.core.v1.PersistentVolumeClaim",
    columns: COLUMNS,
    strategy: Strategy { default, validate, validate_update, ..Strategy::NONE },
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

fn default(object: &mut Value) {
    set_default(object, "status", json!({"phase": "Pending"}));
    set_default(&mut object["spec"], "volumeMode", "Filesystem");
}

fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    if items(spec, "accessModes").next().is_none() {
        errors.required(&path.child("accessModes"), "at least 1 access mode is required");
    }
    validate_access_modes(spec, &path, errors);
    let (storage, at) = (&spec["resources"]["requests"]["storage"], path.child("resources").key("storage"));
    match quantity(storage) {
        None => errors.required(&at, ""),
        Some(quantity) if quantity.millis() <= 0 => errors.invalid(&at, storage, "must be greater than zero"),
        Some(_) => {}
    }
    if let Some(name) = spec["storageClassName"].as_str().filter(|name| !name.is_empty())
        && let Some(problem) = names::name_problem(name, NameForm::Subdomain)
    {
        errors.invalid(&path.child("storageClassName"), &spec["storageClassName"], problem);
    }
    one_of(spec, "volumeMode", &path, &["Block", "Filesystem"], errors);
}

/// A bound claim may grow; an unbound one may get a volume and a class.
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
