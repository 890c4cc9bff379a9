//! Roles and bindings.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::value::{items, items_mut, set_default};

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn validate_role(object: &Value, errors: &mut Errors) {
    for (i, rule) in items(object, "rules").enumerate() {
        let path = Path::new("rules").index(i);
        if items(rule, "verbs").next().is_none() {
            errors.required(&path.child("verbs"), "verbs must contain at least one value");
        }
        let urls = items(rule, "nonResourceURLs").next().is_some();
        if urls {
            if object["metadata"]["namespace"].is_string() {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                errors.invalid(&path.child("nonResourceURLs"), &rule["nonResourceURLs"], detail);
            }
            if items(rule, "resources").next().is_some() || items(rule, "apiGroups").next().is_some() {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(&path.child("nonResourceURLs"), &rule["nonResourceURLs"], detail);
            }
            continue;
        }
        if items(rule, "apiGroups").next().is_none() {
            errors.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if items(rule, "resources").next().is_none() {
            errors.required(&path.child("resources"), "resource rules must supply at least one resource");
        }
    }
}

pub(super) fn default_binding(object: &mut Value) {
    if object["roleRef"].is_object() {
        set_default(&mut object["roleRef"], "apiGroup", GROUP);
    }
    for subject in items_mut(object, "subjects") {
        if subject["kind"] != "ServiceAccount" {
            set_default(subject, "apiGroup", GROUP);
        }
    }
}

pub(super) fn validate_binding(object: &Value, errors: &mut Errors) {
    let role = &object["roleRef"];
    let kinds: &[&str] =
        if object["metadata"]["namespace"].is_string() { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.iter().any(|kind| role["kind"] == *kind) {
        errors.not_supported(&Path::new("roleRef").child("kind"), &role["kind"], kinds);
    }
    for (i, subject) in items(object, "subjects").enumerate() {
        let path = Path::new("subjects").index(i);
        if subject["name"].as_str().is_none_or(str::is_empty) {
            errors.required(&path.child("name"), "");
        }
        match subject["kind"].as_str() {
            Some("ServiceAccount") if subject["namespace"].as_str().is_none_or(str::is_empty) => {
                errors.required(&path.child("namespace"), "");
            }
            Some("ServiceAccount" | "User" | "Group") => {}
            _ => errors.not_supported(
                &path.child("kind"),
                &subject["kind"],
                &["ServiceAccount", "User", "Group"],
            ),
        }
    }
}

pub(super) fn validate_binding_update(new: &Value, old: &Value, errors: &mut Errors) {
    if new["roleRef"] != old["roleRef"] {
        errors.invalid(&Path::new("roleRef"), &new["roleRef"], "cannot change roleRef");
    }
}
