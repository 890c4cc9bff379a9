//! A device of a slice: attributes, counters, taints, and the nodes that can use it.

use std::collections::HashSet;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Value, json};

use super::capacity::validate_capacity;
use crate::field::{Errors, Path};
use crate::kinds::affinity::validate_node_selector;
use crate::kinds::device_names::{unique_by, validate_qualified_name, within};
use crate::kinds::device_taint::validate_taint;
use crate::names::{NameForm, validate_name};
use crate::value::{items, text};

/// Of one device.
const MAX_ATTRIBUTES: usize = 32;
const MAX_VALUE_BYTES: usize = 64;
const MAX_TAINTS: usize = 16;
const MAX_CONSUMPTIONS: usize = 2;
const MAX_CONSUMED_COUNTERS: usize = 32;
const MAX_CONDITIONS: usize = 4;
const ONE_OF: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";

/// semver.org, 2.0.0.
static VERSION: LazyLock<Option<Regex>> = LazyLock::new(|| {
    const NUMBER: &str = r"(0|[1-9]\d*)";
    const PRERELEASE: &str = r"(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)";
    const BUILD: &str = r"[0-9a-zA-Z-]+";
    let pattern =
        format!(r"^{NUMBER}\.{NUMBER}\.{NUMBER}(-{PRERELEASE}(\.{PRERELEASE})*)?(\+{BUILD}(\.{BUILD})*)?$")
            .replace(r"\d", "[0-9]");
    Regex::new(&pattern).ok()
});

pub(super) fn validate_device(
    device: &Value,
    old: Option<&Value>,
    per_device: bool,
    path: &Path,
    errors: &mut Errors,
) {
    validate_name(text(&device["name"]), NameForm::Label, &path.child("name"), errors);
    let count = |field: &str| device[field].as_object().map_or(0, serde_json::Map::len);
    let total = count("attributes") + count("capacity");
    if total > MAX_ATTRIBUTES {
        let detail =
            format!("the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES}");
        errors.invalid(path, &total.into(), &detail);
    }
    for (field, validate) in [("attributes", validate_attribute as Validate), ("capacity", validate_capacity)]
    {
        let at = path.child(field);
        for (name, value) in device[field].as_object().into_iter().flatten() {
            validate_qualified_name(name, &at, errors);
            validate(value, device, &at.key(name), errors);
        }
    }
    let is_stored = old.is_some_and(|old| old["taints"] == device["taints"]);
    if !is_stored && within(device, "taints", MAX_TAINTS, path, errors) {
        for (i, taint) in items(device, "taints").enumerate() {
            validate_taint(taint, &path.child("taints").index(i), errors);
        }
    }
    if within(device, "consumesCounters", MAX_CONSUMPTIONS, path, errors) {
        for (i, consumption) in items(device, "consumesCounters").enumerate() {
            let at = path.child("consumesCounters").index(i);
            validate_counters(consumption, "counterSet", MAX_CONSUMED_COUNTERS, &at, errors);
        }
        unique_by(device, "consumesCounters", "counterSet", path, errors);
    }
    validate_nodes(device, per_device, path, errors);
    validate_binding(device, path, errors);
}

type Validate = fn(&Value, &Value, &Path, &mut Errors);

fn validate_attribute(attribute: &Value, _: &Value, path: &Path, errors: &mut Errors) {
    let set = ["bool", "int", "string", "version"].iter().filter(|field| !attribute[**field].is_null());
    for field in ["string", "version"] {
        let (at, value) = (path.child(field), text(&attribute[field]));
        let is_version = || VERSION.as_ref().is_none_or(|pattern| pattern.is_match(value));
        if field == "version" && !attribute[field].is_null() && !is_version() {
            let detail = "must be a string compatible with semver.org spec 2.0.0";
            errors.invalid(&at, &value.into(), detail);
        }
        if value.len() > MAX_VALUE_BYTES {
            errors.too_long(&at, MAX_VALUE_BYTES);
        }
    }
    let detail = "exactly one value must be specified";
    match set.count() {
        0 => errors.invalid(path, &"".into(), detail),
        1 => {}
        _ => {
            // As upstream shows its internal type.
            let shown = json!({
                "IntValue": attribute["int"],
                "BoolValue": attribute["bool"],
                "StringValue": attribute["string"],
                "VersionValue": attribute["version"],
                "IntValues": null,
                "BoolValues": null,
                "StringValues": null,
                "VersionValues": null,
            });
            errors.invalid(path, &shown, detail);
        }
    }
}

