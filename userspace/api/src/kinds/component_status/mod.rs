//! ComponentStatuses: health of the control plane, read only.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::row::Row;
use crate::table::cell::text_cell;
use crate::table::column::{Column, NAME};
use crate::value::items;

pub(super) const ROW: Row = Row {
    kind: "ComponentStatus",
    plural: "componentstatuses",
    singular: "componentstatus",
    short_names: &["cs"],
    verbs: &["get", "list"],
    schema: "api.core.v1.ComponentStatus",
    columns: COLUMNS,
    ..Row::CLUSTER
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Status", component_status),
    Column::text("Message", |object, _| text_cell(&component(object)["message"])),
    Column::text("Error", |object, _| text_cell(&component(object)["error"])),
];

fn component(object: &Value) -> &Value {
    items(object, "conditions").find(|condition| condition["type"] == "Healthy").unwrap_or(&Value::Null)
}

fn component_status(object: &Value, _: Timestamp) -> Value {
    match component(object)["status"].as_str() {
        Some("True") => "Healthy",
        Some(_) => "Unhealthy",
        None => "Unknown",
    }
    .into()
}
