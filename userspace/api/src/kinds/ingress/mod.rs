//! Ingresses. IngressClasses share the check of references.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::port::validate_port_number;
use crate::kinds::row::Row;
use crate::names::{self, NameForm};
use crate::table::cell::{NONE, text_or};
use crate::table::column::{AGE, Column, NAME};
use crate::value::items;

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

pub(super) const ROW: Row = Row {
    group: "networking.k8s.io",
    kind: "Ingress",
    plural: "ingresses",
    singular: "ingress",
    short_names: &["ing"],
    subresources: &["status"],
    schema: "api.networking.v1.Ingress",
    columns: COLUMNS,
    strategy: Strategy { generation: true, default, validate, warnings, ..Strategy::NONE },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Class", |object, _| text_or(&object["spec"]["ingressClassName"], NONE).into()),
    Column::text("Hosts", hosts),
    Column::text("Address", ingress_address),
    Column::text("Ports", |object, _| {
        if items(&object["spec"], "tls").next().is_some() { "80, 443" } else { "80" }.into()
    }),
    AGE,
];

fn default(object: &mut Value) {
    if object.get("status").is_none() {
        object["status"] = json!({"loadBalancer": {}});
    }
}

fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let class = &object["metadata"]["annotations"][CLASS_ANNOTATION];
    if class.is_string() && !spec["ingressClassName"].is_null() && *class != spec["ingressClassName"] {
        let at = Path::new("annotations").child(CLASS_ANNOTATION);
        errors.invalid(&at, class, "must match `ingressClassName` when both are specified");
    }
    if items(spec, "rules").next().is_none() && spec["defaultBackend"].is_null() {
        errors.invalid(&path, &spec["rules"], "either `defaultBackend` or `rules` must be specified");
    }
    if !spec["defaultBackend"].is_null() {
        validate_backend(&spec["defaultBackend"], &path.child("defaultBackend"), errors);
    }
    for (i, rule) in items(spec, "rules").enumerate() {
        let at = path.child("rules").index(i);
        validate_host(&rule["host"], &at.child("host"), errors);
        if rule["http"].is_object() {
            validate_paths(&rule["http"], &at.child("http").child("paths"), errors);
        }
    }
    for (i, tls) in items(spec, "tls").enumerate() {
        let at = path.child("tls").index(i);
        for (j, host) in items(tls, "hosts").enumerate() {
            validate_name(host, &at.child("hosts").index(j), errors);
        }
        names::validate_optional_name(tls, "secretName", NameForm::Subdomain, &at, errors);
    }
    if let Some(name) = spec["ingressClassName"].as_str() {
        names::validate_name(name, NameForm::Subdomain, &path.child("ingressClassName"), errors);
    }
}

fn validate_host(host: &Value, path: &Path, errors: &mut Errors) {
    let Some(name) = host.as_str().filter(|name| !name.is_empty()) else { return };
    if name.parse::<IpAddr>().is_ok() {
        errors.invalid(path, host, "must be a DNS name, not an IP address");
    }
    validate_name(host, path, errors);
}

/// Checks a DNS name whose first label may be a wildcard.
fn validate_name(host: &Value, path: &Path, errors: &mut Errors) {
    let name = host.as_str().unwrap_or_default();
    if name.contains('*') {
        if !name.strip_prefix("*.").is_some_and(names::is_subdomain) {
            errors.invalid(path, host, WILDCARD);
        }
    } else {
        names::validate_name(name, NameForm::Subdomain, path, errors);
    }
}

fn validate_paths(http: &Value, path: &Path, errors: &mut Errors) {
    if items(http, "paths").next().is_none() {
        errors.required(path, "");
    }
    for (i, one) in items(http, "paths").enumerate() {
        let at = path.index(i);
        let text = one["path"].as_str().unwrap_or_default();
        let absolute = text.starts_with('/');
        match one["pathType"].as_str() {
            None => {
                errors.required(&at.child("pathType"), "pathType must be specified");
                continue;
            }
            Some("Exact" | "Prefix") => {
                if !absolute {
                    errors.invalid(&at.child("path"), &json!(text), "must be an absolute path");
                }
                validate_segments(text, &at.child("path"), errors);
            }
            Some("ImplementationSpecific") if text.is_empty() || absolute => {}
            Some("ImplementationSpecific") => {
                errors.invalid(&at.child("path"), &one["path"], "must be an absolute path");
            }
            Some(_) => errors.not_supported(
                &at.child("pathType"),
                &one["pathType"],
                &["Exact", "ImplementationSpecific", "Prefix"],
            ),
        }
        validate_backend(&one["backend"], &at.child("backend"), errors);
    }
}

