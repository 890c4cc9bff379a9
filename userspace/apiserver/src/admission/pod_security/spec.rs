//! Checks of what a pod asks of its node: namespaces, paths, volumes, kernel settings.

use serde_json::Value;

use super::finding::{Finding, Pod, Texts, plural, quoted};

/// The first five are allowed always, the sixth since v1.27, the next four since v1.29, the others since v1.32.
pub(super) const SYSCTLS: [&str; 12] = [
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
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn each<'a>(value: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    value[list].as_array().into_iter().flatten()
}

fn name(value: &Value) -> &str {
    value["name"].as_str().unwrap_or_default()
}

pub(super) fn host_namespaces(pod: Pod<'_>) -> Option<Finding> {
    let fields = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| pod.spec[*field] == true);
    let set: Vec<String> = fields.map(|field| format!("{field}=true")).collect();
    if set.is_empty() { None } else { Finding::new("host namespaces", set.join(", ")) }
}

pub(super) fn host_paths(pod: Pod<'_>) -> Option<Finding> {
    let bad = each(pod.spec, "volumes").filter(|volume| !volume["hostPath"].is_null());
    let bad: Vec<&str> = bad.map(name).collect();
    if bad.is_empty() {
        return None;
    }
    Finding::new("hostPath volumes", format!("{} {}", plural("volume", bad.len()), quoted(&bad)))
}

pub(super) fn volumes(pod: Pod<'_>) -> Option<Finding> {
    let (mut bad, mut kinds) = (Vec::new(), Texts::new());
    for volume in each(pod.spec, "volumes") {
        if VOLUMES.iter().any(|kind| !volume[*kind].is_null()) {
            continue;
        }
        bad.push(name(volume));
        let mut sources = volume.as_object().into_iter().flatten();
        let kind = sources.find(|(field, value)| *field != "name" && !value.is_null());
        kinds.insert(kind.map_or("unknown", |(field, _)| field.as_str()).to_owned());
    }
    if bad.is_empty() {
        return None;
    }
    let verb = if bad.len() == 1 { "uses" } else { "use" };
    let detail = format!(
        "{} {} {verb} {} {}",
        plural("volume", bad.len()),
        quoted(&bad),
        plural("restricted volume type", kinds.len()),
        quoted(&kinds)
    );
    Finding::new("restricted volume types", detail)
}

pub(super) fn sysctls(pod: Pod<'_>, allowed: &[&str]) -> Option<Finding> {
    let set = each(&pod.spec["securityContext"], "sysctls").map(name);
    let bad: Vec<&str> = set.filter(|name| !allowed.contains(name)).collect();
    if bad.is_empty() { None } else { Finding::new("forbidden sysctls", bad.join(", ")) }
}
