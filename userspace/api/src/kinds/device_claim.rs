//! Claims of devices, in ResourceClaims and in their templates: requests, constraints and configuration.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::device_names::{unique, unique_by, validate_qualified_name, within};
use crate::kinds::device_selector::{validate_configuration, validate_selectors};
use crate::kinds::device_taint::validate_tolerations;
use crate::names::{NameForm, validate_name};
use crate::value::{items, items_mut, set_zero_default, text};

const MAX_REQUESTS: usize = 32;
const MAX_SUBREQUESTS: usize = 8;
const MAX_CONSTRAINTS: usize = 32;
pub(super) const MAX_CONFIGS: usize = 32;
const BAD_REFERENCE: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// Each request of a claim is for one device, unless it says otherwise.
pub(super) fn default_devices(devices: Option<&mut Value>) {
    let Some(devices) = devices else { return };
    for request in items_mut(devices, "requests") {
        if let Some(exactly) = request.get_mut("exactly") {
            default_request(exactly);
        }
        items_mut(request, "firstAvailable").for_each(default_request);
    }
}

fn default_request(request: &mut Value) {
    set_zero_default(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" {
        set_zero_default(request, "count", 1);
    }
    for toleration in items_mut(request, "tolerations") {
        set_zero_default(toleration, "operator", "Equal");
    }
}

/// The requests of a claim by name, with the names of their alternatives.
#[derive(Debug)]
pub(super) struct Requests<'a>(HashMap<&'a str, HashSet<&'a str>>);

impl<'a> Requests<'a> {
    pub(super) fn of(devices: &'a Value) -> Requests<'a> {
        let names = |request: &'a Value| {
            items(request, "firstAvailable").map(|alternative| text(&alternative["name"])).collect()
        };
        let requests = items(devices, "requests");
        Requests(requests.map(|request| (text(&request["name"]), names(request))).collect())
    }

    /// Checks the name of a request, or of a request and one of its alternatives.
    pub(super) fn validate_reference(&self, name: &str, path: &Path, errors: &mut Errors) {
        let parts: Vec<&str> = name.split('/').collect();
        let is_known = match parts.as_slice() {
            [request] => self.0.contains_key(request),
            [request, other] => self.0.get(request).is_some_and(|names| names.contains(other)),
            _ => return errors.invalid(path, &name.into(), BAD_REFERENCE),
        };
        parts.iter().for_each(|part| validate_name(part, NameForm::Label, path, errors));
        if !is_known {
            errors.invalid(path, &name.into(), BAD_REFERENCE);
        }
    }

    /// Checks the list of requests that something is for.
    pub(super) fn validate_references(&self, holder: &Value, path: &Path, errors: &mut Errors) {
        if !within(holder, "requests", MAX_REQUESTS, path, errors) {
            return;
        }
        let at = path.child("requests");
        for (i, name) in items(holder, "requests").map(text).enumerate() {
            self.validate_reference(name, &at.index(i), errors);
        }
        unique(items(holder, "requests").map(text), &at, errors);
    }
}

/// Checks `devices` of a claim.
pub(super) fn validate_device_claim(devices: &Value, path: &Path, errors: &mut Errors) {
    let requests = Requests::of(devices);
    if within(devices, "requests", MAX_REQUESTS, path, errors) {
        for (i, request) in items(devices, "requests").enumerate() {
            validate_request(request, &path.child("requests").index(i), errors);
        }
        unique_by(devices, "requests", "name", path, errors);
    }
    if within(devices, "constraints", MAX_CONSTRAINTS, path, errors) {
        for (i, constraint) in items(devices, "constraints").enumerate() {
            validate_constraint(constraint, &requests, &path.child("constraints").index(i), errors);
        }
    }
    if within(devices, "config", MAX_CONFIGS, path, errors) {
        for (i, config) in items(devices, "config").enumerate() {
            let at = path.child("config").index(i);
            requests.validate_references(config, &at, errors);
            validate_configuration(config, &at, errors);
        }
    }
}

fn validate_request(request: &Value, path: &Path, errors: &mut Errors) {
    validate_name(text(&request["name"]), NameForm::Label, &path.child("name"), errors);
    let several = items(request, "firstAvailable").next().is_some();
    match (several, request["exactly"].is_object()) {
        (false, false) => errors.required(path, "exactly one of `exactly` or `firstAvailable` is required"),
        (true, true) => {
            let detail =
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.invalid(path, &Value::Null, detail);
        }
        (false, true) => validate_exact(&request["exactly"], &path.child("exactly"), errors),
        (true, false) => {
            if !within(request, "firstAvailable", MAX_SUBREQUESTS, path, errors) {
                return;
            }
            for (i, alternative) in items(request, "firstAvailable").enumerate() {
                let at = path.child("firstAvailable").index(i);
                validate_name(text(&alternative["name"]), NameForm::Label, &at.child("name"), errors);
                validate_exact(alternative, &at, errors);
            }
            unique_by(request, "firstAvailable", "name", path, errors);
        }
    }
}

fn validate_exact(request: &Value, path: &Path, errors: &mut Errors) {
    let (class, at) = (text(&request["deviceClassName"]), path.child("deviceClassName"));
    if class.is_empty() {
        errors.required(&at, "");
    } else {
        validate_name(class, NameForm::Subdomain, &at, errors);
    }
    validate_selectors(request, path, errors);
    let (count, at) = (request["count"].as_i64().unwrap_or(0), path.child("count"));
    match text(&request["allocationMode"]) {
        "All" if count != 0 => {
            errors.invalid(&at, &count.into(), "must not be specified when allocationMode is 'All'");
        }
        "ExactCount" if count <= 0 => errors.invalid(&at, &count.into(), "must be greater than zero"),
        "All" | "ExactCount" => {}
        _ => {
            let at = path.child("allocationMode");
            errors.not_supported(&at, &request["allocationMode"], &["All", "ExactCount"]);
        }
    }
    validate_tolerations(request, path, errors);
}

fn validate_constraint(constraint: &Value, requests: &Requests<'_>, path: &Path, errors: &mut Errors) {
    requests.validate_references(constraint, path, errors);
    let found = ["matchAttribute", "distinctAttribute"]
        .into_iter()
        .find_map(|field| Some((field, constraint[field].as_str()?)));
    let Some((field, name)) = found else {
        // As upstream: it says so too if neither is set.
        let detail = r#"exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set"#;
        return errors.required(path, detail);
    };
    validate_qualified_name(name, &path.child(field), errors);
    if !name.contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        errors.invalid(&path.child(field), &name.into(), detail);
    }
}
