//! Resources that a pod requests itself (KEP-2837): defaults from its containers, and checks against theirs.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::field::{Errors, Path};
use crate::kinds::resource_requirements::{Owner, is_overcommitted, validate_requirements};
use crate::resources::{Side, is_pod_level, of_containers, quantity};
use crate::value::items;

const HUGE_PAGES: &str = "hugepages-";

/// Defaults of `spec.resources`, where a pod has it: requests from the containers and from its own limits.
pub(super) fn default_pod_resources(spec: &mut Value) {
    if !spec["resources"].is_object() {
        return;
    }
    let list = |spec: &Value, field: &str| spec["resources"][field].as_object().cloned().unwrap_or_default();
    let (mut limits, mut requests) = (list(spec, "limits"), list(spec, "requests"));
    if !limits.is_empty() || !requests.is_empty() {
        for (name, amount) in of_containers(spec, Side::Limits).0 {
            if name.starts_with(HUGE_PAGES) && !requests.contains_key(&name) {
                limits.entry(name).or_insert_with(|| amount.to_string().into());
            }
        }
    }
    if !limits.is_empty() {
        for (name, amount) in of_containers(spec, Side::Requests).0 {
            if is_pod_level(&name) && is_overcommitted(&name) {
                requests.entry(name).or_insert_with(|| amount.to_string().into());
            }
        }
        for (name, amount) in limits.iter().filter(|(name, _)| is_pod_level(name)) {
            requests.entry(name.clone()).or_insert_with(|| amount.clone());
        }
    }
    let mut put = |field: &str, list: Map<String, Value>| {
        if !list.is_empty() {
            spec["resources"][field] = Value::Object(list);
        }
    };
    put("limits", limits);
    put("requests", requests);
}

/// Checks `spec.resources`.
pub(super) fn validate_pod_resources(
    spec: &Value,
    claims: &BTreeSet<&str>,
    path: &Path,
    errors: &mut Errors,
) {
    let (resources, path) = (&spec["resources"], path.child("resources"));
    if !resources.is_object() {
        return;
    }
    if spec["os"]["name"] == "windows" {
        return errors.forbidden(&path, "may not be set for a windows pod");
    }
    if !resources["claims"].is_null() {
        errors.forbidden(&path.child("claims"), "claims may not be set for Resources at pod-level");
    }
    validate_requirements(resources, Owner::Pod, claims, &path, errors);
    for (side, field, only_pages) in [(Side::Requests, "requests", false), (Side::Limits, "limits", true)] {
        for (name, amount) in of_containers(spec, side).0 {
            let Some(own) = quantity(&resources[field][&name]) else { continue };
            if amount > own && (!only_pages || name.starts_with(HUGE_PAGES)) {
                let detail =
                    format!("must be greater than or equal to aggregate container {field} of {amount}");
                errors.invalid(&path.child(field).key(&name), &own.to_string().into(), &detail);
            }
        }
    }
    for (i, container) in items(spec, "containers").enumerate() {
        for (name, limit) in container["resources"]["limits"].as_object().into_iter().flatten() {
            let (Some(limit), Some(own)) = (quantity(limit), quantity(&resources["limits"][name])) else {
                continue;
            };
            if limit > own {
                let at = path.child("containers").index(i).key(name).child("limits");
                let detail = format!("must be less than or equal to pod limits of {own}");
                errors.invalid(&at, &limit.to_string().into(), &detail);
            }
        }
    }
}