fn validate_segments(text: &str, path: &Path, errors: &mut Errors) {
    for sequence in ["//", "/./", "/../", "%2f", "%2F"] {
        if text.contains(sequence) {
            errors.invalid(path, &json!(text), &format!("must not contain '{sequence}'"));
        }
    }
    for end in ["/..", "/."] {
        if text.ends_with(end) {
            errors.invalid(path, &json!(text), &format!("cannot end with '{end}'"));
        }
    }
}

fn validate_backend(backend: &Value, path: &Path, errors: &mut Errors) {
    let (service, resource) = (&backend["service"], &backend["resource"]);
    match (service.is_object(), resource.is_object()) {
        (true, true) => errors.invalid(path, &json!(""), "cannot set both resource and service backends"),
        (false, false) => errors.invalid(path, &json!(""), "resource or service backend is required"),
        (false, true) => validate_reference(resource, &path.child("resource"), errors),
        (true, false) => validate_service(service, path, errors),
    }
}

fn validate_service(service: &Value, path: &Path, errors: &mut Errors) {
    let at = path.child("service");
    match service["name"].as_str() {
        None | Some("") => errors.required(&at.child("name"), ""),
        Some(name) => names::validate_name(name, NameForm::Label, &at.child("name"), errors),
    }
    let port = &service["port"];
    let named = port["name"].as_str().is_some_and(|name| !name.is_empty());
    match (named, port["number"].as_i64().unwrap_or(0) != 0) {
        (true, true) => errors.invalid(path, &json!(""), "cannot set both port name & port number"),
        (false, true) => {
            validate_port_number(&port["number"], &at.child("port").child("number"), errors);
        }
        (false, false) => errors.required(path, "port name or number is required"),
        (true, false) => {
            let at = at.child("port").child("name");
            names::validate_name(port["name"].as_str().unwrap_or_default(), NameForm::PortName, &at, errors);
        }
    }
}

/// Checks a reference by group, kind and name.
pub(super) fn validate_reference(reference: &Value, path: &Path, errors: &mut Errors) {
    if let Some(group) = reference["apiGroup"].as_str() {
        names::validate_name(group, NameForm::Subdomain, &path.child("apiGroup"), errors);
    }
    for field in ["kind", "name"] {
        match reference[field].as_str() {
            None | Some("") => errors.required(&path.child(field), ""),
            Some(text) => names::validate_name(text, NameForm::PathSegment, &path.child(field), errors),
        }
    }
}

fn warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let class = &object["metadata"]["annotations"][CLASS_ANNOTATION];
    if old.is_some() || class.is_null() || !object["spec"]["ingressClassName"].is_null() {
        return Vec::new();
    }
    vec![format!("annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead")]
}

fn hosts(object: &Value, _: Timestamp) -> Value {
    let rules = items(&object["spec"], "rules").count();
    let hosts: Vec<&str> = items(&object["spec"], "rules")
        .filter_map(|rule| rule["host"].as_str())
        .filter(|host| !host.is_empty())
        .collect();
    match hosts.as_slice() {
        [] => "*".into(),
        [a, b, c, ..] if rules > 3 => format!("{a},{b},{c} + {} more...", rules - 3).into(),
        all => all.join(",").into(),
    }
}

fn ingress_address(object: &Value, _: Timestamp) -> Value {
    let all = items(&object["status"]["loadBalancer"], "ingress");
    let mut all: Vec<&str> = all.filter_map(|one| one["ip"].as_str().or(one["hostname"].as_str())).collect();
    all.sort_unstable();
    all.dedup();
    all.join(",").into()
}