/// Checks a set of counters, or what a device consumes of one. `name` is the field that names the set.
pub(super) fn validate_counters(set: &Value, name: &str, max: usize, path: &Path, errors: &mut Errors) {
    match text(&set[name]) {
        "" => errors.required(&path.child(name), ""),
        found => validate_name(found, NameForm::Label, &path.child(name), errors),
    }
    let at = path.child("counters");
    let Some(counters) = set["counters"].as_object().filter(|counters| !counters.is_empty()) else {
        return errors.required(&at, "");
    };
    if counters.len() > max {
        return errors.too_many(&at, counters.len(), max);
    }
    counters.keys().for_each(|counter| validate_name(counter, NameForm::Label, &at, errors));
}

/// A device names the nodes that can use it only if its slice does not.
fn validate_nodes(device: &Value, per_device: bool, path: &Path, errors: &mut Errors) {
    let fields = ["nodeName", "nodeSelector", "allNodes"];
    if !per_device {
        if fields.iter().any(|field| !device[*field].is_null()) {
            let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errors.invalid(path, &Value::Null, detail);
        }
        return;
    }
    let mut found = Vec::new();
    match device["nodeName"].as_str() {
        None => {}
        Some("") => errors.invalid(&path.child("nodeName"), &"".into(), "must not be empty"),
        Some(name) => {
            found.push("`nodeName`");
            validate_name(name, NameForm::Subdomain, &path.child("nodeName"), errors);
        }
    }
    if device["nodeSelector"].is_object() {
        found.push("`nodeSelector`");
        validate_node_selector(&device["nodeSelector"], &path.child("nodeSelector"), errors);
    }
    match device["allNodes"].as_bool() {
        None => {}
        Some(true) => found.push("`allNodes`"),
        Some(false) => {
            errors.invalid(&path.child("allNodes"), &false.into(), "must be either unset or set to true");
        }
    }
    match found.len() {
        0 => errors.required(path, ONE_OF),
        1 => {}
        _ => errors.invalid(path, &format!("{{{}}}", found.join(", ")).into(), ONE_OF),
    }
}

/// Checks the conditions that a device is bound with, of a device or of what was allocated.
pub(in crate::kinds) fn validate_binding(device: &Value, path: &Path, errors: &mut Errors) {
    const SUCCESS: &str = "bindingConditions";
    const FAILURE: &str = "bindingFailureConditions";
    for list in [SUCCESS, FAILURE] {
        if within(device, list, MAX_CONDITIONS, path, errors) {
            for (i, condition) in items(device, list).enumerate() {
                validate_name(text(condition), NameForm::LabelKey, &path.child(list).index(i), errors);
            }
        }
    }
    let succeeded: HashSet<&str> = items(device, SUCCESS).map(text).collect();
    for list in [SUCCESS, FAILURE] {
        let mut seen = HashSet::new();
        for (i, condition) in items(device, list).enumerate() {
            let at = path.child(list).index(i);
            if !seen.insert(text(condition)) {
                errors.duplicate(&at, condition);
            }
            if list == FAILURE && succeeded.contains(text(condition)) {
                let detail = "bindingFailureConditions must not overlap with bindingConditions";
                errors.invalid(&at, condition, detail);
            }
        }
    }
    for (list, other) in [(SUCCESS, FAILURE), (FAILURE, SUCCESS)] {
        if items(device, list).next().is_none() && items(device, other).next().is_some() {
            let detail = format!("{list} are required to use {other}");
            errors.invalid(&path.child(list), &device[list], &detail);
        }
    }
}
