//! The specification of a Pod, in a Pod or in a template: defaults and validation, in the order of upstream's checks.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::affinity::{validate_affinity, validate_spread};
use crate::kinds::container::{
    PodContext, default_container, validate_containers, validate_host_network_ports, validate_init_containers,
};
use crate::kinds::container_lists::{CONTAINER_LISTS, containers};
use crate::kinds::dns_config::{validate_dns_config, validate_host_aliases};
use crate::kinds::ephemeral_container;
use crate::kinds::pod_annotations::MIRROR;
use crate::kinds::pod_resources::validate_pod_resources;
use crate::kinds::resource_requirements::{Owner, validate_requirements};
use crate::kinds::security_context::validate_pod_context;
use crate::kinds::toleration::validate_tolerations;
use crate::kinds::volume::{Volumes, default_volume, validate_volumes};
use crate::kinds::windows::{validate_host_processes, validate_os};
use crate::names::{NameForm, validate_labels, validate_name, validate_optional_name};
use crate::value::{items, items_mut, require_one_of, require_text, set_default, set_zero_default, text};

const MAX_HOST_NAME_LENGTH: usize = 64;

/// Defaults of a pod specification, in a pod or in a template.
pub(super) fn default_pod_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    for (field, value) in
        [("restartPolicy", "Always"), ("dnsPolicy", "ClusterFirst"), ("schedulerName", "default-scheduler")]
    {
        set_zero_default(spec, field, value);
    }
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_default(spec, "securityContext", json!({}));
    // A value is always written.
    items_mut(&mut spec["securityContext"], "sysctls").for_each(|sysctl| set_default(sysctl, "value", ""));
    let account = ["serviceAccountName", "serviceAccount"].map(|field| text(&spec[field]).to_owned());
    if let Some(account) = account.into_iter().find(|account| !account.is_empty()) {
        spec["serviceAccountName"] = account.as_str().into();
        spec["serviceAccount"] = account.into();
    }
    for list in CONTAINER_LISTS {
        items_mut(spec, list).for_each(default_container);
    }
    items_mut(spec, "volumes").for_each(default_volume);
}

/// Validates a pod specification. `pod` is the metadata of the pod; null in a template.
pub(super) fn validate_pod_spec(spec: &Value, pod: &Value, path: &Path, errors: &mut Errors) {
    let volumes = validate_volumes(spec, pod, path, errors);
    validate_resource_claims(spec, pod, path, errors);
    let claims =
        items(spec, "resourceClaims").map(|claim| text(&claim["name"])).filter(|name| !name.is_empty());
    let context = PodContext { spec, volumes, claims: claims.collect() };
    validate_containers(&context, path, errors);
    validate_init_containers(&context, path, errors);
    ephemeral_container::validate(&context, path, errors);
    validate_pod_resources(spec, &context.claims, path, errors);
    validate_host_network_ports(spec, pod.is_object(), path, errors);
    require_one_of(spec, "restartPolicy", path, &["Always", "OnFailure", "Never"], errors);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    require_one_of(spec, "dnsPolicy", path, &policies, errors);
    validate_labels(&spec["nodeSelector"], &path.child("nodeSelector"), errors);
    validate_pod_context(spec, path, errors);
    validate_affinity(&spec["affinity"], &path.child("affinity"), errors);
    validate_dns_config(spec, path, errors);
    validate_gates(spec, path, errors);
    validate_spread(spec, path, errors);
    validate_host_processes(spec, path, errors);
    validate_host_users(spec, path, errors);
    validate_host_name(spec, path, errors);
    validate_optional_name(spec, "serviceAccountName", NameForm::Subdomain, path, errors);
    validate_optional_name(spec, "nodeName", NameForm::Subdomain, path, errors);
    let deadline = &spec["activeDeadlineSeconds"];
    if deadline.as_i64().is_some_and(|seconds| !(1..=i64::from(i32::MAX)).contains(&seconds)) {
        let at = path.child("activeDeadlineSeconds");
        errors.invalid(&at, deadline, "must be between 1 and 2147483647, inclusive");
    }
    validate_optional_name(spec, "hostname", NameForm::Label, path, errors);
    validate_optional_name(spec, "subdomain", NameForm::Label, path, errors);
    validate_tolerations(spec, path, errors);
    validate_host_aliases(spec, path, errors);
    validate_optional_name(spec, "priorityClassName", NameForm::Subdomain, path, errors);
    if let Some(class) = spec["runtimeClassName"].as_str() {
        validate_name(class, NameForm::Subdomain, &path.child("runtimeClassName"), errors);
    }
    if !spec["preemptionPolicy"].is_null() {
        require_one_of(spec, "preemptionPolicy", path, &["PreemptLowerPriority", "Never"], errors);
    }
    if spec["overhead"].is_object() {
        let overhead = json!({"limits": spec["overhead"]});
        let at = path.child("overhead");
        validate_requirements(&overhead, Owner::Container, &BTreeSet::new(), &at, errors);
    }
    validate_os(spec, path, errors);
    validate_file_volumes(&context.volumes, spec, path, errors);
}

