//! The security contexts of pods and containers.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::mount::validate_descending;
use crate::value::{items, one_of, text};

const MAX_ID: i64 = i32::MAX as i64;
const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

/// Checks `spec.securityContext` of a pod.
pub(super) fn validate_pod_context(spec: &Value, path: &Path, errors: &mut Errors) {
    let (context, path) = (&spec["securityContext"], path.child("securityContext"));
    validate_ids(context, &["runAsUser", "runAsGroup", "fsGroup"], &path, errors);
    for (i, group) in items(context, "supplementalGroups").enumerate() {
        validate_id(group, &path.child("supplementalGroups").index(i), errors);
    }
    one_of(context, "fsGroupChangePolicy", &path, &["OnRootMismatch", "Always"], errors);
    validate_profiles(context, &path, errors);
    let mut seen = std::collections::HashSet::new();
    for (i, sysctl) in items(context, "sysctls").enumerate() {
        let at = path.child("sysctls").index(i).child("name");
        match text(&sysctl["name"]) {
            "" => errors.required(&at, ""),
            name if !is_sysctl(name) => {
                let detail = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
                errors.invalid(&at, &sysctl["name"], detail);
            }
            name if !seen.insert(name.replace('/', ".")) => errors.duplicate(&at, &sysctl["name"]),
            _ => {}
        }
    }
}

/// Checks `securityContext` of a container.
pub(super) fn validate_container_context(container: &Value, path: &Path, errors: &mut Errors) {
    let (context, path) = (&container["securityContext"], path.child("securityContext"));
    validate_ids(context, &["runAsUser", "runAsGroup"], &path, errors);
    one_of(context, "procMount", &path, &["Default", "Unmasked"], errors);
    validate_profiles(context, &path, errors);
    if context["allowPrivilegeEscalation"] == false {
        if context["privileged"] == true {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid_whole(&path, detail);
        }
        if items(&context["capabilities"], "add").any(|name| name == "CAP_SYS_ADMIN") {
            let detail =
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid_whole(&path, detail);
        }
    }
}

fn validate_ids(context: &Value, fields: &[&str], path: &Path, errors: &mut Errors) {
    fields.iter().for_each(|field| validate_id(&context[*field], &path.child(field), errors));
}

fn validate_id(id: &Value, path: &Path, errors: &mut Errors) {
    if id.as_i64().is_some_and(|id| !(0..=MAX_ID).contains(&id)) {
        errors.invalid(path, id, "must be between 0 and 2147483647, inclusive");
    }
}

fn validate_profiles(context: &Value, path: &Path, errors: &mut Errors) {
    for (field, name) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
        let (profile, at) = (&context[field], path.child(field));
        if !profile.is_object() {
            continue;
        }
        let local = &profile["localhostProfile"];
        if profile["type"].is_null() {
            errors.required(&at.child("type"), &format!("type is required when {field} is set"));
        }
        one_of(profile, "type", &at, &PROFILES, errors);
        if profile["type"] == "Localhost" {
            if text(local).is_empty() {
                let detail = format!("must be set when {name} type is Localhost");
                errors.required(&at.child("localhostProfile"), &detail);
            } else if field == "seccompProfile" {
                validate_descending(local, &at.child("localhostProfile"), errors);
            }
        } else if !local.is_null() {
            let detail = format!("can only be set when {name} type is Localhost");
            errors.invalid(&at.child("localhostProfile"), local, &detail);
        }
    }
}

/// The name of a kernel parameter: words with dots or slashes between them.
fn is_sysctl(name: &str) -> bool {
    let is_word = |word: &str| {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_');
        let ends = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        ends(word.bytes().next()) && ends(word.bytes().next_back()) && word.bytes().all(inner)
    };
    name.len() <= 253 && name.split(['.', '/']).all(is_word)
}
