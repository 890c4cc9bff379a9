//! Annotations that came before fields of a pod: seccomp, AppArmor, the mirror of a node's own pod, the cost of its deletion.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::container_lists::{CONTAINER_LISTS, containers};
use crate::kinds::file_path::validate_descending;
use crate::kinds::security_context::validate_app_armor;
use crate::value::{items_mut, text};

/// The mirror of a pod that a node runs from a file.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
pub(super) const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub(super) const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
pub(super) const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Checks the annotations of a pod or of a template.
pub(super) fn validate_pod_annotations(holder: &Value, spec_at: &Path, path: &Path, errors: &mut Errors) {
    let (annotations, spec) = (&holder["metadata"]["annotations"], &holder["spec"]);
    if !annotations.is_object() {
        return;
    }
    if let Some(mirrored) = annotations[MIRROR].as_str()
        && text(&spec["nodeName"]).is_empty()
    {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errors.invalid(&path.key(MIRROR), &mirrored.into(), detail);
    }
    if let Some(cost) = annotations[DELETION_COST].as_str()
        && !is_cost(cost)
    {
        errors.invalid(&path.key(DELETION_COST), &cost.into(), "must be a 32bit integer");
    }
    for (key, value) in annotations.as_object().into_iter().flatten() {
        if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) {
            validate_seccomp(text(value), &path.child(key), errors);
        }
    }
    for (key, value) in annotations.as_object().into_iter().flatten() {
        let Some(name) = key.strip_prefix(APP_ARMOR) else { continue };
        if !containers(spec, spec_at).any(|(container, _)| container["name"] == name) {
            errors.invalid(&path.key(key), &name.into(), "container not found");
        }
        let profile = text(value);
        let is_known = matches!(profile, "" | "runtime/default" | "unconfined");
        if !is_known && !profile.starts_with("localhost/") {
            let detail = format!("invalid AppArmor profile name: {profile:?}");
            errors.invalid(&path.key(key), value, &detail);
        }
    }
}

/// A 32 bit integer without leading zeros or a plus sign.
fn is_cost(cost: &str) -> bool {
    let digits = cost.strip_prefix('-').unwrap_or(cost);
    cost.parse::<i32>().is_ok() && (!digits.starts_with('0') || cost == "0") && !cost.starts_with('+')
}

fn validate_seccomp(profile: &str, path: &Path, errors: &mut Errors) {
    if matches!(profile, "runtime/default" | "docker/default" | "unconfined") {
        return;
    }
    match profile.strip_prefix("localhost/") {
        Some(file) => validate_descending(&file.into(), path, errors),
        None => errors.invalid(path, &profile.into(), "must be a valid seccomp profile"),
    }
}

/// Checks that annotations say the same as the fields that replaced them. `path` is that of the specification.
pub(super) fn validate_agreement(holder: &Value, path: &Path, errors: &mut Errors) {
    let (annotations, spec) = (&holder["metadata"]["annotations"], &holder["spec"]);
    if !annotations.is_object() {
        return;
    }
    let own = &spec["securityContext"];
    let context = path.child("securityContext");
    agree_on_seccomp(&annotations[SECCOMP_POD], &own["seccompProfile"], &context, errors);
    for (container, at) in containers(spec, path) {
        let annotation = &annotations[format!("{SECCOMP_CONTAINER}{}", text(&container["name"]))];
        let profile = &container["securityContext"]["seccompProfile"];
        agree_on_seccomp(annotation, profile, &at.child("securityContext"), errors);
    }
    if spec["os"]["name"] == "windows" {
        return;
    }
    for (container, at) in containers(spec, path) {
        let annotation = &annotations[format!("{APP_ARMOR}{}", text(&container["name"]))];
        let profile = match &container["securityContext"]["appArmorProfile"] {
            Value::Null => &own["appArmorProfile"],
            profile => profile,
        };
        let at = at.child("securityContext").child("appArmorProfile");
        agree(annotation, profile, &["runtime/default"], ("apparmor", &at), errors);
    }
}

fn agree_on_seccomp(annotation: &Value, profile: &Value, context: &Path, errors: &mut Errors) {
    let at = context.child("seccompProfile");
    agree(annotation, profile, &["runtime/default", "docker/default"], ("seccomp", &at), errors);
}

fn agree(
    annotation: &Value,
    profile: &Value,
    defaults: &[&str],
    (what, path): (&str, &Path),
    errors: &mut Errors,
) {
    let Some(annotation) = annotation.as_str() else { return };
    let is_same = match text(&profile["type"]) {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => defaults.contains(&annotation),
        "Localhost" => match annotation.strip_prefix("localhost/") {
            Some(name) if profile["localhostProfile"] != name => {
                let detail = format!("{what} profile in annotation and field must match");
                return errors.forbidden(&path.child("localhostProfile"), &detail);
            }
            found => found.is_some(),
        },
        _ => true,
    };
    if !is_same {
        let detail = format!("{what} type in annotation and field must match");
        errors.forbidden(&path.child("type"), &detail);
    }
}

/// The AppArmor profile that an annotation stands for; null if it stands for none.
pub(super) fn app_armor_profile(annotation: &str) -> Value {
    match annotation {
        "unconfined" => json!({"type": "Unconfined"}),
        "runtime/default" => json!({"type": "RuntimeDefault"}),
        _ => match annotation.strip_prefix("localhost/") {
            None | Some("") => Value::Null,
            Some(name) => json!({"type": "Localhost", "localhostProfile": name}),
        },
    }
}

/// Sets the AppArmor profiles of a new pod's containers that only annotations name.
pub(super) fn take_app_armor_annotations(pod: &mut Value) {
    let annotations = pod["metadata"]["annotations"].clone();
    let is_annotated =
        annotations.as_object().is_some_and(|all| all.keys().any(|key| key.starts_with(APP_ARMOR)));
    if !is_annotated || pod["spec"]["os"]["name"] == "windows" {
        return;
    }
    let of_pod = pod["spec"]["securityContext"]["appArmorProfile"].clone();
    for list in CONTAINER_LISTS {
        for container in items_mut(&mut pod["spec"], list) {
            let annotation = &annotations[format!("{APP_ARMOR}{}", text(&container["name"]))];
            let Some(annotation) = annotation.as_str() else { continue };
            let profile = app_armor_profile(annotation);
            let mut errors = Errors::default();
            validate_app_armor(&profile, &Path::new(""), &mut errors);
            let is_free = container["securityContext"]["appArmorProfile"].is_null();
            if is_free && profile.is_object() && errors.is_empty() && profile != of_pod {
                crate::value::set_default(container, "securityContext", json!({}));
                container["securityContext"]["appArmorProfile"] = profile;
            }
        }
    }
}
