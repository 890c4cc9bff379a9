//! PURE. A pod as the CRI's sandbox configuration.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Pod, PodSecurityContext, PodSpec, SELinuxOptions};

use super::api;
use super::{GRACE, POD_NAME, POD_NAMESPACE, POD_UID};
use crate::names;

/// The node's settings in every sandbox.
#[derive(Debug, Clone, Default)]
pub struct NodeSettings {
    pub cgroup_parent: String,
    /// Folder under which each pod has its own log folder.
    pub log_root: String,
    /// Name servers of pods with `dnsPolicy: ClusterFirst`; empty: those of the cluster's DNS Service.
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    /// The node's resolv.conf.
    pub host_dns: api::DnsConfig,
    /// Folder of the profiles that pods name with `type: Localhost`.
    pub seccomp_root: String,
    /// A container without a seccomp profile gets the runtime's.
    pub seccomp_default: bool,
}

/// The configuration of the pod's sandbox number `attempt`. `name_servers`: the addresses of the cluster's DNS Service.
pub fn config(
    pod: &Pod,
    attempt: u32,
    node: &NodeSettings,
    name_servers: Vec<String>,
) -> api::PodSandboxConfig {
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let meta = &pod.metadata;
    let (name, namespace, uid) = names::of(pod);
    let own_labels = [(POD_NAME, &name), (POD_NAMESPACE, &namespace), (POD_UID, &uid)];
    let mut labels: HashMap<String, String> = meta.labels.clone().unwrap_or_default().into_iter().collect();
    labels.extend(own_labels.map(|(key, value)| (key.to_owned(), value.clone())));
    let mut annotations: HashMap<String, String> =
        meta.annotations.clone().unwrap_or_default().into_iter().collect();
    annotations.insert(GRACE.into(), spec.termination_grace_period_seconds.unwrap_or(30).to_string());
    let host_network = spec.host_network == Some(true);
    api::PodSandboxConfig {
        metadata: Some(api::PodSandboxMetadata {
            name: name.clone(),
            uid: uid.clone(),
            namespace: namespace.clone(),
            attempt,
        }),
        // A pod in the host's network shares its host name, and runc does not allow setting it.
        hostname: if host_network { String::new() } else { hostname(pod) },
        log_directory: format!("{}/{}", node.log_root, names::log_folder(pod)),
        dns_config: Some(dns(&namespace, spec, node, name_servers)),
        port_mappings: if host_network { Vec::new() } else { port_mappings(spec) },
        labels,
        annotations,
        linux: Some(linux(spec, node)),
        windows: None,
    }
}

/// The pod's host name: from its spec, or its name cut to the length of a host name.
pub fn hostname(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    let own = spec.and_then(|s| s.hostname_override.as_ref().or(s.hostname.as_ref())).cloned();
    let name = own.unwrap_or_else(|| pod.metadata.name.clone().unwrap_or_default());
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// The kernel takes no longer host name.
const MAX_KERNEL_HOSTNAME_BYTES: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "Failed to construct FQDN from Pod hostname and cluster domain, FQDN {0} is too long ({MAX_KERNEL_HOSTNAME_BYTES} characters is the max, {length} characters requested)",
    length = .0.len()
)]
pub struct HostnameTooLong(String);

/// The host name that the kernel gets: with the pod's domain if the pod asks for it (KEP-1797).
pub fn kernel_hostname(pod: &Pod, cluster_domain: &str) -> Result<String, HostnameTooLong> {
    let short = hostname(pod);
    let Some(spec) = pod.spec.as_ref().filter(|s| s.set_hostname_as_fqdn == Some(true)) else {
        return Ok(short);
    };
    let Some(subdomain) = spec.subdomain.as_ref().filter(|name| !name.is_empty()) else { return Ok(short) };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let full = format!("{short}.{subdomain}.{namespace}.svc.{cluster_domain}");
    if full.len() > MAX_KERNEL_HOSTNAME_BYTES { Err(HostnameTooLong(full)) } else { Ok(full) }
}

fn linux(spec: &PodSpec, node: &NodeSettings) -> api::LinuxPodSandboxConfig {
    let context = spec.security_context.clone().unwrap_or_default();
    let sysctls = context.sysctls.iter().flatten().map(|s| (s.name.clone(), s.value.clone())).collect();
    api::LinuxPodSandboxConfig {
        cgroup_parent: node.cgroup_parent.clone(),
        security_context: Some(api::LinuxSandboxSecurityContext {
            namespace_options: Some(namespaces(spec)),
            run_as_user: context.run_as_user.map(|value| api::Int64Value { value }),
            run_as_group: context
                .run_as_user
                .and(context.run_as_group)
                .map(|value| api::Int64Value { value }),
            supplemental_groups: groups(&context),
            supplemental_groups_policy: groups_policy(&context),
            selinux_options: context.se_linux_options.as_ref().map(se_linux),
            privileged: privileged(spec),
            seccomp: Some(api::SecurityProfile {
                profile_type: api::security_profile::ProfileType::RuntimeDefault as i32,
                localhost_ref: String::new(),
            }),
            ..Default::default()
        }),
        sysctls,
        ..Default::default()
    }
}

