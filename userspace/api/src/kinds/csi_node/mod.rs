//! CSINodes: the storage drivers of a node.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::field::{Errors, Path};
use crate::kinds::csi::validate_driver_name;
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::names::{NameForm, validate_name};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{internal, items, text};

pub(super) const ROW: Row = Row {
    group: "storage.k8s.io",
    kind: "CSINode",
    plural: "csinodes",
    singular: "csinode",
    schema: "api.storage.v1.CSINode",
    columns: COLUMNS,
    strategy: Strategy { validate, own_required: true, validate_update, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] =
    &[NAME, Column::integer("Drivers", |object, _| items(&object["spec"], "drivers").count().into()), AGE];

const MAX_NODE_ID_BYTES: usize = 256;

fn validate(object: &Value, errors: &mut Errors) {
    let mut names = HashSet::new();
    for (i, driver) in items(&object["spec"], "drivers").enumerate() {
        let at = Path::new("spec").child("drivers").index(i);
        validate_driver(driver, &at, errors);
        if !names.insert(text(&driver["name"])) {
            errors.duplicate(&at.child("name"), &text(&driver["name"]).into());
        }
        let mut keys = HashSet::new();
        for key in items(driver, "topologyKeys").map(text) {
            if key.is_empty() {
                errors.required(&at, "");
            }
            if !keys.insert(key) {
                errors.duplicate(&at, &key.into());
            }
            validate_name(key, NameForm::LabelKey, &at, errors);
        }
    }
}

fn validate_driver(driver: &Value, path: &Path, errors: &mut Errors) {
    validate_driver_name(&driver["name"], &path.child("name"), errors);
    let id = text(&driver["nodeID"]);
    if id.is_empty() {
        errors.required(&path.child("nodeID"), "");
    }
    if id.len() > MAX_NODE_ID_BYTES {
        let detail = format!("must be {MAX_NODE_ID_BYTES} characters or less");
        errors.invalid(&path.child("nodeID"), &driver["nodeID"], &detail);
    }
    let count = &driver["allocatable"]["count"];
    if count.as_i64().is_some_and(|count| count < 0) {
        let at = path.child("allocatable").child("count");
        errors.invalid(&at, count, "must be greater than or equal to 0");
    }
}

/// A driver's entry does not change, except for how many volumes it can have.
fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let fixed = |driver: &Value| -> Map<String, Value> {
        let fields = driver.as_object().into_iter().flatten().filter(|(name, _)| *name != "allocatable");
        fields.map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    for old in items(&old["spec"], "drivers") {
        for new in items(&new["spec"], "drivers").filter(|new| new["name"] == old["name"]) {
            if fixed(new) != fixed(old) {
                let mut shown = internal(new, &["name", "nodeID", "topologyKeys"]);
                shown["Allocatable"] = Value::Null;
                errors.invalid(&Path::new("spec").child("drivers"), &shown, "field is immutable");
            }
        }
    }
}
