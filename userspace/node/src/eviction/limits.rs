//! PURE. Whether a pod uses more disk than it may.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::resources;

/// What a pod uses, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// emptyDirs on disk, by volume.
    pub(super) volumes: BTreeMap<String, u64>,
    /// Writable layers and logs, by container.
    pub(super) containers: BTreeMap<String, u64>,
    /// /etc/hosts and termination messages, which the node makes and containers may write.
    pub(super) own: u64,
}

/// The most that a pod may write into the files that the node makes for it.
const MAX_OWN_BYTES: u64 = 16 << 20;

fn limit(container: &Container) -> Option<u64> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    limits.get("ephemeral-storage").and_then(resources::units).and_then(|limit| u64::try_from(limit).ok())
}

/// Whether any container has a limit.
pub(super) fn limits_containers(pod: &Pod) -> bool {
    pod.spec
        .iter()
        .flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()))
        .any(|c| limit(c).is_some())
}

/// The first limit that is exceeded, in upstream's words.
pub(super) fn exceeded(pod: &Pod, usage: &Usage) -> Option<String> {
    if usage.own > MAX_OWN_BYTES {
        let limit = MAX_OWN_BYTES >> 20;
        return Some(format!(
            "Usage of the files that the node makes for the pod exceeds the limit \"{limit}Mi\". "
        ));
    }
    let spec = pod.spec.as_ref()?;
    for volume in spec.volumes.iter().flatten() {
        let size = volume.empty_dir.as_ref().and_then(|source| source.size_limit.as_ref());
        let (Some(size), Some(used)) = (size, usage.volumes.get(&volume.name)) else { continue };
        let limit =
            resources::units(size).and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0);
        if limit.is_some_and(|limit| *used > limit) {
            let (name, limit) = (&volume.name, &size.0);
            return Some(format!("Usage of EmptyDir volume {name:?} exceeds the limit {limit:?}. "));
        }
    }
    let limits: Option<Vec<u64>> = spec.containers.iter().map(limit).collect();
    if let Some(total) =
        limits.map(|limits| limits.iter().fold(0, |sum: u64, limit| sum.saturating_add(*limit)))
    {
        let parts = usage.volumes.values().chain(usage.containers.values()).chain([&usage.own]);
        if parts.fold(0, |sum: u64, part| sum.saturating_add(*part)) > total {
            return Some(format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {total}. "
            ));
        }
    }
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let used = usage.containers.get(&container.name).copied().unwrap_or(0);
        if limit(container).is_some_and(|limit| used > limit) {
            let text = container
                .resources
                .as_ref()
                .and_then(|r| r.limits.as_ref()?.get("ephemeral-storage").cloned());
            let (name, text) = (&container.name, text.unwrap_or_default().0);
            return Some(format!("Container {name} exceeded its local ephemeral storage limit {text:?}. "));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        let limits = |limit: &str| json!({"limits": {"ephemeral-storage": limit}});
        serde_json::from_value(json!({"metadata": {}, "spec": {
            "containers": [
                {"name": "a", "resources": limits("100")},
                {"name": "b", "resources": limits("1k")},
            ],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Ki"}}, {"name": "free", "emptyDir": {}}],
        }}))
        .expect("a pod")
    }

    fn usage(volumes: &[(&str, u64)], containers: &[(&str, u64)], own: u64) -> Usage {
        let map =
            |pairs: &[(&str, u64)]| pairs.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect();
        Usage { volumes: map(volumes), containers: map(containers), own }
    }

    #[test]
    fn each_limit_is_kept_to() {
        for (usage, expected) in [
            (usage(&[("v", 1000)], &[("a", 100)], 0), None),
            (
                usage(&[("v", 1025)], &[], 0),
                Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Ki\". "),
            ),
            (
                usage(&[("free", 1000)], &[("a", 100)], 1),
                Some("Pod ephemeral local storage usage exceeds the total limit of containers 1100. "),
            ),
            (
                usage(&[], &[("a", 101)], 0),
                Some("Container a exceeded its local ephemeral storage limit \"100\". "),
            ),
            (
                usage(&[], &[], 17 << 20),
                Some("Usage of the files that the node makes for the pod exceeds the limit \"16Mi\". "),
            ),
            (
                usage(&[("free", u64::MAX), ("v", 1)], &[], 1),
                Some("Pod ephemeral local storage usage exceeds the total limit of containers 1100. "),
            ),
        ] {
            assert_eq!(exceeded(&pod(), &usage).as_deref(), expected, "{usage:?}");
        }
    }
}
