//! The containers of a Pod: defaults and validation.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::mount::validate_mounts;
use crate::kinds::port::{is_port_name, validate_port_number};
use crate::kinds::probe::validate_handlers;
use crate::kinds::security_context::validate_container_context;
use crate::names;
use crate::resources::quantity;
use crate::value::{items, items_mut, one_of, set_default, text};

pub(super) fn default_container(container: &mut Value) {
    set_default(container, "resources", json!({}));
    set_default(container, "terminationMessagePath", "/dev/termination-log");
    set_default(container, "terminationMessagePolicy", "File");
    let policy =
        if pulls_always(container["image"].as_str().unwrap_or_default()) { "Always" } else { "IfNotPresent" };
    set_default(container, "imagePullPolicy", policy);
    for port in items_mut(container, "ports") {
        set_default(port, "protocol", "TCP");
    }
    for env in items_mut(container, "env") {
        if let Some(field) = env.get_mut("valueFrom").and_then(|from| from.get_mut("fieldRef")) {
            set_default(field, "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(name).filter(|probe| probe.is_object()) {
            for (field, value) in [
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ] {
                set_default(probe, field, value);
            }
            default_action(probe);
        }
    }
    for name in ["postStart", "preStop"] {
        if let Some(handler) = container.get_mut("lifecycle").and_then(|lifecycle| lifecycle.get_mut(name)) {
            default_action(handler);
        }
    }
}

fn default_action(handler: &mut Value) {
    if let Some(get) = handler.get_mut("httpGet").filter(|get| get.is_object()) {
        set_default(get, "path", "/");
        set_default(get, "scheme", "HTTP");
    }
    if let Some(grpc) = handler.get_mut("grpc").filter(|grpc| grpc.is_object()) {
        set_default(grpc, "service", "");
    }
}

/// Whether the default pull policy is Always: an image without a tag, or with the tag `latest`, may change in its registry.
pub fn pulls_always(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or(image);
    !image.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

pub(super) fn validate_container(
    container: &Value,
    path: &Path,
    volumes: &HashSet<&str>,
    errors: &mut Errors,
) {
    match container["name"].as_str() {
        None | Some("") => errors.required(&path.child("name"), ""),
        Some(name) => {
            if let Some(problem) = names::name_problem(name, names::NameForm::Label) {
                errors.invalid(&path.child("name"), &container["name"], problem);
            }
        }
    }
    match container["image"].as_str() {
        None | Some("") => errors.required(&path.child("image"), ""),
        Some(image) if image.trim() != image => {
            errors.invalid(
                &path.child("image"),
                &container["image"],
                "must not have leading or trailing whitespace",
            );
        }
        Some(_) => {}
    }
    one_of(container, "imagePullPolicy", path, &["Always", "IfNotPresent", "Never"], errors);
    one_of(container, "terminationMessagePolicy", path, &["File", "FallbackToLogsOnError"], errors);
    validate_ports(container, path, errors);
    validate_env(container, path, errors);
    validate_mounts(container, path, volumes, errors);
    validate_handlers(container, path, errors);
    validate_container_context(container, path, errors);
    validate_resources(&container["resources"], &path.child("resources"), errors);
}

fn validate_ports(container: &Value, path: &Path, errors: &mut Errors) {
    let mut names = HashSet::new();
    for (i, port) in items(container, "ports").enumerate() {
        let at = path.child("ports").index(i);
        for (field, min) in [("containerPort", 1), ("hostPort", 0)] {
            validate_port_number(&port[field], min, &at.child(field), field == "containerPort", errors);
        }
        one_of(port, "protocol", &at, &["TCP", "UDP", "SCTP"], errors);
        match text(&port["name"]) {
            "" => {}
            name if !is_port_name(name) => {
                let detail = "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)";
                errors.invalid(&at.child("name"), &port["name"], detail);
            }
            name if !names.insert(name) => errors.duplicate(&at.child("name"), &port["name"]),
            _ => {}
        }
    }
}

/// Names may occur twice, as upstream: the last one counts.
fn validate_env(container: &Value, path: &Path, errors: &mut Errors) {
    for (i, env) in items(container, "env").enumerate() {
        let at = path.child("env").index(i);
        match text(&env["name"]) {
            "" => errors.required(&at.child("name"), ""),
            name if name.bytes().any(|c| !matches!(c, b' '..=b'~') || c == b'=') => {
                let detail = "a valid environment variable name must consist only of printable ASCII characters other than '='";
                errors.invalid(&at.child("name"), &env["name"], detail);
            }
            _ => {}
        }
        if env["value"].as_str().is_some_and(|v| !v.is_empty()) && !env["valueFrom"].is_null() {
            errors.invalid(
                &at.child("valueFrom"),
                &json!(""),
                "may not be specified when `value` is not empty",
            );
        }
    }
}

fn validate_resources(resources: &Value, path: &Path, errors: &mut Errors) {
    for list in ["limits", "requests"] {
        for (name, value) in resources[list].as_object().into_iter().flatten() {
            let at = path.child(list).key(name);
            match quantity(value) {
                Some(amount) if amount.millis() < 0 => {
                    errors.invalid(&at, value, "must be greater than or equal to 0");
                }
                Some(amount) if list == "requests" => {
                    let limit = quantity(&resources["limits"][name]);
                    if limit.is_some_and(|limit| amount > limit) {
                        let detail = format!(
                            "must be less than or equal to {name} limit of {}",
                            plain(&resources["limits"][name])
                        );
                        errors.invalid(&path.child("requests"), value, &detail);
                    }
                }
                Some(_) | None => {}
            }
        }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
