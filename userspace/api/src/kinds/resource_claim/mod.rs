//! ResourceClaims: requests for devices.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::table::column::{AGE, Column, NAME};
use crate::value::{items, items_mut, set_default};

pub(super) const ROW: Row = Row {
    group: "resource.k8s.io",
    kind: "ResourceClaim",
    plural: "resourceclaims",
    singular: "resourceclaim",
    subresources: &["status"],
    schema: "api.resource.v1.ResourceClaim",
    columns: COLUMNS,
    strategy: Strategy {
        default: |claim| default_devices(claim.pointer_mut("/spec/devices")),
        ..Strategy::NONE
    },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[NAME, Column::text("State", claim_state), AGE];

/// Each request of a claim is for one device, unless it says otherwise.
pub(super) fn default_devices(devices: Option<&mut Value>) {
    let Some(devices) = devices else { return };
    for request in items_mut(devices, "requests") {
        if let Some(exactly) = request.get_mut("exactly") {
            default_count(exactly);
        }
        items_mut(request, "firstAvailable").for_each(default_count);
    }
}

fn default_count(request: &mut Value) {
    set_default(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" {
        set_default(request, "count", 1);
    }
}

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
