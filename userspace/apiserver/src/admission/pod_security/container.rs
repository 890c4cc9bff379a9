//! Checks of what containers, or the pod for all of them, set in their security contexts.

use serde_json::Value;

use super::finding::{Finding, Pod, Texts, containers, plural, quoted, security, setters, text};

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// The last is allowed since v1.31.
pub(super) const SE_LINUX_TYPES: [&str; 4] =
    ["container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a str> {
    value[name].as_array().into_iter().flatten().filter_map(Value::as_str)
}

pub(super) fn app_armor(pod: Pod<'_>) -> Option<Finding> {
    let mut values = Texts::new();
    let (of_pod, bad) = security(pod, "appArmorProfile", |profile| {
        let kind = text(&profile["type"]);
        let bad = !matches!(kind.as_str(), "RuntimeDefault" | "Localhost");
        if bad {
            values.insert(kind);
        }
        bad
    });
    let annotations = pod.annotations.as_object().into_iter().flatten();
    let mut noted: Vec<String> = annotations
        .filter(|(key, _)| key.starts_with(APP_ARMOR))
        .map(|(key, value)| (key, text(value)))
        .filter(|(_, value)| {
            !(value.is_empty() || value == "runtime/default" || value.starts_with("localhost/"))
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    noted.sort();
    let mut who: Vec<String> = setters(of_pod, &bad).into_iter().collect();
    if !noted.is_empty() {
        who.push(plural("annotation", noted.len()));
    }
    if who.is_empty() {
        return None;
    }
    let values: Vec<String> = values.into_iter().chain(noted).collect();
    let detail = format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(&values));
    Finding::new(plural("forbidden AppArmor profile", values.len()), detail)
}

pub(super) fn capabilities_baseline(pod: Pod<'_>) -> Option<Finding> {
    let mut added = Texts::new();
    let bad = pod.containers_where(|container| {
        let capabilities = &container["securityContext"]["capabilities"];
        let before = added.len();
        let mut bad = false;
        for capability in list(capabilities, "add").filter(|name| !CAPABILITIES.contains(name)) {
            added.insert(capability.to_owned());
            bad = true;
        }
        bad || added.len() > before
    });
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not include {} in securityContext.capabilities.add",
        containers(&bad),
        quoted(&added)
    );
    Finding::new("non-default capabilities", detail)
}

pub(super) fn capabilities_restricted(pod: Pod<'_>) -> Option<Finding> {
    let capabilities = |container: &'_ Value| container["securityContext"]["capabilities"].clone();
    let keeping =
        pod.containers_where(|container| !list(&capabilities(container), "drop").any(|c| c == "ALL"));
    let mut added = Texts::new();
    let adding = pod.containers_where(|container| {
        let own: Vec<String> = list(&capabilities(container), "add")
            .filter(|name| *name != "NET_BIND_SERVICE")
            .map(str::to_owned)
            .collect();
        let bad = !own.is_empty();
        added.extend(own);
        bad
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details
            .push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeping)));
    }
    if !adding.is_empty() {
        let what = quoted(&added);
        details.push(format!(
            "{} must not include {what} in securityContext.capabilities.add",
            containers(&adding)
        ));
    }
    if details.is_empty() { None } else { Finding::new("unrestricted capabilities", details.join("; ")) }
}

pub(super) fn host_ports(pod: Pod<'_>) -> Option<Finding> {
    let mut ports = Texts::new();
    let bad = pod.containers_where(|container| {
        let all = container["ports"].as_array().into_iter().flatten();
        let own: Vec<i64> =
            all.filter_map(|port| port["hostPort"].as_i64()).filter(|port| *port != 0).collect();
        ports.extend(own.iter().map(ToString::to_string));
        !own.is_empty()
    });
    if bad.is_empty() {
        return None;
    }
    let verb = if bad.len() == 1 { "uses" } else { "use" };
    let what = plural("hostPort", ports.len());
    let ports = ports.into_iter().collect::<Vec<_>>().join(", ");
    Finding::new("hostPort", format!("{} {verb} {what} {ports}", containers(&bad)))
}

pub(super) fn host_probes(pod: Pod<'_>) -> Option<Finding> {
    let mut hosts = Texts::new();
    let mut bad = pod.containers_where(|container| {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|probe| &container[probe]);
        let hooks = ["postStart", "preStop"].map(|hook| &container["lifecycle"][hook]);
        let own: Vec<String> = probes
            .iter()
            .chain(&hooks)
            .flat_map(|action| ["httpGet", "tcpSocket"].map(|form| text(&action[form]["host"])))
            .filter(|host| !host.is_empty())
            .collect();
        let any = !own.is_empty();
        hosts.extend(own);
        any
    });
    if bad.is_empty() {
        return None;
    }
    bad.sort_unstable();
    let verb = if bad.len() == 1 { "uses" } else { "use" };
    let what = plural("probe or lifecycle host", hosts.len());
    Finding::new("probe or lifecycle host", format!("{} {verb} {what} {}", containers(&bad), quoted(&hosts)))
}

