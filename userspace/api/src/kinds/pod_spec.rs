//! The specification of a Pod, in a Pod or in a template: defaults and validation.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::container::{default_container, validate_container};
use crate::kinds::volume::{default_volume, validate_volumes};
use crate::names;
use crate::value::{items, items_mut, one_of, set_default};

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

/// Validates a pod specification; `restart` lists the allowed restart policies.
pub(super) fn validate_pod_spec(spec: &Value, path: &Path, restart: &[&str], errors: &mut Errors) {
    if spec.is_null() {
        return;
    }
    let volumes: Vec<&str> = items(spec, "volumes").filter_map(|volume| volume["name"].as_str()).collect();
    validate_volumes(spec, path, errors);
    if items(spec, "containers").next().is_none() {
        errors.required(&path.child("containers"), "");
    }
    let mut names = Vec::new();
    for list in CONTAINER_LISTS {
        for (i, container) in items(spec, list).enumerate() {
            let at = path.child(list).index(i);
            validate_container(container, &at, &volumes, errors);
            let name = container["name"].as_str().unwrap_or_default();
            if !name.is_empty() && names.contains(&name) {
                errors.duplicate(&at.child("name"), &container["name"]);
            }
            names.push(name);
        }
    }
    one_of(spec, "restartPolicy", path, restart, errors);
    one_of(spec, "dnsPolicy", path, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], errors);
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        let at = path.child("terminationGracePeriodSeconds");
        errors.invalid(&at, &spec["terminationGracePeriodSeconds"], "must be greater than or equal to 0");
    }
    names::validate_labels(&spec["nodeSelector"], &path.child("nodeSelector"), errors);
}
