//! Probes and lifecycle handlers of a container.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::numbers::not_negative;
use crate::kinds::port::validate_port;
use crate::names::{NameForm, name_problems};
use crate::value::{items, require_text, set_default, set_zero_default, text};

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
const NUMBERS: [&str; 5] =
    ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
pub(super) fn default_handlers(container: &mut Value) {
    for name in PROBES {
        let Some(probe) = container.get_mut(name).filter(|probe| probe.is_object()) else { continue };
        for (field, value) in
            [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
        {
            set_zero_default(probe, field, value);
        }
        default_action(probe);
    }
    drop_stop_signal(container);
    for name in ["postStart", "preStop"] {
        if let Some(handler) = container.get_mut("lifecycle").and_then(|lifecycle| lifecycle.get_mut(name)) {
            default_action(handler);
        }
    }
}

/// The feature of `stopSignal` is off by default, and upstream drops the field then.
fn drop_stop_signal(container: &mut Value) {
    let Some(lifecycle) = container.get_mut("lifecycle").and_then(Value::as_object_mut) else { return };
    if lifecycle.remove("stopSignal").is_some()
        && lifecycle.is_empty()
        && let Some(fields) = container.as_object_mut()
    {
        fields.remove("lifecycle");
    }
}

fn default_action(handler: &mut Value) {
    if let Some(get) = handler.get_mut("httpGet").filter(|get| get.is_object()) {
        set_zero_default(get, "path", "/");
        set_zero_default(get, "scheme", "HTTP");
    }
    if let Some(grpc) = handler.get_mut("grpc").filter(|grpc| grpc.is_object()) {
        set_default(grpc, "service", "");
    }
}

/// Checks the lifecycle and the probes of a container; `spec` is the pod's.
pub(super) fn validate_handlers(container: &Value, spec: &Value, path: &Path, errors: &mut Errors) {
    let lifecycle = &container["lifecycle"];
    for name in ["postStart", "preStop"] {
        if lifecycle[name].is_object() {
            validate_handler(&lifecycle[name], spec, &path.child("lifecycle").child(name), errors);
        }
    }
    for name in PROBES {
        let (probe, at) = (&container[name], path.child(name));
        if !probe.is_object() {
            continue;
        }
        validate_handler(probe, spec, &at, errors);
        not_negative(probe, &NUMBERS, &at, errors);
        let grace = &probe["terminationGracePeriodSeconds"];
        if grace.as_i64().is_some_and(|seconds| seconds <= 0) {
            errors.invalid(&at.child("terminationGracePeriodSeconds"), grace, "must be greater than 0");
        }
        if name == "readinessProbe" {
            if !grace.is_null() {
                let detail = "must not be set for readinessProbes";
                errors.invalid(&at.child("terminationGracePeriodSeconds"), grace, detail);
            }
        } else if probe["successThreshold"].as_i64().is_some_and(|times| times != 1) {
            errors.invalid(&at.child("successThreshold"), &probe["successThreshold"], "must be 1");
        }
    }
}

fn validate_handler(handler: &Value, spec: &Value, path: &Path, errors: &mut Errors) {
    let mut given = HANDLERS.into_iter().filter(|name| handler[*name].is_object());
    let Some(name) = given.next() else { return errors.required(path, "must specify a handler type") };
    let (action, at) = (&handler[name], path.child(name));
    match name {
        "exec" if items(action, "command").next().is_none() => errors.required(&at.child("command"), ""),
        "httpGet" => validate_get(action, &at, errors),
        "tcpSocket" | "grpc" => validate_port(&action["port"], &at.child("port"), errors),
        "sleep" => {
            let seconds = action["seconds"].as_i64().unwrap_or_default();
            if let Some(grace) = spec["terminationGracePeriodSeconds"].as_i64()
                && !(0..=grace).contains(&seconds)
            {
                let detail =
                    format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                errors.invalid(&at, &seconds.into(), &detail);
            }
        }
        _ => {}
    }
    for more in given {
        errors.forbidden(&path.child(more), "may not specify more than 1 handler type");
    }
}

fn validate_get(action: &Value, path: &Path, errors: &mut Errors) {
    require_text(action, "path", path, errors);
    validate_port(&action["port"], &path.child("port"), errors);
    let scheme = text(&action["scheme"]);
    if !["HTTP", "HTTPS"].contains(&scheme) {
        errors.not_supported(&path.child("scheme"), &scheme.into(), &["HTTP", "HTTPS"]);
    }
    for header in items(action, "httpHeaders") {
        let name = text(&header["name"]);
        for problem in name_problems(name, NameForm::Header) {
            errors.invalid(&path.child("httpHeaders"), &name.into(), problem);
        }
    }
}
