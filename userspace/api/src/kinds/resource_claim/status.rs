//! The status of a claim: what was allocated, for whom it is reserved, and what drivers report.

use std::collections::HashSet;

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::affinity::validate_node_selector;
use crate::kinds::csi::validate_driver_name;
use crate::kinds::device_claim::{MAX_CONFIGS, Requests};
use crate::kinds::device_names::{unique_by, validate_pool_name, within};
use crate::kinds::device_selector::{validate_configuration, validate_raw};
use crate::kinds::resource_slice::validate_binding;
use crate::names::{NameForm, validate_name};
use crate::value::{immutable, items, require_one_of, require_text, text};

const MAX_CONSUMERS: usize = 256;
const MAX_RESULTS: usize = 32;
const MAX_CONDITIONS: usize = 8;
const MAX_DATA_BYTES: usize = 10_240;

pub(super) fn validate(claim: &Value, old: &Value, errors: &mut Errors) {
    let (status, path) = (&claim["status"], Path::new("status"));
    validate_reserved(status, &path, errors);
    let allocation = &status["allocation"];
    let allocated: HashSet<[&str; 4]> = items(&allocation["devices"], "results").map(identity).collect();
    for (i, device) in items(status, "devices").enumerate() {
        validate_device(device, &allocated, &path.child("devices").index(i), errors);
    }
    let reserved = path.child("reservedFor");
    if items(status, "reservedFor").next().is_some() && allocation.is_null() {
        errors.forbidden(&reserved, "may not be specified when `allocated` is not set");
    } else if !claim["metadata"]["deletionTimestamp"].is_null() {
        let known: Vec<&Value> = items(&old["status"], "reservedFor").collect();
        if items(status, "reservedFor").any(|consumer| !known.contains(&consumer)) {
            let detail =
                "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errors.forbidden(&reserved, detail);
        }
    }
    // What is stored is not checked again: the rules were looser once.
    let stored = &old["status"]["allocation"];
    if allocation.is_object() && stored.is_object() {
        immutable(allocation, stored, &path.child("allocation"), errors);
    } else if allocation.is_object() {
        let requests = Requests::of(&claim["spec"]["devices"]);
        validate_allocation(allocation, &requests, &path.child("allocation"), errors);
    }
}

fn validate_reserved(status: &Value, path: &Path, errors: &mut Errors) {
    if !within(status, "reservedFor", MAX_CONSUMERS, path, errors) {
        return;
    }
    for (i, consumer) in items(status, "reservedFor").enumerate() {
        for field in ["resource", "name", "uid"] {
            require_text(consumer, field, &path.child("reservedFor").index(i), errors);
        }
    }
    unique_by(status, "reservedFor", "uid", path, errors);
}

fn validate_allocation(allocation: &Value, requests: &Requests<'_>, path: &Path, errors: &mut Errors) {
    let (devices, at) = (&allocation["devices"], path.child("devices"));
    if within(devices, "results", MAX_RESULTS, &at, errors) {
        for (i, result) in items(devices, "results").enumerate() {
            let at = at.child("results").index(i);
            requests.validate_reference(text(&result["request"]), &at.child("request"), errors);
            validate_identity(result, &at, errors);
            validate_binding(result, &at, errors);
        }
    }
    // Configuration of classes and of the claim.
    if within(devices, "config", 2 * MAX_CONFIGS, &at, errors) {
        for (i, config) in items(devices, "config").enumerate() {
            let at = at.child("config").index(i);
            require_one_of(config, "source", &at, &["FromClaim", "FromClass"], errors);
            requests.validate_references(config, &at, errors);
            validate_configuration(config, &at, errors);
        }
    }
    if allocation["nodeSelector"].is_object() {
        validate_node_selector(&allocation["nodeSelector"], &path.child("nodeSelector"), errors);
    }
}

/// Checks the names of a device.
fn validate_identity(device: &Value, path: &Path, errors: &mut Errors) {
    validate_driver_name(&device["driver"], &path.child("driver"), errors);
    validate_pool_name(text(&device["pool"]), &path.child("pool"), errors);
    validate_name(text(&device["device"]), NameForm::Label, &path.child("device"), errors);
}

/// What tells devices, and shares of one, apart.
fn identity(device: &Value) -> [&str; 4] {
    ["driver", "pool", "device", "shareID"].map(|field| text(&device[field]))
}

fn validate_device(device: &Value, allocated: &HashSet<[&str; 4]>, path: &Path, errors: &mut Errors) {
    validate_identity(device, path, errors);
    let id = identity(device);
    if !allocated.contains(&id) {
        let shown = id[..3].join("/");
        errors.invalid(path, &shown.into(), "must be an allocated device in the claim");
    }
    let count = items(device, "conditions").count();
    if count > MAX_CONDITIONS {
        errors.too_many(&path.child("conditions"), count, MAX_CONDITIONS);
    }
    if !device["data"].is_null() {
        validate_raw(&device["data"], MAX_DATA_BYTES, &path.child("data"), errors);
    }
}
