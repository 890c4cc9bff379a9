//! The checks of the Pod Security Standards: the level of each and the versions in which it applies.

use serde_json::Value;

use super::finding::{Finding, Pod};
use super::policy::{Level, Standard};
use super::{container, spec};

type Check = fn(Pod<'_>) -> Option<Finding>;

struct Row {
    level: Level,
    /// First and last minor version.
    since: u32,
    until: u32,
    check: Check,
    name: &'static str,
    /// The check of a lower level that this one replaces.
    replaces: &'static str,
}

const fn row(level: Level, name: &'static str, since: u32, until: u32, check: Check) -> Row {
    Row { level, since, until, check, name, replaces: "" }
}

const fn replacing(name: &'static str, since: u32, until: u32, check: Check, replaces: &'static str) -> Row {
    Row { level: Level::Restricted, since, until, check, name, replaces }
}

/// The newest minor version whose checks are known.
const LATEST: u32 = 35;
/// No last version.
const ON: u32 = u32::MAX;

/// In the order in which findings are reported.
///
/// From v1.35 on upstream lets a pod with `hostUsers: false` unmask /proc and run as root, because its root has no rights
/// outside its user namespace. Whether there is one depends on the node's runtime, which admission does not know: here
/// the checks are the same for every pod.
static CHECKS: &[Row] = &[
    row(Level::Baseline, "appArmorProfile", 0, ON, container::app_armor),
    row(Level::Baseline, "capabilities_baseline", 0, ON, container::capabilities_baseline),
    row(Level::Baseline, "hostNamespaces", 0, ON, spec::host_namespaces),
    row(Level::Baseline, "hostPathVolumes", 0, ON, spec::host_paths),
    row(Level::Baseline, "hostPorts", 0, ON, container::host_ports),
    row(Level::Baseline, "hostProbesAndHostLifecycle", 34, ON, container::host_probes),
    row(Level::Baseline, "privileged", 0, ON, container::privileged),
    row(Level::Baseline, "procMount", 0, ON, container::proc_mount),
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
    replacing("capabilities_restricted", 22, 24, container::capabilities_restricted, "capabilities_baseline"),
    replacing(
        "capabilities_restricted",
        25,
        ON,
        |pod| if pod.is_windows() { None } else { container::capabilities_restricted(pod) },
        "capabilities_baseline",
    ),
    replacing("restrictedVolumes", 0, ON, spec::volumes, "hostPathVolumes"),
    row(Level::Restricted, "runAsNonRoot", 0, ON, container::run_as_non_root),
    row(Level::Restricted, "runAsUser", 23, ON, container::run_as_user),
    replacing("seccompProfile_restricted", 19, 24, container::seccomp_restricted, "seccompProfile_baseline"),
    replacing(
        "seccompProfile_restricted",
        25,
        ON,
        |pod| if pod.is_windows() { None } else { container::seccomp_restricted(pod) },
        "seccompProfile_baseline",
    ),
];

/// The findings in a pod, or in a template, under a standard.
pub(super) fn evaluate(standard: Standard, pod: &Value) -> Vec<Finding> {
    if standard.level == Level::Privileged {
        return Vec::new();
    }
    let minor = standard.minor.unwrap_or(LATEST).min(LATEST);
    let holds = |row: &&Row| row.level <= standard.level && (row.since..=row.until).contains(&minor);
    let replaced: Vec<&str> = CHECKS.iter().filter(holds).map(|row| row.replaces).collect();
    let pod = Pod { annotations: &pod["metadata"]["annotations"], spec: &pod["spec"] };
    let rows = CHECKS.iter().filter(holds).filter(|row| !replaced.contains(&row.name));
    rows.filter_map(|row| (row.check)(pod)).collect()
}
