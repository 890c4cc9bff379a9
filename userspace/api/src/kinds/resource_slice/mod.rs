//! ResourceSlices: the devices of a driver.

mod capacity;
mod device;

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::affinity::validate_node_selector;
use crate::kinds::csi::validate_driver_name;
use crate::kinds::device_names::{unique_by, validate_pool_name, within};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::names::{NameForm, validate_name};
use crate::table::cell::text_cell;
use crate::table::column::{AGE, Column, NAME};
use crate::value::{immutable, items, items_mut, set_default, text};

pub(super) use device::validate_binding;
use device::{validate_counters, validate_device};

pub(super) const ROW: Row = Row {
    group: "resource.k8s.io",
    kind: "ResourceSlice",
    plural: "resourceslices",
    singular: "resourceslice",
    schema: "api.resource.v1.ResourceSlice",
    columns: COLUMNS,
    strategy: Strategy {
        generation: true,
        prepare_create,
        prepare_update: |new, _| drop_disabled(new),
        own_required: true,
        validate_create: |slice, errors| validate(slice, None, errors),
        validate_update,
        ..Strategy::NONE
    },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Node", |object, _| text_cell(&object["spec"]["nodeName"])),
    Column::text("Driver", |object, _| text_cell(&object["spec"]["driver"])),
    Column::text("Pool", |object, _| text_cell(&object["spec"]["pool"]["name"])),
    AGE,
];

const MAX_DEVICES: usize = 128;
/// Of devices with taints or counters.
const MAX_ADVANCED_DEVICES: usize = 64;
const MAX_COUNTER_SETS: usize = 8;
const MAX_COUNTERS: usize = 32;
const ONE_OF: &str =
    "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";

/// A taint without a time was added now.
fn prepare_create(slice: &mut Value) {
    drop_disabled(slice);
    let now = slice["metadata"]["creationTimestamp"].clone();
    if !now.is_string() {
        return;
    }
    for device in items_mut(&mut slice["spec"], "devices") {
        items_mut(device, "taints").for_each(|taint| set_default(taint, "timeAdded", now.clone()));
    }
}

/// Drops fields of features that are off by default in v1.36.
fn drop_disabled(slice: &mut Value) {
    for device in items_mut(&mut slice["spec"], "devices") {
        for attribute in device["attributes"].as_object_mut().into_iter().flat_map(|all| all.values_mut()) {
            if let Some(fields) = attribute.as_object_mut() {
                fields.retain(|name, _| !matches!(name.as_str(), "bools" | "ints" | "strings" | "versions"));
            }
        }
        if let Some(fields) = device.as_object_mut() {
            fields.remove("nodeAllocatableResourceMappings");
        }
    }
}

fn validate(slice: &Value, old: Option<&Value>, errors: &mut Errors) {
    let (spec, path) = (&slice["spec"], Path::new("spec"));
    validate_driver_name(&spec["driver"], &path.child("driver"), errors);
    validate_pool(&spec["pool"], &path.child("pool"), errors);
    if let Some(old) = old.map(|old| &old["spec"]) {
        let name = path.child("pool").child("name");
        immutable(&spec["pool"]["name"], &old["pool"]["name"], &name, errors);
        for field in ["driver", "nodeName"] {
            immutable(&spec[field], &old[field], &path.child(field), errors);
        }
    }
    validate_nodes(spec, &path, errors);
    if !spec["sharedCounters"].is_null() && !spec["devices"].is_null() {
        errors.invalid(&path, &"".into(), "only one of `sharedCounters` or `devices` is allowed");
    }
    let is_advanced = |device: &Value| {
        ["taints", "consumesCounters"].iter().any(|list| items(device, list).next().is_some())
    };
    let max = if items(spec, "devices").any(is_advanced) { MAX_ADVANCED_DEVICES } else { MAX_DEVICES };
    if within(spec, "devices", max, &path, errors) {
        let per_device = spec["perDeviceNodeSelection"] == true;
        for (i, device) in items(spec, "devices").enumerate() {
            let old = old
                .and_then(|old| items(&old["spec"], "devices").find(|other| other["name"] == device["name"]));
            validate_device(device, old, per_device, &path.child("devices").index(i), errors);
        }
        unique_by(spec, "devices", "name", &path, errors);
    }
    if within(spec, "sharedCounters", MAX_COUNTER_SETS, &path, errors) {
        for (i, set) in items(spec, "sharedCounters").enumerate() {
            let at = path.child("sharedCounters").index(i);
            validate_counters(set, "name", MAX_COUNTERS, &at, errors);
        }
        unique_by(spec, "sharedCounters", "name", &path, errors);
    }
}

fn validate_pool(pool: &Value, path: &Path, errors: &mut Errors) {
    validate_pool_name(text(&pool["name"]), &path.child("name"), errors);
    let (count, generation) = (&pool["resourceSliceCount"], &pool["generation"]);
    if count.as_i64().unwrap_or(0) <= 0 {
        let count = count.as_i64().unwrap_or(0);
        errors.invalid(&path.child("resourceSliceCount"), &count.into(), "must be greater than zero");
    }
    if generation.as_i64().is_some_and(|generation| generation < 0) {
        errors.invalid(&path.child("generation"), generation, "must be greater than or equal to zero");
    }
}

/// The nodes that can use the devices are given in exactly one way.
fn validate_nodes(spec: &Value, path: &Path, errors: &mut Errors) {
    let mut found = Vec::new();
    match spec["nodeName"].as_str() {
        None => {}
        Some("") => {
            let detail = "must be either unset or set to a non-empty string";
            errors.invalid(&path.child("nodeName"), &"".into(), detail);
        }
        Some(name) => {
            found.push("`nodeName`");
            validate_name(name, NameForm::Subdomain, &path.child("nodeName"), errors);
        }
    }
    let selector = &spec["nodeSelector"];
    if selector.is_object() {
        found.push("`nodeSelector`");
        let at = path.child("nodeSelector");
        validate_node_selector(selector, &at, errors);
        let terms = &selector["nodeSelectorTerms"];
        if items(selector, "nodeSelectorTerms").count() != 1 {
            let shown = if terms.is_null() { Value::Array(Vec::new()) } else { terms.clone() };
            errors.invalid(
                &at.child("nodeSelectorTerms"),
                &shown,
                "must have exactly one node selector term",
            );
        }
    }
    for (field, shown) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")]
    {
        match spec[field].as_bool() {
            None => {}
            Some(true) => found.push(shown),
            Some(false) => {
                errors.invalid(&path.child(field), &false.into(), "must be either unset or set to true");
            }
        }
    }
    match found.len() {
        0 => errors.required(path, ONE_OF),
        1 => {}
        _ => {
            let shown = format!("{{{}}}", found.join(", "));
            errors.invalid(path, &shown.into(), &format!("{ONE_OF}, but multiple fields are set"));
        }
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    validate(new, Some(old), errors);
}
