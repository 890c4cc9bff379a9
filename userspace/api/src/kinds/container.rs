//! The containers of a Pod: defaults and validation.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::env::{default_env, validate_env, validate_env_from};
use crate::kinds::image_reference::{pulls_always, validate_pull_policy};
use crate::kinds::mount::{validate_devices, validate_mounts};
use crate::kinds::port::{PROTOCOLS, validate_port_number};
use crate::kinds::probe::{default_handlers, validate_handlers};
use crate::kinds::resource_requirements::{Owner, validate_requirements};
use crate::kinds::security_context::validate_container_context;
use crate::kinds::volume::Volumes;
use crate::names::{NameForm, name_problem, validate_optional_name};
use crate::value::{
    is_zero, items, items_mut, one_of, require_one_of, require_text, set_default, set_zero_default, text,
};

const POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const MAX_RESTART_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;

/// What the containers of a pod are checked against.
pub(super) struct PodContext<'a> {
    pub(super) spec: &'a Value,
    pub(super) volumes: Volumes<'a>,
    /// The names of the pod's resource claims.
    pub(super) claims: BTreeSet<&'a str>,
}

impl PodContext<'_> {
    /// Whether the containers have the node's users.
    fn host_users(&self) -> bool {
        self.spec["hostUsers"] != false
    }
}

pub(super) fn default_container(container: &mut Value) {
    set_default(container, "resources", json!({}));
    set_zero_default(container, "terminationMessagePath", "/dev/termination-log");
    set_zero_default(container, "terminationMessagePolicy", "File");
    if is_zero(&container["imagePullPolicy"]) {
        let policy = if pulls_always(text(&container["image"])) { "Always" } else { "IfNotPresent" };
        set_zero_default(container, "imagePullPolicy", policy);
    }
    for port in items_mut(container, "ports") {
        set_zero_default(port, "protocol", "TCP");
    }
    default_env(container);
    default_handlers(container);
}

/// Checks `containers`.
pub(super) fn validate_containers(pod: &PodContext<'_>, path: &Path, errors: &mut Errors) {
    let path = path.child("containers");
    if items(pod.spec, "containers").next().is_none() {
        return errors.required(&path, "");
    }
    let mut names = HashSet::new();
    for (i, container) in items(pod.spec, "containers").enumerate() {
        let at = path.index(i);
        validate_container(container, pod, &at, errors);
        if !names.insert(text(&container["name"])) {
            errors.duplicate(&at.child("name"), &text(&container["name"]).into());
        }
        validate_handlers(container, pod.spec, &at, errors);
        validate_restart(container, &at, errors);
    }
    validate_host_ports(items(pod.spec, "containers"), &path, errors);
}

/// Checks `initContainers`. One that restarts always runs beside the others and has probes.
pub(super) fn validate_init_containers(pod: &PodContext<'_>, path: &Path, errors: &mut Errors) {
    let path = path.child("initContainers");
    let mut names: HashSet<&str> = items(pod.spec, "containers").map(|c| text(&c["name"])).collect();
    for (i, container) in items(pod.spec, "initContainers").enumerate() {
        let (at, is_sidecar) = (path.index(i), container["restartPolicy"] == "Always");
        validate_container(container, pod, &at, errors);
        validate_restart(container, &at, errors);
        let name = text(&container["name"]);
        if names.contains(name) {
            errors.duplicate(&at.child("name"), &name.into());
        } else if !name.is_empty() {
            names.insert(name);
        }
        validate_host_ports(std::iter::once(container), &path, errors);
        if is_sidecar {
            validate_handlers(container, pod.spec, &at, errors);
            continue;
        }
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if !container[field].is_null() {
                let detail = "may not be set for init containers without restartPolicy=Always";
                errors.forbidden(&at.child(field), detail);
            }
        }
        for (j, policy) in items(container, "resizePolicy").enumerate() {
            if policy["restartPolicy"] == "RestartContainer" {
                let at = at.child("resizePolicy").index(j).child("restartPolicy");
                let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                errors.invalid(&at, &policy["restartPolicy"], detail);
            }
        }
    }
}

/// Checks what containers of all lists have in common.
pub(super) fn validate_container(container: &Value, pod: &PodContext<'_>, path: &Path, errors: &mut Errors) {
    if require_text(container, "name", path, errors) {
        validate_optional_name(container, "name", NameForm::Label, path, errors);
    }
    require_text(container, "image", path, errors);
    let policies = ["File", "FallbackToLogsOnError"];
    require_one_of(container, "terminationMessagePolicy", path, &policies, errors);
    validate_ports(container, path, errors);
    validate_env(container, path, errors);
    validate_env_from(container, path, errors);
    validate_mounts(container, path, &pod.volumes, errors);
    validate_devices(container, path, &pod.volumes, errors);
    validate_pull_policy(container, "imagePullPolicy", path, errors);
    let resources = path.child("resources");
    validate_requirements(&container["resources"], Owner::Container, &pod.claims, &resources, errors);
    validate_resize_policies(container, pod.spec, path, errors);
    validate_container_context(container, pod.host_users(), path, errors);
}

