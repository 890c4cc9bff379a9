//! PURE. A container of a pod as the CRI's container configuration.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod, PodSpec, SeccompProfile};

use super::api;
use super::api::security_profile::ProfileType;
use super::sandbox::{NodeSettings, groups, groups_policy, namespaces, se_linux};
use super::{CONTAINER_NAME, MESSAGE_FILE, MESSAGE_POLICY, POD_NAME, POD_NAMESPACE, POD_UID, SPEC_IMAGE};
use crate::admit::app_armor;
use crate::resources::Cgroup;
use crate::{env, names, resources};

/// What the agent has prepared for the container.
#[derive(Debug, Clone, Default)]
pub struct Prepared {
    pub attempt: u32,
    /// The image's id in the runtime.
    pub image_id: String,
    /// The user of the image: its uid, or its name.
    pub image_uid: Option<i64>,
    pub image_user: String,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<api::Mount>,
    /// Host file behind terminationMessagePath.
    pub message_file: String,
    /// The node's memory in bytes.
    pub node_memory: i64,
    /// Id of the container whose processes an ephemeral container sees.
    pub target: Option<String>,
}

/// Why the node does not run a container as it is configured; shown as CreateContainerConfigError.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})")]
    ImageRunsAsRoot { pod: String, container: String },
    #[error("container's runAsUser breaks non-root policy (pod: \"{pod}\", container: {container})")]
    UserIsRoot { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: \"{pod}\", container: {container})"
    )]
    UserUnknown { user: String, pod: String, container: String },
}

