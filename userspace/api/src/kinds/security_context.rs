//! The security contexts of pods and containers.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::file_path::validate_descending;
use crate::kinds::windows::validate_windows_options;
use crate::value::{internal, items, one_of, text};

const MAX_ID: i64 = i32::MAX as i64;
const MAX_PROFILE_LENGTH: usize = 4_095;
const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
/// Kernel parameters of the network's namespace and of that for messages, by their beginnings.
const NETWORK_SYSCTLS: [&str; 1] = ["net."];
const MESSAGE_SYSCTLS: [&str; 4] = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];

/// Checks `spec.securityContext` of a pod.
pub(super) fn validate_pod_context(spec: &Value, path: &Path, errors: &mut Errors) {
    let (context, path) = (&spec["securityContext"], path.child("securityContext"));
    if !context.is_object() {
        return;
    }
    validate_ids(context, &["fsGroup", "runAsUser", "runAsGroup"], &path, errors);
    for (i, group) in items(context, "supplementalGroups").enumerate() {
        validate_id(group, &path.child("supplementalGroups").index(i), errors);
    }
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&path.child("shareProcessNamespace"), &true.into(), detail);
    }
    validate_sysctls(spec, &path.child("sysctls"), errors);
    one_of(context, "fsGroupChangePolicy", &path, &["Always", "OnRootMismatch"], errors);
    validate_seccomp(&context["seccompProfile"], &path.child("seccompProfile"), errors);
    validate_windows_options(&context["windowsOptions"], &path.child("windowsOptions"), errors);
    validate_app_armor(&context["appArmorProfile"], &path.child("appArmorProfile"), errors);
    one_of(context, "supplementalGroupsPolicy", &path, &["Merge", "Strict"], errors);
    one_of(context, "seLinuxChangePolicy", &path, &["Recursive"], errors);
}

fn validate_sysctls(spec: &Value, path: &Path, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (i, sysctl) in items(&spec["securityContext"], "sysctls").enumerate() {
        let (at, name) = (path.index(i).child("name"), text(&sysctl["name"]));
        if name.is_empty() {
            errors.required(&at, "");
        } else if !is_sysctl(name) {
            let detail = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.invalid(&at, &name.into(), detail);
        } else if seen.contains(name) {
            errors.duplicate(&at, &name.into());
        }
        let dotted = name.replace('/', ".");
        let is_one_of = |all: &[&str]| all.iter().any(|begin| dotted.starts_with(begin));
        if spec["hostNetwork"] == true && is_one_of(&NETWORK_SYSCTLS) {
            errors.invalid(&at, &name.into(), "may not be specified when 'hostNetwork' is true");
        } else if spec["hostIPC"] == true && is_one_of(&MESSAGE_SYSCTLS) {
            errors.invalid(&at, &name.into(), "may not be specified when 'hostIPC' is true");
        }
        seen.insert(name);
    }
}

/// Checks `securityContext` of a container. `host_users` is whether the pod has the node's users.
pub(super) fn validate_container_context(
    container: &Value,
    host_users: bool,
    path: &Path,
    errors: &mut Errors,
) {
    let (context, path) = (&container["securityContext"], path.child("securityContext"));
    if !context.is_object() {
        return;
    }
    validate_ids(context, &["runAsUser", "runAsGroup"], &path, errors);
    one_of(context, "procMount", &path, &["Default", "Unmasked"], errors);
    if host_users && context["procMount"] == "Unmasked" {
        let detail = "`hostUsers` must be false to use `Unmasked`";
        errors.invalid(&path.child("procMount"), &context["procMount"], detail);
    }
    validate_seccomp(&context["seccompProfile"], &path.child("seccompProfile"), errors);
    if context["allowPrivilegeEscalation"] == false {
        let shown = internal_context(context);
        if context["privileged"] == true {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(&path, &shown, detail);
        }
        for _ in items(&context["capabilities"], "add").filter(|name| *name == "CAP_SYS_ADMIN") {
            let detail =
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(&path, &shown, detail);
        }
    }
    validate_windows_options(&context["windowsOptions"], &path.child("windowsOptions"), errors);
    validate_app_armor(&context["appArmorProfile"], &path.child("appArmorProfile"), errors);
}

