//! Pods of Windows nodes: their security options, and what pods of each operating system may not have.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::container_lists::containers;
use crate::names::{NameForm, validate_name};

const MAX_SPECIFICATION_BYTES: usize = 64 << 10;
const MAX_DOMAIN_LENGTH: usize = 256;
const MAX_USER_LENGTH: usize = 104;

/// Fields of a pod's security context that upstream refuses on Windows, in its order. `true` for those that are fields of the
/// specification itself.
const POD_FIELDS: [(&str, bool); 15] = [
    ("appArmorProfile", false),
    ("seLinuxOptions", false),
    ("hostUsers", true),
    ("hostPID", true),
    ("hostIPC", true),
    ("seccompProfile", false),
    ("fsGroup", false),
    ("fsGroupChangePolicy", false),
    ("sysctls", false),
    ("shareProcessNamespace", true),
    ("runAsUser", false),
    ("runAsGroup", false),
    ("supplementalGroups", false),
    ("supplementalGroupsPolicy", false),
    ("seLinuxChangePolicy", false),
];
const CONTAINER_FIELDS: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// Checks `windowsOptions`.
pub(super) fn validate_windows_options(options: &Value, path: &Path, errors: &mut Errors) {
    if let Some(name) = options["gmsaCredentialSpecName"].as_str() {
        validate_name(name, NameForm::Subdomain, &path.child("gmsaCredentialSpecName"), errors);
    }
    if let Some(text) = options["gmsaCredentialSpec"].as_str() {
        let at = path.child("gmsaCredentialSpec");
        if text.is_empty() {
            errors.invalid(&at, &"".into(), "gmsaCredentialSpec cannot be an empty string");
        } else if text.len() > MAX_SPECIFICATION_BYTES {
            errors.invalid(&at, &text.into(), "gmsaCredentialSpec size must be under 64 KiB");
        }
    }
    if let Some(name) = options["runAsUserName"].as_str() {
        let at = path.child("runAsUserName");
        user_name_problems(name).iter().for_each(|problem| errors.invalid(&at, &name.into(), problem));
    }
}

/// What is wrong with `[domain\]user`.
fn user_name_problems(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string".to_owned()];
    }
    if name.contains(|c: char| c.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters".to_owned()];
    }
    let (domain, user) = match name.split_once('\\') {
        Some((_, rest)) if rest.contains('\\') => {
            return vec!["runAsUserName cannot contain more than one backslash".to_owned()];
        }
        Some((domain, user)) => (Some(domain), user),
        None => (None, name),
    };
    let checks = [
        (
            domain.is_some_and(|domain| domain.len() >= MAX_DOMAIN_LENGTH),
            format!("runAsUserName's Domain length must be under {MAX_DOMAIN_LENGTH} characters"),
        ),
        (
            domain.is_some_and(|domain| !is_net_bios(domain) && !is_dns(domain)),
            "runAsUserName's Domain doesn't match the NetBios nor the DNS format".to_owned(),
        ),
        (user.is_empty(), "runAsUserName's User cannot be empty".to_owned()),
        (
            user.len() > MAX_USER_LENGTH,
            format!("runAsUserName's User length must not be longer than {MAX_USER_LENGTH} characters"),
        ),
        (
            !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')),
            "runAsUserName's User cannot contain only periods or spaces".to_owned(),
        ),
        (
            user.contains(|c: char| "\"/\\:;|=,+*?<>@[]".contains(c)),
            "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]".to_owned(),
        ),
    ];
    checks.into_iter().filter(|(is_bad, _)| *is_bad).map(|(_, problem)| problem).collect()
}

fn is_net_bios(domain: &str) -> bool {
    let count = domain.chars().count();
    (1..=15).contains(&count)
        && !domain.starts_with('.')
        && !domain.contains(|c: char| "\\/:*?\"<>|".contains(c))
}

fn is_dns(domain: &str) -> bool {
    let is_label = |label: &str| {
        let ends = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        label.len() <= 63
            && ends(label.bytes().next())
            && ends(label.bytes().next_back())
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    domain.split('.').all(is_label)
}

/// Checks that all containers are the host's processes, or none.
pub(super) fn validate_host_processes(spec: &Value, path: &Path, errors: &mut Errors) {
    let of = |context: &Value| context["windowsOptions"]["hostProcess"].as_bool();
    let of_pod = of(&spec["securityContext"]);
    let (mut all, mut count) = (0, 0);
    for (container, at) in containers(spec, path) {
        all += 1;
        let own = of(&container["securityContext"]);
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let detail = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            let at = at.child("securityContext").child("windowsOptions").child("hostProcess");
            errors.invalid(&at, &own.into(), &detail);
        }
        count += usize::from(own.or(of_pod) == Some(true));
    }
    if count == 0 {
        return;
    }
    if count != all {
        let detail =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.invalid(path, &json!(""), detail);
    }
    if spec["hostNetwork"] != true {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.invalid(&path.child("hostNetwork"), &json!(false), detail);
    }
}

/// Checks `os`, and that the pod has no fields of the other operating system.
pub(super) fn validate_os(spec: &Value, path: &Path, errors: &mut Errors) {
    if !spec["os"].is_object() {
        return;
    }
    match spec["os"]["name"].as_str().unwrap_or_default() {
        "" => errors.required(&path.child("os").child("name"), ""),
        "linux" => forbid_windows_options(spec, path, errors),
        "windows" => forbid_linux_fields(spec, path, errors),
        other => errors.not_supported(&path.child("os"), &other.into(), &["linux", "windows"]),
    }
}

fn forbid_windows_options(spec: &Value, path: &Path, errors: &mut Errors) {
    let pod = std::iter::once((spec, path.clone()));
    for (holder, at) in pod.chain(containers(spec, path)) {
        if holder["securityContext"]["windowsOptions"].is_object() {
            let at = at.child("securityContext").child("windowsOptions");
            errors.forbidden(&at, "windows options cannot be set for a linux pod");
        }
    }
}

fn forbid_linux_fields(spec: &Value, path: &Path, errors: &mut Errors) {
    let detail = "cannot be set for a windows pod";
    for (field, is_own) in POD_FIELDS {
        let value = if is_own { &spec[field] } else { &spec["securityContext"][field] };
        let is_set = match field {
            "hostPID" | "hostIPC" => value == true,
            "sysctls" => value.as_array().is_some_and(|all| !all.is_empty()),
            _ => !value.is_null(),
        };
        if is_set {
            let at = if is_own { path.child(field) } else { path.child("securityContext").child(field) };
            errors.forbidden(&at, detail);
        }
    }
    for (container, at) in containers(spec, path) {
        for field in CONTAINER_FIELDS {
            if !container["securityContext"][field].is_null() {
                errors.forbidden(&at.child("securityContext").child(field), detail);
            }
        }
    }
}
