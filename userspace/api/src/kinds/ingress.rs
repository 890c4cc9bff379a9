//! Ingresses and their classes.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::containers::validate_port_number;
use crate::field::{Errors, Path};
use crate::names::{self, NameForm};
use crate::value::{immutable, items, set_default};

const CLASS: &str = "kubernetes.io/ingress.class";
const CONTROLLER_MAX: usize = 250;
const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

pub(super) fn default_ingress(object: &mut Value) {
    if object.get("status").is_none() {
        object["status"] = json!({"loadBalancer": {}});
    }
}

pub(super) fn validate_ingress(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let class = &object["metadata"]["annotations"][CLASS];
    if class.is_string() && !spec["ingressClassName"].is_null() && *class != spec["ingressClassName"] {
        let at = Path::new("annotations").child(CLASS);
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
        if let Some(name) = tls["secretName"].as_str().filter(|name| !name.is_empty())
            && let Some(problem) = names::name_problem(name, NameForm::Subdomain)
        {
            errors.invalid(&at.child("secretName"), &tls["secretName"], problem);
        }
    }
    if let Some(name) = spec["ingressClassName"].as_str()
        && let Some(problem) = names::name_problem(name, NameForm::Subdomain)
    {
        errors.invalid(&path.child("ingressClassName"), &spec["ingressClassName"], problem);
    }
}

fn validate_host(host: &Value, path: &Path, errors: &mut Errors) {
    let Some(name) = host.as_str().filter(|name| !name.is_empty()) else { return };
    if name.parse::<IpAddr>().is_ok() {
        errors.invalid(path, host, "must be a DNS name, not an IP address");
    }
    validate_name(host, path, errors);
}

/// A DNS name, whose first label may be a wildcard.
fn validate_name(host: &Value, path: &Path, errors: &mut Errors) {
    let name = host.as_str().unwrap_or_default();
    if name.contains('*') {
        if !name.strip_prefix("*.").is_some_and(names::is_subdomain) {
            errors.invalid(path, host, WILDCARD);
        }
    } else if let Some(problem) = names::name_problem(name, NameForm::Subdomain) {
        errors.invalid(path, host, problem);
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
        (false, false) => errors.required(path, "cannot use empty backend"),
        (false, true) => validate_reference(resource, &path.child("resource"), errors),
        (true, false) => validate_service(service, path, errors),
    }
}

fn validate_service(service: &Value, path: &Path, errors: &mut Errors) {
    let at = path.child("service");
    match service["name"].as_str() {
        None | Some("") => errors.required(&at.child("name"), ""),
        Some(name) => {
            if let Some(problem) = names::name_problem(name, NameForm::Label1035) {
                errors.invalid(&at.child("name"), &service["name"], problem);
            }
        }
    }
    let port = &service["port"];
    let named = port["name"].as_str().is_some_and(|name| !name.is_empty());
    match (named, port["number"].as_i64().unwrap_or(0) != 0) {
        (true, true) => errors.invalid(path, &json!(""), "cannot set both port name & port number"),
        (false, true) => {
            validate_port_number(&port["number"], 1, &at.child("port").child("number"), false, errors);
        }
        (false, false) => errors.required(path, "port name or number is required"),
        (true, false) => {}
    }
}

/// A kind and a name, in some group.
fn validate_reference(reference: &Value, path: &Path, errors: &mut Errors) {
    if let Some(group) = reference["apiGroup"].as_str()
        && let Some(problem) = names::name_problem(group, NameForm::Subdomain)
    {
        errors.invalid(&path.child("apiGroup"), &reference["apiGroup"], problem);
    }
    for field in ["kind", "name"] {
        match reference[field].as_str() {
            None | Some("") => errors.required(&path.child(field), ""),
            Some(text) => {
                if let Some(problem) = names::name_problem(text, NameForm::PathSegment) {
                    errors.invalid(&path.child(field), &reference[field], problem);
                }
            }
        }
    }
}

pub(super) fn default_class(object: &mut Value) {
    if object["spec"]["parameters"].is_object() {
        set_default(&mut object["spec"]["parameters"], "scope", "Cluster");
    }
}

pub(super) fn validate_class(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let (controller, at) = (spec["controller"].as_str().unwrap_or_default(), path.child("controller"));
    if controller.len() > CONTROLLER_MAX {
        errors.too_long(&at, CONTROLLER_MAX);
    }
    let valid = controller
        .split_once('/')
        .is_some_and(|(domain, rest)| names::is_subdomain(domain) && !rest.is_empty());
    if controller.is_empty() {
        errors.required(&at, "");
    } else if !valid {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.invalid(&at, &spec["controller"], detail);
    }
    let (parameters, at) = (&spec["parameters"], path.child("parameters"));
    if !parameters.is_object() {
        return;
    }
    validate_reference(parameters, &at, errors);
    let namespaced = !parameters["namespace"].is_null();
    match parameters["scope"].as_str() {
        Some("Namespace") if !namespaced => {
            errors.required(&at.child("namespace"), "`parameters.scope` is set to 'Namespace'");
        }
        Some("Cluster") if namespaced => {
            errors.forbidden(&at.child("namespace"), "`parameters.scope` is set to 'Cluster'");
        }
        Some("Namespace" | "Cluster") => {}
        _ => errors.not_supported(&at.child("scope"), &parameters["scope"], &["Cluster", "Namespace"]),
    }
}

pub(super) fn validate_class_update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec").child("controller");
    immutable(&new["spec"]["controller"], &old["spec"]["controller"], &path, errors);
}