/// The configuration of a container.
pub fn config(
    pod: &Pod,
    container: &Container,
    prepared: &Prepared,
    node: &NodeSettings,
) -> Result<api::ContainerConfig, ConfigError> {
    verify_non_root(pod, container, prepared)?;
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let (pod_name, namespace, uid) = names::of(pod);
    let labels = [
        (POD_NAME, pod_name),
        (POD_NAMESPACE, namespace),
        (POD_UID, uid),
        (CONTAINER_NAME, container.name.clone()),
    ];
    let policy = container.termination_message_policy.clone().unwrap_or_default();
    let annotations = [
        (MESSAGE_FILE, prepared.message_file.clone()),
        (MESSAGE_POLICY, policy),
        (SPEC_IMAGE, container.image.clone().unwrap_or_default()),
    ];
    let expand = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|text| env::expand(text, &prepared.env)).collect()
    };
    Ok(api::ContainerConfig {
        metadata: Some(api::ContainerMetadata { name: container.name.clone(), attempt: prepared.attempt }),
        image: Some(api::ImageSpec {
            image: prepared.image_id.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: prepared
            .env
            .iter()
            .map(|(key, value)| api::KeyValue { key: key.clone(), value: value.clone() })
            .collect(),
        mounts: prepared.mounts.clone(),
        labels: owned(labels),
        annotations: owned(annotations),
        log_path: names::log_file(&container.name, prepared.attempt),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(api::LinuxContainerConfig {
            resources: Some(linux_resources(pod, container, prepared.node_memory)),
            security_context: Some(security(pod, spec, container, prepared, node)),
        }),
        ..Default::default()
    })
}

fn owned<const N: usize>(pairs: [(&str, String); N]) -> HashMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn linux_resources(pod: &Pod, container: &Container, node_memory: i64) -> api::LinuxContainerResources {
    api::LinuxContainerResources {
        oom_score_adj: resources::oom_score_adj(pod, container, node_memory),
        ..cgroup_resources(&resources::cgroup(container))
    }
}

/// A cgroup's settings as the CRI has them.
pub(crate) fn cgroup_resources(cgroup: &Cgroup) -> api::LinuxContainerResources {
    api::LinuxContainerResources {
        cpu_shares: cgroup.cpu_shares,
        cpu_quota: cgroup.cpu_quota,
        cpu_period: cgroup.cpu_period,
        memory_limit_in_bytes: cgroup.memory_limit,
        ..Default::default()
    }
}

fn security(
    pod: &Pod,
    spec: &PodSpec,
    container: &Container,
    prepared: &Prepared,
    node: &NodeSettings,
) -> api::LinuxContainerSecurityContext {
    let of_pod = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let privileged = own.privileged.unwrap_or(false);
    let user = own.run_as_user.or(of_pod.run_as_user);
    let group = own.run_as_group.or(of_pod.run_as_group);
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths =
        |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(|p| (*p).into()).collect() };
    let mut namespace_options = namespaces(spec);
    if let Some(target) = &prepared.target {
        namespace_options.pid = api::NamespaceMode::Target as i32;
        namespace_options.target_id = target.clone();
    }
    api::LinuxContainerSecurityContext {
        capabilities: own.capabilities.map(|c| api::Capability {
            add_capabilities: c.add.unwrap_or_default(),
            drop_capabilities: c.drop.unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged,
        namespace_options: Some(namespace_options),
        run_as_user: user.map(|value| api::Int64Value { value }),
        // The CRI accepts a group only together with a user.
        run_as_group: user
            .or(prepared.image_uid)
            .or((!prepared.image_user.is_empty()).then_some(0))
            .and(group)
            .map(|value| api::Int64Value { value }),
        run_as_username: if user.is_none() && group.is_some() && prepared.image_uid.is_none() {
            prepared.image_user.clone()
        } else {
            String::new()
        },
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: groups(&of_pod),
        supplemental_groups_policy: groups_policy(&of_pod),
        selinux_options: own.se_linux_options.or(of_pod.se_linux_options).as_ref().map(se_linux),
        apparmor: app_armor(pod, container).map(app_armor_profile),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(seccomp(own.seccomp_profile.or(of_pod.seccomp_profile), privileged, node)),
        ..Default::default()
    }
}

/// Paths of /proc and /sys that a container cannot see, and those that it cannot write; the defaults of other runtimes.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn seccomp(profile: Option<SeccompProfile>, privileged: bool, node: &NodeSettings) -> api::SecurityProfile {
    let (kind, file) = match profile {
        _ if privileged => (ProfileType::Unconfined, None),
        None if node.seccomp_default => (ProfileType::RuntimeDefault, None),
        None => (ProfileType::Unconfined, None),
        Some(profile) => match profile.type_.as_str() {
            "RuntimeDefault" => (ProfileType::RuntimeDefault, None),
            "Localhost" => (ProfileType::Localhost, profile.localhost_profile),
            _ => (ProfileType::Unconfined, None),
        },
    };
    let file = file.map(|file| format!("{}/{file}", node.seccomp_root));
    api::SecurityProfile { profile_type: kind as i32, localhost_ref: file.unwrap_or_default() }
}

fn app_armor_profile(profile: AppArmorProfile) -> api::SecurityProfile {
    let kind = match profile.type_.as_str() {
        "RuntimeDefault" => ProfileType::RuntimeDefault,
        "Localhost" => ProfileType::Localhost,
        _ => ProfileType::Unconfined,
    };
    let localhost_ref = profile.localhost_profile.unwrap_or_default();
    api::SecurityProfile { profile_type: kind as i32, localhost_ref }
}

fn verify_non_root(pod: &Pod, container: &Container, prepared: &Prepared) -> Result<(), ConfigError> {
    let of_pod = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let own = container.security_context.as_ref();
    let non_root = own.and_then(|s| s.run_as_non_root).or(of_pod.and_then(|s| s.run_as_non_root));
    if non_root != Some(true) {
        return Ok(());
    }
    let (pod_text, name) = (crate::plan::status::pod_text(pod), container.name.clone());
    match own.and_then(|s| s.run_as_user).or(of_pod.and_then(|s| s.run_as_user)) {
        Some(0) => return Err(ConfigError::UserIsRoot { pod: pod_text, container: name }),
        Some(_) => return Ok(()),
        None => {}
    }
    match (prepared.image_uid, prepared.image_user.as_str()) {
        (Some(0), _) | (None, "") => Err(ConfigError::ImageRunsAsRoot { pod: pod_text, container: name }),
        (Some(_), _) => Ok(()),
        (None, user) => {
            Err(ConfigError::UserUnknown { user: user.to_owned(), pod: pod_text, container: name })
        }
    }
}

#[cfg(test)]
#[path = "security_tests.rs"]
mod tests;