/// Which namespaces the pod shares with the node and between its containers.
pub fn namespaces(spec: &PodSpec) -> api::NamespaceOption {
    let mode = |host: Option<bool>, otherwise: api::NamespaceMode| {
        if host == Some(true) { api::NamespaceMode::Node as i32 } else { otherwise as i32 }
    };
    let pid = if spec.share_process_namespace == Some(true) {
        api::NamespaceMode::Pod
    } else {
        api::NamespaceMode::Container
    };
    api::NamespaceOption {
        network: mode(spec.host_network, api::NamespaceMode::Pod),
        pid: mode(spec.host_pid, pid),
        ipc: mode(spec.host_ipc, api::NamespaceMode::Pod),
        ..Default::default()
    }
}

/// The pod's supplemental groups, fsGroup included.
pub fn groups(context: &PodSecurityContext) -> Vec<i64> {
    context.fs_group.into_iter().chain(context.supplemental_groups.iter().flatten().copied()).collect()
}

/// Whether the image's groups of the user are added.
pub fn groups_policy(context: &PodSecurityContext) -> i32 {
    match context.supplemental_groups_policy.as_deref() {
        Some("Strict") => api::SupplementalGroupsPolicy::Strict as i32,
        _ => api::SupplementalGroupsPolicy::Merge as i32,
    }
}

/// The label of the processes, for a kernel with SELinux.
pub fn se_linux(options: &SELinuxOptions) -> api::SeLinuxOption {
    api::SeLinuxOption {
        user: options.user.clone().unwrap_or_default(),
        role: options.role.clone().unwrap_or_default(),
        r#type: options.type_.clone().unwrap_or_default(),
        level: options.level.clone().unwrap_or_default(),
    }
}

/// A sandbox must be privileged when any container is.
fn privileged(spec: &PodSpec) -> bool {
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .any(|c| c.security_context.as_ref().and_then(|s| s.privileged) == Some(true))
}

fn port_mappings(spec: &PodSpec) -> Vec<api::PortMapping> {
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .map(|port| api::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => api::Protocol::Udp as i32,
                Some("SCTP") => api::Protocol::Sctp as i32,
                _ => api::Protocol::Tcp as i32,
            },
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

fn dns(namespace: &str, spec: &PodSpec, node: &NodeSettings, of_service: Vec<String>) -> api::DnsConfig {
    let servers = if node.cluster_dns.is_empty() { of_service } else { node.cluster_dns.clone() };
    let host_network = spec.host_network == Some(true);
    let mut config = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => api::DnsConfig::default(),
        "Default" => node.host_dns.clone(),
        "ClusterFirst" if host_network => node.host_dns.clone(),
        _ if servers.is_empty() => node.host_dns.clone(),
        _ => {
            let domain = &node.cluster_domain;
            let own = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            let searches = own.into_iter().chain(node.host_dns.searches.iter().cloned()).collect();
            api::DnsConfig { servers, searches, options: vec!["ndots:5".into()] }
        }
    };
    if let Some(extra) = &spec.dns_config {
        merge(&mut config.servers, extra.nameservers.iter().flatten().cloned());
        merge(&mut config.searches, extra.searches.iter().flatten().cloned());
        for option in extra.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            let prefix = format!("{name}:");
            config.options.retain(|o| o != name && !o.starts_with(&prefix));
            config.options.push(option.value.as_ref().map_or(name.clone(), |v| format!("{name}:{v}")));
        }
    }
    config
}

fn merge(into: &mut Vec<String>, from: impl Iterator<Item = String>) {
    for item in from {
        if !into.contains(&item) {
            into.push(item);
        }
    }
}

/// Parses a resolv.conf.
pub fn parse_resolv_conf(text: &str) -> api::DnsConfig {
    let mut config = api::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search") => config.searches = words.map(str::to_owned).collect(),
            Some("options") => config.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_may_have_its_full_name_as_host_name() {
        let long = "a".repeat(50);
        for (spec, expected) in [
            (json!({}), Ok("p".to_owned())),
            (json!({"subdomain": "web", "hostname": "h"}), Ok("h".to_owned())),
            (json!({"setHostnameAsFQDN": true}), Ok("p".to_owned())),
            (
                json!({"subdomain": "web", "hostname": "h", "setHostnameAsFQDN": true}),
                Ok("h.web.ns.svc.cluster.local".to_owned()),
            ),
            (
                json!({"subdomain": long, "setHostnameAsFQDN": true}),
                Err(HostnameTooLong(format!("p.{long}.ns.svc.cluster.local"))),
            ),
        ] {
            let mut spec = spec;
            spec["containers"] = json!([]);
            let pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec});
            let pod = serde_json::from_value(pod).expect("a pod");
            assert_eq!(kernel_hostname(&pod, "cluster.local"), expected);
        }
    }
}
