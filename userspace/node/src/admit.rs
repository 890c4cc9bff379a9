//! PURE. Whether this node can keep what a pod's spec demands of it.
//!
//! In: the pod, and what the node's kernel, runtime and administrator allow. Out: a [`Rejection`], which becomes the pod's
//! status: phase Failed. A field that narrows what a pod may do is served or refused, and never ignored.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod, PodSpec, Taint};
use skep_api::fit::tolerates;

use crate::eviction::rank;
use crate::eviction::signals::Shortage;
use crate::plan::{EVICTED, specs};
use crate::rejection::{Rejection, reject};
use crate::resources;

/// What the node can enforce, and what its administrator allows.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    /// The Node's name.
    pub node: String,
    /// The runtime serves `supplementalGroupsPolicy: Strict`.
    pub supplemental_groups_policy: bool,
    /// The kernel has AppArmor.
    pub app_armor: bool,
    pub unsafe_sysctls: UnsafeSysctls,
}

const OS: &str = "linux";

/// The sysctls that are safe: they belong to the pod's namespaces, are accounted to the pod, and harm no other pod.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Sysctls that the administrator allows in addition: names, or prefixes that end with `*`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnsafeSysctls(Vec<String>);

/// A sysctl that no namespace has of its own: setting it would change the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the sysctls {0:?} are not known to be namespaced")]
pub struct NotNamespaced(String);

impl UnsafeSysctls {
    pub fn new(patterns: Vec<String>) -> Result<UnsafeSysctls, NotNamespaced> {
        let patterns: Vec<String> = patterns.iter().map(|pattern| dotted(pattern)).collect();
        match patterns.iter().find(|pattern| namespace(pattern).is_none()) {
            Some(bad) => Err(NotNamespaced(bad.clone())),
            None => Ok(UnsafeSysctls(patterns)),
        }
    }

    fn contain(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == pattern,
        })
    }
}

/// The namespace that a sysctl belongs to.
fn namespace(name: &str) -> Option<&'static str> {
    let ipc = name == "kernel.sem"
        || ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix));
    match name {
        _ if ipc => Some("IPC"),
        _ if name.starts_with("net.") => Some("net"),
        _ => None,
    }
}

/// `net/ipv4/conf/eth0.1/x` as `net.ipv4.conf.eth0/1.x`: the first separator tells which form it is (sysctl(8)).
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

impl Admission {
    /// Refuses a pod that the node cannot run as its spec says.
    pub fn check(&self, pod: &Pod) -> Result<(), Rejection> {
        let Some(spec) = &pod.spec else { return Ok(()) };
        self.place(pod, spec)?;
        self.sysctls(spec)?;
        let policy = spec.security_context.as_ref().and_then(|s| s.supplemental_groups_policy.as_deref());
        if policy == Some("Strict") && !self.supplemental_groups_policy {
            let message = "SupplementalGroupsPolicy=Strict is not supported in this node";
            return Err(reject("SupplementalGroupsPolicyNotSupported", message));
        }
        for spec in specs(pod) {
            self.container(pod, &spec.container)?;
        }
        Ok(())
    }

    /// Refuses new pods of a node that is about to end.
    pub fn check_shutdown(is_shutting_down: bool) -> Result<(), Rejection> {
        match is_shutting_down {
            true => Err(reject("NodeShutdown", "Pod was rejected as the node is shutting down.")),
            false => Ok(()),
        }
    }

