//! PersistentVolumes: storage of the cluster. Claims share some columns.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::access_modes::{short_modes, validate_access_modes};
use crate::kinds::kind::Strategy;
use crate::kinds::numbers::quantities;
use crate::kinds::row::Row;
use crate::table::cell::{UNSET, quantity_cell, text_cell, text_or};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{immutable, items, one_of, set_default};

/// Fields of a volume's specification besides its source.
const OTHER_FIELDS: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];
/// The class in the form that came before `storageClassName`.
pub(super) const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) const ROW: Row = Row {
    kind: "PersistentVolume",
    plural: "persistentvolumes",
    singular: "persistentvolume",
    short_names: &["pv"],
    subresources: &["status"],
    schema: "api.core.v1.PersistentVolume",
    columns: COLUMNS,
    strategy: Strategy { default, validate, validate_update, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Capacity", |object, _| quantity_cell(&object["spec"]["capacity"]["storage"])),
    Column::text("Access Modes", |object, _| short_modes(&object["spec"]).into()),
    Column::text("Reclaim Policy", |object, _| text_cell(&object["spec"]["persistentVolumeReclaimPolicy"])),
    STATUS,
    Column::text("Claim", claim),
    STORAGE_CLASS,
    ATTRIBUTES_CLASS,
    Column::text("Reason", |object, _| text_cell(&object["status"]["reason"])),
    AGE,
    VOLUME_MODE,
];

fn default(object: &mut Value) {
    set_default(object, "status", json!({"phase": "Pending"}));
    let spec = &mut object["spec"];
    set_default(spec, "persistentVolumeReclaimPolicy", "Retain");
    set_default(spec, "volumeMode", "Filesystem");
    if let Some(path) = spec.get_mut("hostPath") {
        set_default(path, "type", "");
    }
}

fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    if items(spec, "accessModes").next().is_none() {
        errors.required(&path.child("accessModes"), "");
    }
    validate_access_modes(spec, &path, errors);
    let capacity = path.child("capacity");
    let count = spec["capacity"].as_object().map_or(0, serde_json::Map::len);
    if count == 0 {
        errors.required(&capacity, "");
    }
    if spec["capacity"]["storage"].is_null() || count > 1 {
        errors.not_supported(&capacity, &spec["capacity"], &["storage"]);
    }
    quantities(&spec["capacity"], &capacity, errors);
    one_of(spec, "persistentVolumeReclaimPolicy", &path, &["Delete", "Recycle", "Retain"], errors);
    one_of(spec, "volumeMode", &path, &["Block", "Filesystem"], errors);
    match source_of(spec).as_slice() {
        [] => errors.required(&path, "must specify a volume type"),
        [_] => {}
        [_, more @ ..] => {
            for (name, _) in more {
                errors.forbidden(&path.child(name), "may not specify more than 1 volume type");
            }
        }
    }
    if let Some(host) = spec["hostPath"].as_object()
        && host.get("path").and_then(Value::as_str).is_none_or(str::is_empty)
    {
        errors.required(&path.child("hostPath").child("path"), "");
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (new, old, path) = (&new["spec"], &old["spec"], Path::new("spec"));
    if source_of(new) != source_of(old) {
        let at = path.child("persistentvolumesource");
        errors.forbidden(&at, "spec.persistentvolumesource is immutable after creation");
    }
    immutable(&new["volumeMode"], &old["volumeMode"], &path.child("volumeMode"), errors);
    if !old["nodeAffinity"].is_null() {
        immutable(&new["nodeAffinity"], &old["nodeAffinity"], &path.child("nodeAffinity"), errors);
    }
}

fn source_of(spec: &Value) -> Vec<(&String, &Value)> {
    let fields = spec.as_object().into_iter().flatten();
    fields.filter(|(name, _)| !OTHER_FIELDS.contains(&name.as_str())).collect()
}

fn claim(object: &Value, _: Timestamp) -> Value {
    match &object["spec"]["claimRef"] {
        Value::Null => "".into(),
        claim => format!("{}/{}", text_or(&claim["namespace"], ""), text_or(&claim["name"], "")).into(),
    }
}

pub(super) const STATUS: Column =
    Column::text("Status", |object, _| match object["metadata"]["deletionTimestamp"].is_string() {
        true => "Terminating".into(),
        false => text_cell(&object["status"]["phase"]),
    });
pub(super) const STORAGE_CLASS: Column = Column::text("StorageClass", |object, _| {
    let annotated = object["metadata"]["annotations"][CLASS_ANNOTATION].as_str();
    annotated.unwrap_or(text_or(&object["spec"]["storageClassName"], "")).into()
});
pub(super) const ATTRIBUTES_CLASS: Column = Column::text("VolumeAttributesClass", |object, _| {
    text_or(&object["spec"]["volumeAttributesClassName"], UNSET).into()
});
pub(super) const VOLUME_MODE: Column =
    Column::wide("VolumeMode", |object, _| text_or(&object["spec"]["volumeMode"], UNSET).into());
