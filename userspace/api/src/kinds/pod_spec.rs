//! The specification of a Pod, in a Pod or in a template: defaults and validation.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::container::{default_container, validate_container};
use crate::kinds::numbers::not_negative;
use crate::kinds::security_context::validate_pod_context;
use crate::kinds::volume::{default_volume, validate_volumes};
use crate::names;
use crate::value::{items, items_mut, one_of, set_default, text};

pub(super) const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Defaults of a pod specification, in a pod or in a template.
pub(super) fn default_pod_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    for (field, value) in [
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("securityContext", json!({})),
        ("schedulerName", json!("default-scheduler")),
    ] {
        set_default(spec, field, value);
    }
    let account = spec.get("serviceAccountName").or_else(|| spec.get("serviceAccount")).cloned();
    if let Some(account) = account {
        set_default(spec, "serviceAccountName", account.clone());
        spec["serviceAccount"] = account;
    }
    for list in CONTAINER_LISTS {
        items_mut(spec, list).for_each(default_container);
    }
    items_mut(spec, "volumes").for_each(default_volume);
    for constraint in items_mut(spec, "topologySpreadConstraints") {
        set_default(constraint, "nodeAffinityPolicy", "Honor");
        set_default(constraint, "nodeTaintsPolicy", "Ignore");
    }
    for toleration in items_mut(spec, "tolerations") {
        if toleration.get("key").is_some() && toleration.get("operator").is_none() {
            toleration["operator"] = "Equal".into();
        }
    }
}

/// Validates a pod specification; `restart` lists the allowed restart policies. Ephemeral containers are a pod's own.
pub(super) fn validate_pod_spec(spec: &Value, path: &Path, restart: &[&str], errors: &mut Errors) {
    if spec.is_null() {
        return;
    }
    let volumes: HashSet<&str> =
        items(spec, "volumes").filter_map(|volume| volume["name"].as_str()).collect();
    validate_volumes(spec, path, errors);
    if items(spec, "containers").next().is_none() {
        errors.required(&path.child("containers"), "");
    }
    let (mut names, mut host_ports) = (HashSet::new(), HashSet::new());
    for list in ["initContainers", "containers"] {
        for (i, container) in items(spec, list).enumerate() {
            let at = path.child(list).index(i);
            validate_container(container, &at, &volumes, errors);
            let name = container["name"].as_str().unwrap_or_default();
            if !names.insert(name) && !name.is_empty() {
                errors.duplicate(&at.child("name"), &container["name"]);
            }
            if list == "initContainers" && container["restartPolicy"] != "Always" {
                forbid_handlers(container, &at, errors);
            } else {
                validate_host_ports(container, &at, &mut host_ports, errors);
            }
        }
    }
    one_of(spec, "restartPolicy", path, restart, errors);
    one_of(spec, "dnsPolicy", path, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], errors);
    not_negative(spec, &["terminationGracePeriodSeconds"], path, errors);
    let deadline = &spec["activeDeadlineSeconds"];
    if deadline.as_i64().is_some_and(|seconds| !(1..=i64::from(i32::MAX)).contains(&seconds)) {
        let at = path.child("activeDeadlineSeconds");
        errors.invalid(&at, deadline, "must be between 1 and 2147483647, inclusive");
    }
    validate_tolerations(spec, path, errors);
    validate_pod_context(spec, path, errors);
    names::validate_labels(&spec["nodeSelector"], &path.child("nodeSelector"), errors);
}

/// An init container that runs to its end has no probes and no lifecycle.
fn forbid_handlers(container: &Value, path: &Path, errors: &mut Errors) {
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if !container[field].is_null() {
            let detail = "may not be set for init containers without restartPolicy=Always";
            errors.forbidden(&path.child(field), detail);
        }
    }
}

/// A port of the node belongs to one container.
fn validate_host_ports(container: &Value, path: &Path, taken: &mut HashSet<String>, errors: &mut Errors) {
    for (i, port) in items(container, "ports").enumerate() {
        let Some(number) = port["hostPort"].as_i64().filter(|number| *number != 0) else { continue };
        let key = format!("{}/{}/{number}", text(&port["protocol"]), text(&port["hostIP"]));
        let at = path.child("ports").index(i).child("hostPort");
        if taken.contains(&key) {
            errors.duplicate(&at, &key.into());
        } else {
            taken.insert(key);
        }
    }
}

fn validate_tolerations(spec: &Value, path: &Path, errors: &mut Errors) {
    for (i, toleration) in items(spec, "tolerations").enumerate() {
        let at = path.child("tolerations").index(i);
        let key = text(&toleration["key"]);
        if !key.is_empty()
            && let Some(problem) = names::qualified_name_problem(key)
        {
            errors.invalid(&at.child("key"), &toleration["key"], problem);
        }
        if key.is_empty() && toleration["operator"] != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(&at.child("operator"), &toleration["operator"], detail);
        }
        if !toleration["tolerationSeconds"].is_null() && toleration["effect"] != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(&at.child("effect"), &toleration["effect"], detail);
        }
        one_of(toleration, "operator", &at, &["Equal", "Exists", "Lt", "Gt"], errors);
        if toleration["effect"] != "" {
            one_of(toleration, "effect", &at, &["NoSchedule", "PreferNoSchedule", "NoExecute"], errors);
        }
    }
}