/// In pods, and not in templates: an image's name without blanks around it.
pub(super) fn validate_image_text(container: &Value, path: &Path, errors: &mut Errors) {
    let image = text(&container["image"]);
    if image.trim().len() != image.len() {
        let detail = "must not have leading or trailing whitespace";
        errors.invalid(&path.child("image"), &image.into(), detail);
    }
}

fn validate_ports(container: &Value, path: &Path, errors: &mut Errors) {
    let mut names = HashSet::new();
    for (i, port) in items(container, "ports").enumerate() {
        let at = path.child("ports").index(i);
        let name = text(&port["name"]);
        if !name.is_empty() {
            validate_optional_name(port, "name", NameForm::PortName, &at, errors);
            if name_problem(name, NameForm::PortName).is_none() && !names.insert(name) {
                errors.duplicate(&at.child("name"), &port["name"]);
            }
        }
        if is_zero(&port["containerPort"]) {
            errors.required(&at.child("containerPort"), "");
        } else {
            validate_port_number(&port["containerPort"], &at.child("containerPort"), errors);
        }
        if !is_zero(&port["hostPort"]) {
            validate_port_number(&port["hostPort"], &at.child("hostPort"), errors);
        }
        require_one_of(port, "protocol", &at, &PROTOCOLS, errors);
    }
}

/// A port of the node belongs to one container.
fn validate_host_ports<'a>(containers: impl Iterator<Item = &'a Value>, path: &Path, errors: &mut Errors) {
    let mut taken = HashSet::new();
    for (i, container) in containers.enumerate() {
        for (j, port) in items(container, "ports").enumerate() {
            let Some(number) = port["hostPort"].as_i64().filter(|number| *number != 0) else { continue };
            let key = format!("{}/{}/{number}", text(&port["protocol"]), text(&port["hostIP"]));
            if taken.contains(&key) {
                let at = path.index(i).child("ports").index(j).child("hostPort");
                errors.duplicate(&at, &key.into());
            } else {
                taken.insert(key);
            }
        }
    }
}

/// On the node's network, a port of a container is one of the node.
pub(super) fn validate_host_network_ports(spec: &Value, is_pod: bool, path: &Path, errors: &mut Errors) {
    if spec["hostNetwork"] != true {
        return;
    }
    for (i, container) in items(spec, "containers").enumerate() {
        for (j, port) in items(container, "ports").enumerate() {
            let host = port["hostPort"].as_i64().unwrap_or_default();
            let own = port["containerPort"].as_i64().unwrap_or_default();
            if (is_pod || host != 0) && host != own {
                let at = path.child("containers").index(i).child("ports").index(j).child("hostPort");
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid(&at, &host.into(), detail);
            }
        }
    }
}

fn validate_resize_policies(container: &Value, spec: &Value, path: &Path, errors: &mut Errors) {
    let path = path.child("resizePolicy");
    let mut seen = HashSet::new();
    for (i, policy) in items(container, "resizePolicy").enumerate() {
        let (name, restart) = (text(&policy["resourceName"]), text(&policy["restartPolicy"]));
        if !seen.insert(name) {
            errors.duplicate(&path.index(i), &name.into());
        }
        for (value, supported) in [(name, ["cpu", "memory"]), (restart, ["NotRequired", "RestartContainer"])]
        {
            match value {
                "" => errors.required(&path, ""),
                value if !supported.contains(&value) => {
                    errors.not_supported(&path, &value.into(), &supported);
                }
                _ => {}
            }
        }
        if spec["restartPolicy"] == "Never" && restart != "NotRequired" {
            let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.invalid(&path, &restart.into(), detail);
        }
    }
}

/// Checks a container's own restart policy and its rules.
fn validate_restart(container: &Value, path: &Path, errors: &mut Errors) {
    let count = items(container, "restartPolicyRules").count();
    if container["restartPolicy"].is_null() {
        if count > 0 {
            let detail = "must specify restartPolicy when restart rules are used";
            errors.required(&path.child("restartPolicy"), detail);
        }
    } else {
        one_of(container, "restartPolicy", path, &POLICIES, errors);
    }
    let rules = path.child("restartPolicyRules");
    if count > MAX_RESTART_RULES {
        errors.too_many(&rules, count, MAX_RESTART_RULES);
    }
    for (i, rule) in items(container, "restartPolicyRules").enumerate() {
        let at = rules.index(i);
        let (action, codes) = (text(&rule["action"]), &rule["exitCodes"]);
        let actions = ["Restart", "RestartAllContainers"];
        if !actions.contains(&action) {
            errors.not_supported(&at.child("action"), &action.into(), &actions);
        }
        let at = at.child("exitCodes");
        if !codes.is_object() {
            errors.required(&at, "must be specified");
            continue;
        }
        let operator = text(&codes["operator"]);
        if !["In", "NotIn"].contains(&operator) {
            errors.not_supported(&at.child("operator"), &operator.into(), &["In", "NotIn"]);
        }
        let values = items(codes, "values").count();
        if values > MAX_EXIT_CODES {
            errors.too_many(&at.child("values"), values, MAX_EXIT_CODES);
        }
    }
}