/// Checks `resourceClaims`.
fn validate_resource_claims(spec: &Value, pod: &Value, path: &Path, errors: &mut Errors) {
    let mut names = BTreeSet::new();
    for (i, claim) in items(spec, "resourceClaims").enumerate() {
        let at = path.child("resourceClaims").index(i);
        if pod["annotations"][MIRROR].is_string() {
            errors.forbidden(&Path::new(""), "static pods do not support resource claims");
            continue;
        }
        let name = text(&claim["name"]);
        if require_text(claim, "name", &at, errors) {
            if names.contains(name) {
                errors.duplicate(&at.child("name"), &name.into());
            } else {
                validate_optional_name(claim, "name", NameForm::Label, &at, errors);
                names.insert(name);
            }
        }
        let fields = ["resourceClaimName", "resourceClaimTemplateName"];
        match fields.iter().filter(|field| claim[**field].is_string()).count() {
            0 => {
                let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errors.invalid(&at, &shown_claim(claim), detail);
            }
            1 => {}
            _ => {
                let detail =
                    "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                errors.invalid(&at, &shown_claim(claim), detail);
            }
        }
        for field in fields {
            if let Some(name) = claim[field].as_str() {
                validate_name(name, NameForm::Subdomain, &at.child(field), errors);
            }
        }
    }
}

/// A claim as upstream shows it: its internal type has other names of fields.
fn shown_claim(claim: &Value) -> Value {
    json!({
        "Name": text(&claim["name"]),
        "ResourceClaimName": claim["resourceClaimName"],
        "ResourceClaimTemplateName": claim["resourceClaimTemplateName"],
    })
}

/// Checks `readinessGates` and `schedulingGates`.
fn validate_gates(spec: &Value, path: &Path, errors: &mut Errors) {
    for (i, gate) in items(spec, "readinessGates").enumerate() {
        let at = path.child("readinessGates").index(i).child("conditionType");
        validate_name(text(&gate["conditionType"]), NameForm::LabelKey, &at, errors);
    }
    let mut seen = BTreeSet::new();
    for (i, gate) in items(spec, "schedulingGates").enumerate() {
        let (at, name) = (path.child("schedulingGates").index(i), text(&gate["name"]));
        validate_name(name, NameForm::LabelKey, &at, errors);
        if !seen.insert(name) {
            errors.duplicate(&at, &name.into());
        }
    }
}

/// A pod with users of its own shares no other namespace of the node.
fn validate_host_users(spec: &Value, path: &Path, errors: &mut Errors) {
    if spec["hostUsers"] != false {
        return;
    }
    let detail = "when `hostUsers` is false";
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec[field] == true {
            errors.forbidden(&path.child(shown), detail);
        }
    }
    for (container, at) in containers(spec, path) {
        if items(container, "volumeDevices").next().is_some() {
            errors.forbidden(&at.child("volumeDevices"), detail);
        }
    }
}

fn validate_host_name(spec: &Value, path: &Path, errors: &mut Errors) {
    let Some(name) = spec["hostnameOverride"].as_str() else { return };
    let at = path.child("hostnameOverride");
    for field in ["setHostnameAsFQDN", "hostNetwork"] {
        if spec[field] == true {
            errors.forbidden(&at, &format!("may not be specified when {field} is true"));
        }
    }
    if name.len() > MAX_HOST_NAME_LENGTH {
        errors.too_long(&at, MAX_HOST_NAME_LENGTH);
    }
    validate_name(name, NameForm::Subdomain, &at, errors);
}

/// A variable's file is in an empty directory of the pod.
fn validate_file_volumes(volumes: &Volumes<'_>, spec: &Value, path: &Path, errors: &mut Errors) {
    for (container, at) in containers(spec, path) {
        for (i, variable) in items(container, "env").enumerate() {
            let key = &variable["valueFrom"]["fileKeyRef"];
            if !key.is_object() {
                continue;
            }
            let name = text(&key["volumeName"]);
            let at = at.child("env").index(i).child("valueFrom").child("fileKeyRef").child("volumeName");
            match volumes.get(name) {
                None => errors.not_found(&at, &name.into(), ""),
                Some(volume) if !volume["emptyDir"].is_object() => {
                    errors.invalid(&at, &name.into(), "referenced volume must be of type emptyDir");
                }
                Some(_) => {}
            }
        }
    }
}