/// A container's context as upstream shows its internal type.
fn internal_context(context: &Value) -> Value {
    let profile = |field: &str| internal(&context[field], &["type", "localhostProfile"]);
    let linux = &context["seLinuxOptions"];
    let linux = if linux.is_object() {
        json!({
            "User": text(&linux["user"]),
            "Role": text(&linux["role"]),
            "Type": text(&linux["type"]),
            "Level": text(&linux["level"]),
        })
    } else {
        Value::Null
    };
    let windows = &context["windowsOptions"];
    let windows = if windows.is_object() {
        json!({
            "GMSACredentialSpecName": windows["gmsaCredentialSpecName"],
            "GMSACredentialSpec": windows["gmsaCredentialSpec"],
            "RunAsUserName": windows["runAsUserName"],
            "HostProcess": windows["hostProcess"],
        })
    } else {
        Value::Null
    };
    json!({
        "Capabilities": internal(&context["capabilities"], &["add", "drop"]),
        "Privileged": context["privileged"],
        "SELinuxOptions": linux,
        "WindowsOptions": windows,
        "RunAsUser": context["runAsUser"],
        "RunAsGroup": context["runAsGroup"],
        "RunAsNonRoot": context["runAsNonRoot"],
        "ReadOnlyRootFilesystem": context["readOnlyRootFilesystem"],
        "AllowPrivilegeEscalation": context["allowPrivilegeEscalation"],
        "ProcMount": context["procMount"],
        "SeccompProfile": profile("seccompProfile"),
        "AppArmorProfile": profile("appArmorProfile"),
    })
}

fn validate_ids(context: &Value, fields: &[&str], path: &Path, errors: &mut Errors) {
    fields.iter().for_each(|field| validate_id(&context[*field], &path.child(field), errors));
}

fn validate_id(id: &Value, path: &Path, errors: &mut Errors) {
    if id.as_i64().is_some_and(|id| !(0..=MAX_ID).contains(&id)) {
        errors.invalid(path, id, "must be between 0 and 2147483647, inclusive");
    }
}

fn validate_seccomp(profile: &Value, path: &Path, errors: &mut Errors) {
    if !profile.is_object() {
        return;
    }
    let (kind, local) = (text(&profile["type"]), &profile["localhostProfile"]);
    if kind.is_empty() {
        errors.required(&path.child("type"), "type is required when seccompProfile is set");
    } else {
        one_of(profile, "type", path, &PROFILES, errors);
    }
    let at = path.child("localhostProfile");
    match (kind == "Localhost", local.is_null()) {
        (true, true) => errors.required(&at, "must be set when seccomp type is Localhost"),
        (true, false) => validate_descending(local, &at, errors),
        (false, false) => {
            // As upstream shows its internal type.
            let shown = json!({"Type": kind, "LocalhostProfile": local});
            errors.invalid(&at, &shown, "can only be set when seccomp type is Localhost");
        }
        (false, true) => {}
    }
}

/// Checks an AppArmor profile: of a pod, of a container, or one that an annotation stands for.
pub(super) fn validate_app_armor(profile: &Value, path: &Path, errors: &mut Errors) {
    if !profile.is_object() {
        return;
    }
    let (local, at) = (&profile["localhostProfile"], path.child("localhostProfile"));
    match text(&profile["type"]) {
        "Localhost" => {
            let name = text(local);
            if local.is_null() {
                errors.required(&at, "must be set when AppArmor type is Localhost");
            } else if name.trim() != name {
                errors.invalid(&at, local, "must not be padded with whitespace");
            } else if name.is_empty() {
                errors.required(&at, "must be set when AppArmor type is Localhost");
            }
            if name.len() > MAX_PROFILE_LENGTH {
                errors.too_long(&at, MAX_PROFILE_LENGTH);
            }
        }
        "RuntimeDefault" | "Unconfined" if !local.is_null() => {
            errors.invalid(&at, local, "can only be set when AppArmor type is Localhost");
        }
        "RuntimeDefault" | "Unconfined" => {}
        "" => errors.required(&path.child("type"), "type is required when appArmorProfile is set"),
        _ => one_of(profile, "type", path, &PROFILES, errors),
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