    /// Refuses new pods for which a node that runs short has no room.
    pub fn check_pressure(pod: &Pod, shortages: &BTreeSet<Shortage>) -> Result<(), Rejection> {
        if shortages.is_empty() || rank::is_critical(pod) {
            return Ok(());
        }
        let taint = Taint {
            key: "node.kubernetes.io/memory-pressure".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
        let is_tolerant =
            resources::qos_class(pod) != "BestEffort" || tolerations.iter().any(|t| tolerates(t, &taint));
        if is_tolerant && shortages.iter().eq([&Shortage::Memory]) {
            return Ok(());
        }
        let names = shortages.iter().map(|shortage| match shortage {
            Shortage::Memory => "MemoryPressure",
            Shortage::Disk => "DiskPressure",
            Shortage::Pids => "PIDPressure",
        });
        let names = names.collect::<Vec<_>>().join(" ");
        Err(reject(EVICTED, format!("The node had condition: [{names}]. ")))
    }

    /// Whether the pod is for this node and its operating system.
    fn place(&self, pod: &Pod, spec: &PodSpec) -> Result<(), Rejection> {
        let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/os"));
        if label.is_some_and(|os| os != OS) {
            let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
            return Err(reject("PodOSSelectorNodeLabelDoesNotMatch", message));
        }
        if spec.os.as_ref().is_some_and(|os| os.name != OS) {
            let message = "Failed to admit pod as the OS field doesn't match node OS";
            return Err(reject("PodOSNotSupported", message));
        }
        if spec.node_name.as_deref().is_some_and(|name| !name.is_empty() && name != self.node) {
            let message = "Predicate NodeName failed: node(s) didn't match the requested node name";
            return Err(reject("NodeName", message));
        }
        Ok(())
    }

    fn container(&self, pod: &Pod, container: &Container) -> Result<(), Rejection> {
        let security = container.security_context.as_ref();
        let privileged = security.and_then(|s| s.privileged) == Some(true);
        // Without a user namespace, root in the container could write the node's /proc.
        if !privileged && security.and_then(|s| s.proc_mount.as_deref()) == Some("Unmasked") {
            let message = "procMount=Unmasked needs a user namespace, which is not supported in this node";
            return Err(reject("ProcMountNotSupported", message));
        }
        let confined = app_armor(pod, container).is_some_and(|profile| profile.type_ != "Unconfined");
        if confined && !self.app_armor {
            let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
            return Err(reject("AppArmor", message));
        }
        Ok(())
    }

    fn sysctls(&self, spec: &PodSpec) -> Result<(), Rejection> {
        let context = spec.security_context.as_ref();
        for sysctl in context.iter().flat_map(|c| c.sysctls.iter().flatten()) {
            let name = dotted(&sysctl.name);
            let forbidden =
                |why: String| Err(reject("SysctlForbidden", format!("forbidden sysctl: {name:?} {why}")));
            if !SAFE_SYSCTLS.contains(&name.as_str()) && !self.unsafe_sysctls.contain(&name) {
                return forbidden("not allowlisted".to_owned());
            }
            match namespace(&name) {
                Some("net") if spec.host_network == Some(true) => {
                    return forbidden("not allowed with host net enabled".to_owned());
                }
                Some("IPC") if spec.host_ipc == Some(true) => {
                    return forbidden("not allowed with host IPC enabled".to_owned());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The container's AppArmor profile: its own, the pod's, or that of the annotation that older manifests carry.
pub(crate) fn app_armor(pod: &Pod, container: &Container) -> Option<AppArmorProfile> {
    let own = container.security_context.as_ref().and_then(|s| s.app_armor_profile.clone());
    let of_pod = || pod.spec.as_ref()?.security_context.as_ref()?.app_armor_profile.clone();
    let annotated = || {
        let key = format!("container.apparmor.security.beta.kubernetes.io/{}", container.name);
        let text = pod.metadata.annotations.as_ref()?.get(&key)?;
        let profile = |type_: &str, localhost: Option<&str>| AppArmorProfile {
            type_: type_.to_owned(),
            localhost_profile: localhost.map(str::to_owned),
        };
        Some(match (text.as_str(), text.strip_prefix("localhost/")) {
            ("unconfined", _) => profile("Unconfined", None),
            (_, Some(name)) => profile("Localhost", Some(name)),
            _ => profile("RuntimeDefault", None),
        })
    };
    own.or_else(annotated).or_else(of_pod)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        let mut spec = spec;
        if spec["containers"].is_null() {
            spec["containers"] = json!([{"name": "main"}]);
        }
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod")
    }

    fn with(security: Value) -> Value {
        json!({"containers": [{"name": "main", "securityContext": security}]})
    }

    fn sysctl(name: &str, more: Value) -> Value {
        let mut spec = json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
        spec.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        spec
    }

    #[test]
    fn what_the_node_cannot_keep_is_refused_with_its_reason() {
        let pod_level = |field: Value| json!({"securityContext": field});
        for (spec, reason) in [
            (json!({}), ""),
            (json!({"hostUsers": true}), ""),
            (json!({"os": {"name": "linux"}}), ""),
            (json!({"os": {"name": "windows"}}), "PodOSNotSupported"),
            (json!({"nodeName": "other"}), "NodeName"),
            (json!({"hostUsers": false}), ""),
            (pod_level(json!({"supplementalGroupsPolicy": "Merge"})), ""),
            (
                pod_level(json!({"supplementalGroupsPolicy": "Strict"})),
                "SupplementalGroupsPolicyNotSupported",
            ),
            (with(json!({"procMount": "Default"})), ""),
            (with(json!({"procMount": "Unmasked"})), "ProcMountNotSupported"),
            (with(json!({"procMount": "Unmasked", "privileged": true})), ""),
            (with(json!({"appArmorProfile": {"type": "Unconfined"}})), ""),
            (with(json!({"appArmorProfile": {"type": "RuntimeDefault"}})), "AppArmor"),
            (
                pod_level(json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "x"}})),
                "AppArmor",
            ),
            (sysctl("net.ipv4.tcp_mem", json!({})), "SysctlForbidden"),
            (sysctl("kernel.msgmax", json!({})), "SysctlForbidden"),
            (sysctl("kernel/core_pattern", json!({})), "SysctlForbidden"),
            (sysctl("net/ipv4/tcp_syncookies", json!({})), ""),
            (sysctl("net.ipv4.tcp_syncookies", json!({"hostNetwork": true})), "SysctlForbidden"),
            (sysctl("kernel.shm_rmid_forced", json!({"hostIPC": true})), "SysctlForbidden"),
            (sysctl("kernel.shm_rmid_forced", json!({"hostNetwork": true})), ""),
        ] {
            let found = Admission::default().check(&pod(spec.clone()));
            assert_eq!(found.map_or_else(|r| r.reason, |()| "".into()), reason, "{spec}");
        }
    }

    #[test]
    fn what_the_node_can_keep_is_admitted() {
        let patterns = vec!["net.core.*".to_owned(), "kernel/msgmax".to_owned()];
        let unsafe_sysctls = UnsafeSysctls::new(patterns).expect("namespaced");
        let node = Admission {
            supplemental_groups_policy: true,
            app_armor: true,
            unsafe_sysctls,
            ..Default::default()
        };
        for spec in [
            json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}}),
            with(json!({"appArmorProfile": {"type": "RuntimeDefault"}})),
            sysctl("net.core.somaxconn", json!({})),
            sysctl("kernel.msgmax", json!({})),
        ] {
            assert_eq!(node.check(&pod(spec.clone())), Ok(()), "{spec}");
        }
        assert!(node.check(&pod(sysctl("net.coredump", json!({})))).is_err());
    }

    #[test]
    fn a_node_that_runs_short_takes_what_has_a_claim_to_it() {
        let requests = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]});
        let tolerant =
            json!({"tolerations": [{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]});
        let critical = json!({"priority": 2_000_001_000});
        let memory = BTreeSet::from([Shortage::Memory]);
        let both = BTreeSet::from([Shortage::Memory, Shortage::Disk]);
        for (spec, of_memory, of_both) in [
            (
                json!({}),
                "The node had condition: [MemoryPressure]. ",
                "The node had condition: [MemoryPressure DiskPressure]. ",
            ),
            (requests, "", "The node had condition: [MemoryPressure DiskPressure]. "),
            (tolerant, "", "The node had condition: [MemoryPressure DiskPressure]. "),
            (critical, "", ""),
        ] {
            let pod = pod(spec);
            for (shortages, expected) in [(&BTreeSet::new(), ""), (&memory, of_memory), (&both, of_both)] {
                let found = Admission::check_pressure(&pod, shortages);
                assert_eq!(found.map_or_else(|r| r.message, |()| String::new()), expected, "{shortages:?}");
            }
        }
    }

    #[test]
    fn a_sysctl_of_the_node_cannot_be_allowed() {
        for pattern in ["vm.*", "kernel.core_pattern", "*", "fs.file-max"] {
            assert!(UnsafeSysctls::new(vec![pattern.to_owned()]).is_err(), "{pattern}");
        }
    }

    #[test]
    fn an_annotation_names_a_profile_too() {
        let mut pod = pod(json!({}));
        let key = "container.apparmor.security.beta.kubernetes.io/main".to_owned();
        pod.metadata.annotations = Some([(key, "localhost/mine".to_owned())].into());
        assert_eq!(Admission::default().check(&pod).map_err(|r| r.reason), Err("AppArmor".into()));
    }
}
