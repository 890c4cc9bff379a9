//! The checks of the Pod Security Standards: which hold at which level since which version.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use super::policy::{Level, Standard};
use super::{container, spec};

/// What a pod has that a standard forbids.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) reason: String,
    detail: String,
}

impl Finding {
    pub(super) fn new(reason: impl Into<String>, detail: impl Into<String>) -> Option<Finding> {
        Some(Finding { reason: reason.into(), detail: detail.into() })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason, self.detail)
    }
}

/// A pod or a template of one.
#[derive(Clone, Copy)]
pub(super) struct Pod<'a> {
    pub(super) annotations: &'a Value,
    pub(super) spec: &'a Value,
}

impl<'a> Pod<'a> {
    pub(super) fn containers(self) -> impl Iterator<Item = &'a Value> {
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        lists.into_iter().flat_map(move |list| self.spec[list].as_array()).flatten()
    }

    /// Names of the containers for which something holds.
    pub(super) fn containers_where(self, mut holds: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
        let bad = self.containers().filter(|container| holds(container));
        bad.map(|container| container["name"].as_str().unwrap_or_default()).collect()
    }

    pub(super) fn is_windows(self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// Root in a user namespace is nobody outside.
    pub(super) fn in_user_namespace(self) -> bool {
        self.spec["hostUsers"] == false
    }
}

type Check = fn(Pod<'_>) -> Option<Finding>;

struct Row {
    level: Level,
    /// First and last minor version.
    since: u32,
    until: u32,
    check: Check,
    name: &'static str,
    /// The check of the level below that this one says more about.
    instead_of: &'static str,
}

const fn row(level: Level, name: &'static str, since: u32, until: u32, check: Check) -> Row {
    Row { level, since, until, check, name, instead_of: "" }
}

const fn over(name: &'static str, since: u32, until: u32, check: Check, instead_of: &'static str) -> Row {
    Row { level: Level::Restricted, since, until, check, name, instead_of }
}

const LATEST: u32 = 35;
const ON: u32 = u32::MAX;

/// In the order in which findings are told.
static CHECKS: &[Row] = &[
    row(Level::Baseline, "appArmorProfile", 0, ON, container::app_armor),
    row(Level::Baseline, "capabilities_baseline", 0, ON, container::capabilities_baseline),
    row(Level::Baseline, "hostNamespaces", 0, ON, spec::host_namespaces),
    row(Level::Baseline, "hostPathVolumes", 0, ON, spec::host_paths),
    row(Level::Baseline, "hostPorts", 0, ON, container::host_ports),
    row(Level::Baseline, "hostProbesAndHostLifecycle", 34, ON, container::host_probes),
    row(Level::Baseline, "privileged", 0, ON, container::privileged),
    row(Level::Baseline, "procMount", 0, 34, container::proc_mount),
    row(Level::Baseline, "procMount", 35, ON, |pod| {
        if pod.in_user_namespace() { None } else { container::proc_mount(pod) }
    }),
    row(Level::Baseline, "seLinuxOptions", 0, 30, |pod| {
        container::se_linux(pod, &container::SE_LINUX_TYPES[..3])
    }),
    row(Level::Baseline, "seLinuxOptions", 31, ON, |pod| {
        container::se_linux(pod, &container::SE_LINUX_TYPES)
    }),
    row(Level::Baseline, "seccompProfile_baseline", 0, 18, container::seccomp_annotations),
    row(Level::Baseline, "seccompProfile_baseline", 19, ON, container::seccomp_baseline),
    row(Level::Baseline, "sysctls", 0, 26, |pod| spec::sysctls(pod, &spec::SYSCTLS[..5])),
    row(Level::Baseline, "sysctls", 27, 28, |pod| spec::sysctls(pod, &spec::SYSCTLS[..6])),
    row(Level::Baseline, "sysctls", 29, 31, |pod| spec::sysctls(pod, &spec::SYSCTLS[..10])),
    row(Level::Baseline, "sysctls", 32, ON, |pod| spec::sysctls(pod, &spec::SYSCTLS)),
    row(Level::Baseline, "windowsHostProcess", 0, ON, container::host_process),
    row(Level::Restricted, "allowPrivilegeEscalation", 8, 24, container::escalation),
    row(Level::Restricted, "allowPrivilegeEscalation", 25, ON, |pod| {
        if pod.is_windows() { None } else { container::escalation(pod) }
    }),
    over("capabilities_restricted", 22, 24, container::capabilities_restricted, "capabilities_baseline"),
    over(
        "capabilities_restricted",
        25,
        ON,
        |pod| if pod.is_windows() { None } else { container::capabilities_restricted(pod) },
        "capabilities_baseline",
    ),
    over("procMount_restricted", 35, ON, container::proc_mount, "procMount"),
    over("restrictedVolumes", 0, ON, spec::volumes, "hostPathVolumes"),
    row(Level::Restricted, "runAsNonRoot", 0, 34, container::run_as_non_root),
    row(Level::Restricted, "runAsNonRoot", 35, ON, |pod| {
        if pod.in_user_namespace() { None } else { container::run_as_non_root(pod) }
    }),
    row(Level::Restricted, "runAsUser", 23, 34, container::run_as_user),
    row(Level::Restricted, "runAsUser", 35, ON, |pod| {
        if pod.in_user_namespace() { None } else { container::run_as_user(pod) }
    }),
    over("seccompProfile_restricted", 19, 24, container::seccomp_restricted, "seccompProfile_baseline"),
    over(
        "seccompProfile_restricted",
        25,
        ON,
        |pod| if pod.is_windows() { None } else { container::seccomp_restricted(pod) },
        "seccompProfile_baseline",
    ),
];

/// What a pod, or a template, has against a standard.
pub(super) fn evaluate(standard: Standard, pod: &Value) -> Vec<Finding> {
    if standard.level == Level::Privileged {
        return Vec::new();
    }
    let minor = standard.minor.unwrap_or(LATEST).min(LATEST);
    let holds = |row: &&Row| row.level <= standard.level && (row.since..=row.until).contains(&minor);
    let replaced: Vec<&str> = CHECKS.iter().filter(holds).map(|row| row.instead_of).collect();
    let pod = Pod { annotations: &pod["metadata"]["annotations"], spec: &pod["spec"] };
    let rows = CHECKS.iter().filter(holds).filter(|row| !replaced.contains(&row.name));
    rows.filter_map(|row| (row.check)(pod)).collect()
}

/// `"a", "b"`.
pub(super) fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect();
    all.join(", ")
}

pub(super) fn plural(word: &str, count: usize) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

/// `container "a"` or `containers "a", "b"`.
pub(super) fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", names.len()), quoted(names))
}

/// Who set something: the pod, some of its containers, or both; nothing if nobody did.
pub(super) fn setters(pod: bool, names: &[&str]) -> Option<String> {
    match (pod, names) {
        (false, []) => None,
        (true, []) => Some("pod".to_owned()),
        (false, names) => Some(containers(names)),
        (true, names) => Some(format!("pod and {}", containers(names))),
    }
}

/// The field of the security context of the pod if it is bad, and the containers whose own is.
pub(super) fn security<'a>(
    pod: Pod<'a>,
    field: &str,
    mut bad: impl FnMut(&'a Value) -> bool,
) -> (bool, Vec<&'a str>) {
    let mut is_bad = |owner: &'a Value| {
        let value = &owner["securityContext"][field];
        !value.is_null() && bad(value)
    };
    let of_pod = is_bad(pod.spec);
    (of_pod, pod.containers_where(is_bad))
}

pub(super) type Texts = BTreeSet<String>;

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
