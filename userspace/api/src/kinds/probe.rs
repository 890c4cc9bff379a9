//! Probes and lifecycle handlers of a container.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::numbers::not_negative;
use crate::kinds::port::is_port_name;
use crate::value::{one_of, text};

const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
const NUMBERS: [&str; 5] =
    ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];

/// Checks the probes and the lifecycle of a container.
pub(super) fn validate_handlers(container: &Value, path: &Path, errors: &mut Errors) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let (probe, at) = (&container[name], path.child(name));
        if !probe.is_object() {
            continue;
        }
        validate_handler(probe, &at, errors);
        not_negative(probe, &NUMBERS, &at, errors);
        let grace = &probe["terminationGracePeriodSeconds"];
        if name == "readinessProbe" && !grace.is_null() {
            let detail = "must not be set for readinessProbes";
            errors.invalid(&at.child("terminationGracePeriodSeconds"), grace, detail);
        } else if grace.as_i64().is_some_and(|seconds| seconds <= 0) {
            errors.invalid(&at.child("terminationGracePeriodSeconds"), grace, "must be greater than 0");
        }
        if name != "readinessProbe" && probe["successThreshold"].as_i64().is_some_and(|times| times != 1) {
            errors.invalid(&at.child("successThreshold"), &probe["successThreshold"], "must be 1");
        }
    }
    for name in ["postStart", "preStop"] {
        let handler = &container["lifecycle"][name];
        if handler.is_object() {
            validate_handler(handler, &path.child("lifecycle").child(name), errors);
        }
    }
}

fn validate_handler(handler: &Value, path: &Path, errors: &mut Errors) {
    let mut given = HANDLERS.into_iter().filter(|name| handler[*name].is_object());
    let Some(name) = given.next() else { return errors.required(path, "must specify a handler type") };
    for more in given {
        errors.forbidden(&path.child(more), "may not specify more than 1 handler type");
    }
    let (action, at) = (&handler[name], path.child(name));
    match name {
        "exec" if action["command"].as_array().is_none_or(Vec::is_empty) => {
            errors.required(&at.child("command"), "");
        }
        "httpGet" => {
            if text(&action["path"]).is_empty() {
                errors.required(&at.child("path"), "");
            }
            one_of(action, "scheme", &at, &["HTTP", "HTTPS"], errors);
            validate_port(&action["port"], &at.child("port"), errors);
        }
        "tcpSocket" | "grpc" => validate_port(&action["port"], &at.child("port"), errors),
        _ => {}
    }
}

/// Checks the number or the name of a port.
fn validate_port(port: &Value, path: &Path, errors: &mut Errors) {
    match port {
        Value::String(name) if is_port_name(name) => {}
        Value::String(_) => {
            let detail = "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)";
            errors.invalid(path, port, detail);
        }
        port if port.as_i64().is_some_and(|number| (1..=65_535).contains(&number)) => {}
        port => {
            let port = if port.is_null() { &Value::from(0) } else { port };
            errors.invalid(path, port, "must be between 1 and 65535, inclusive");
        }
    }
}
