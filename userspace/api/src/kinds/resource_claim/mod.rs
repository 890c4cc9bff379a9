//! ResourceClaims: requests for devices.

mod status;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::device_claim::{default_devices, validate_device_claim};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::table::column::{AGE, Column, NAME};
use crate::value::{immutable, items};

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
        own_required: true,
        validate_create,
        validate_update,
        validate_status: status::validate,
        ..Strategy::NONE
    },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[NAME, Column::text("State", claim_state), AGE];

fn validate_create(claim: &Value, errors: &mut Errors) {
    validate_device_claim(&claim["spec"]["devices"], &Path::new("spec").child("devices"), errors);
}

/// A claim does not change, so an update says nothing else of it.
fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    immutable(&new["spec"], &old["spec"], &Path::new("spec"), errors);
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