pub(super) fn privileged(pod: Pod<'_>) -> Option<Finding> {
    let bad = pod.containers_where(|container| container["securityContext"]["privileged"] == true);
    if bad.is_empty() {
        return None;
    }
    Finding::new("privileged", format!("{} must not set securityContext.privileged=true", containers(&bad)))
}

pub(super) fn proc_mount(pod: Pod<'_>) -> Option<Finding> {
    let mut kinds = Texts::new();
    let bad = pod.containers_where(|container| {
        let kind = &container["securityContext"]["procMount"];
        let bad = !kind.is_null() && kind != "Default";
        if bad {
            kinds.insert(text(kind));
        }
        bad
    });
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must not set securityContext.procMount to {}", containers(&bad), quoted(&kinds));
    Finding::new("procMount", detail)
}

pub(super) fn se_linux(pod: Pod<'_>, allowed: &[&str]) -> Option<Finding> {
    let (mut types, mut user, mut role) = (Texts::new(), false, false);
    let (of_pod, bad) = security(pod, "seLinuxOptions", |options| {
        let kind = text(&options["type"]);
        let set = |field: &str| !text(&options[field]).is_empty();
        let bad_type = !kind.is_empty() && !allowed.contains(&kind.as_str());
        let bad = bad_type || set("user") || set("role");
        user |= set("user");
        role |= set("role");
        if bad_type {
            types.insert(kind);
        }
        bad
    });
    let who = setters(of_pod, &bad)?;
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!("{} {}", plural("type", types.len()), quoted(&types)));
    }
    what.extend(user.then(|| "user may not be set".to_owned()));
    what.extend(role.then(|| "role may not be set".to_owned()));
    Finding::new(
        "seLinuxOptions",
        format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")),
    )
}

/// Before v1.19 profiles were annotations.
pub(super) fn seccomp_annotations(pod: Pod<'_>) -> Option<Finding> {
    let of_containers =
        pod.containers().map(|container| format!("{SECCOMP_CONTAINER}{}", text(&container["name"])));
    let mut bad = Texts::new();
    for key in std::iter::once(SECCOMP_POD.to_owned()).chain(of_containers) {
        let Some(value) = pod.annotations.get(&key).map(text) else { continue };
        if !(value == "runtime/default" || value == "docker/default" || value.starts_with("localhost/")) {
            bad.insert(format!("{key}={value:?}"));
        }
    }
    if bad.is_empty() {
        return None;
    }
    let what = plural("annotation", bad.len());
    let bad = bad.into_iter().collect::<Vec<_>>().join(", ");
    Finding::new("seccompProfile", format!("forbidden {what} {bad}"))
}

fn is_good_profile(profile: &Value) -> bool {
    matches!(profile["type"].as_str(), Some("Localhost" | "RuntimeDefault"))
}

pub(super) fn seccomp_baseline(pod: Pod<'_>) -> Option<Finding> {
    let mut values = Texts::new();
    let (of_pod, bad) = security(pod, "seccompProfile", |profile| {
        let bad = !is_good_profile(profile);
        if bad {
            values.insert(text(&profile["type"]));
        }
        bad
    });
    let who = setters(of_pod, &bad)?;
    let what = quoted(&values);
    Finding::new(
        "seccompProfile",
        format!("{who} must not set securityContext.seccompProfile.type to {what}"),
    )
}

pub(super) fn seccomp_restricted(pod: Pod<'_>) -> Option<Finding> {
    if let Some(finding) = seccomp_baseline(pod) {
        return Some(finding);
    }
    let of_pod = is_good_profile(&pod.spec["securityContext"]["seccompProfile"]);
    let unset = |container: &Value| container["securityContext"]["seccompProfile"].is_null();
    let bad = pod.containers_where(|container| !of_pod && unset(container));
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        containers(&bad)
    );
    Finding::new("seccompProfile", detail)
}

pub(super) fn host_process(pod: Pod<'_>) -> Option<Finding> {
    let (of_pod, bad) = security(pod, "windowsOptions", |options| options["hostProcess"] == true);
    let who = setters(of_pod, &bad)?;
    Finding::new("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

pub(super) fn escalation(pod: Pod<'_>) -> Option<Finding> {
    let bad =
        pod.containers_where(|container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&bad));
    Finding::new("allowPrivilegeEscalation != false", detail)
}

pub(super) fn run_as_non_root(pod: Pod<'_>) -> Option<Finding> {
    const REASON: &str = "runAsNonRoot != true";
    let (of_pod, bad) = security(pod, "runAsNonRoot", |value| value == false);
    if let Some(who) = setters(of_pod, &bad) {
        return Finding::new(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let set = |owner: &Value| owner["securityContext"]["runAsNonRoot"] == true;
    let bad = pod.containers_where(|container| !set(pod.spec) && !set(container));
    if bad.is_empty() {
        return None;
    }
    Finding::new(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&bad)))
}

pub(super) fn run_as_user(pod: Pod<'_>) -> Option<Finding> {
    let (of_pod, bad) = security(pod, "runAsUser", |user| user == 0);
    let who = setters(of_pod, &bad)?;
    Finding::new("runAsUser=0", format!("{who} must not set runAsUser=0"))
}
