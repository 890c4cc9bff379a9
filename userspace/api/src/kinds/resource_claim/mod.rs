//! ResourceClaims: requests for devices.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::row::Row;
use crate::table::column::{AGE, Column, NAME};
use crate::value::items;

pub(super) const ROW: Row = Row {
    group: "resource.k8s.io",
    kind: "ResourceClaim",
    plural: "resourceclaims",
    singular: "resourceclaim",
    subresources: &["status"],
    schema: "api.resource.v1.ResourceClaim",
    columns: COLUMNS,
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[NAME, Column::text("State", claim_state), AGE];

fn claim_state(object: &Value, _: Timestamp) -> Value {
    let mut states = Vec::new();
    let deleted = object["metadata"]["deletionTimestamp"].is_string();
    if deleted {
        states.push("deleted");
    }
    if object["status"]["allocation"].is_null() {
        if !deleted {
            states.push("pending");
        }
    } else {
        states.push("allocated");
        if items(&object["status"], "reservedFor").next().is_some() {
            states.push("reserved");
        }
    }
    states.join(",").into()
}
