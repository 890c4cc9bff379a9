//! ControllerRevisions: the history of DaemonSets and StatefulSets.

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::table::cell::{NONE, number_cell, text_or};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{immutable, items};

pub(super) const ROW: Row = Row {
    group: "apps",
    kind: "ControllerRevision",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    schema: "api.apps.v1.ControllerRevision",
    columns: COLUMNS,
    strategy: Strategy { validate, own_required: true, validate_update, ..Strategy::NONE },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Controller", controller),
    Column::text("Revision", |object, _| number_cell(&object["revision"])),
    AGE,
];

fn validate(object: &Value, errors: &mut Errors) {
    let revision = &object["revision"];
    if revision.as_i64().is_some_and(|revision| revision < 0) {
        errors.invalid(&Path::new("revision"), revision, "must be greater than or equal to 0");
    }
    match &object["data"] {
        Value::Object(_) => {}
        Value::Null => errors.required(&Path::new("data"), "data is mandatory"),
        _ => errors.required(&Path::new("data"), "data must be a valid JSON object"),
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    immutable(&new["data"], &old["data"], &Path::new("data"), errors);
}

fn controller(object: &Value, _: Timestamp) -> Value {
    match items(&object["metadata"], "ownerReferences").find(|owner| owner["controller"] == true) {
        Some(owner) => {
            let kind = text_or(&owner["kind"], "").to_lowercase();
            let group = text_or(&owner["apiVersion"], "").rsplit_once('/').map_or("", |(group, _)| group);
            let dot = if group.is_empty() { "" } else { "." };
            format!("{kind}{dot}{group}/{}", text_or(&owner["name"], "")).into()
        }
        None => NONE.into(),
    }
}
