//! ControllerRevisions: the history of DaemonSets and StatefulSets.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::row::Row;
use crate::table::cell::{NONE, number_cell, text_or};
use crate::table::column::{AGE, Column, NAME};
use crate::value::items;

pub(super) const ROW: Row = Row {
    group: "apps",
    kind: "ControllerRevision",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    schema: "api.apps.v1.ControllerRevision",
    columns: COLUMNS,
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Controller", controller),
    Column::text("Revision", |object, _| number_cell(&object["revision"])),
    AGE,
];

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
