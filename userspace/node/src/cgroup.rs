//! A pod's own cgroup, which bounds what all its containers have together: processes, and the resources of the pod's own
//! spec (KEP-2837).
//!
//! In: the limits, the parent of all pods' cgroups. Out: the parent cgroup that the runtime receives. Without a limit pods
//! have no cgroup of their own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::resources::Cgroup;

const ROOT: &str = "/sys/fs/cgroup";
/// containerd's parent for pods that name none.
const DEFAULT_PARENT: &str = "/k8s.io";

/// The cgroups of the node's pods.
#[derive(Debug, Clone)]
pub(crate) struct PodCgroups {
    max_pids: Option<u64>,
    root: PathBuf,
}

impl PodCgroups {
    pub(crate) fn new(max_pids: Option<u64>) -> PodCgroups {
        PodCgroups { max_pids, root: PathBuf::from(ROOT) }
    }

    /// Makes the pod's cgroup with its limits. Returns the parent cgroup of its containers. Idempotent.
    pub(crate) fn prepare(&self, parent: &str, uid: &str, own: Option<Cgroup>) -> io::Result<String> {
        if self.max_pids.is_none() && own.is_none() {
            return Ok(parent.to_owned());
        }
        let path = path(parent, uid);
        let limits = own.map(|own| [cpu(&own), memory(&own)]).into_iter().flatten();
        let pids = self.max_pids.map(|max| Limit {
            controller: "pids",
            legacy: vec![("pids.max", max.to_string())],
            unified: vec![("pids.max", max.to_string())],
        });
        for limit in limits.chain(pids) {
            self.apply(&path, &limit)?;
        }
        Ok(path)
    }

    fn apply(&self, path: &str, limit: &Limit) -> io::Result<()> {
        // cgroup v1 has a hierarchy for each controller.
        let legacy = self.root.join(limit.controller);
        let is_legacy = legacy.is_dir();
        let hierarchy = if is_legacy { legacy } else { self.root.clone() };
        let folder = hierarchy.join(path.trim_start_matches('/'));
        fs::create_dir_all(&folder)?;
        if !is_legacy {
            enable(&hierarchy, &folder, limit.controller)?;
        }
        let files = if is_legacy { &limit.legacy } else { &limit.unified };
        files.iter().try_for_each(|(file, value)| fs::write(folder.join(file), value))
    }

    /// Removes the pod's cgroup from every hierarchy. Idempotent; fails while a process is in it.
    pub(crate) fn remove(&self, parent: &str, uid: &str) -> io::Result<()> {
        let path = path(parent, uid);
        let controllers = fs::read_dir(&self.root).into_iter().flatten().flatten().map(|entry| entry.path());
        for hierarchy in controllers.chain([self.root.clone()]) {
            match fs::remove_dir(hierarchy.join(path.trim_start_matches('/'))) {
                Err(error)
                    if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
                {
                    return Err(error);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn path(parent: &str, uid: &str) -> String {
    let parent = if parent.is_empty() { DEFAULT_PARENT } else { parent.trim_end_matches('/') };
    format!("{parent}/pod{uid}")
}

/// The files of one controller, by version of cgroups.
struct Limit {
    controller: &'static str,
    legacy: Vec<(&'static str, String)>,
    unified: Vec<(&'static str, String)>,
}

fn cpu(own: &Cgroup) -> Limit {
    let Cgroup { cpu_shares, cpu_quota, cpu_period, .. } = own;
    // The kernel's conversion of shares to weights (KEP-2254).
    let weight = 1 + (cpu_shares - 2) * 9999 / 262_142;
    let (legacy, unified) = match cpu_quota {
        0 => ("-1".to_owned(), "max".to_owned()),
        quota => (quota.to_string(), quota.to_string()),
    };
    Limit {
        controller: "cpu",
        legacy: vec![
            ("cpu.shares", cpu_shares.to_string()),
            ("cpu.cfs_period_us", cpu_period.to_string()),
            ("cpu.cfs_quota_us", legacy),
        ],
        unified: vec![("cpu.weight", weight.to_string()), ("cpu.max", format!("{unified} {cpu_period}"))],
    }
}

fn memory(own: &Cgroup) -> Limit {
    let (legacy, unified) = match own.memory_limit {
        0 => ("-1".to_owned(), "max".to_owned()),
        limit => (limit.to_string(), limit.to_string()),
    };
    Limit {
        controller: "memory",
        legacy: vec![("memory.limit_in_bytes", legacy)],
        unified: vec![("memory.max", unified)],
    }
}

/// Gives the controller to every cgroup from the root to the pod's: cgroup v2 passes it on step by step.
fn enable(root: &Path, folder: &Path, controller: &str) -> io::Result<()> {
    let mut ancestors: Vec<&Path> =
        folder.ancestors().skip(1).take_while(|path| path.starts_with(root)).collect();
    ancestors.reverse();
    ancestors
        .iter()
        .try_for_each(|path| fs::write(path.join("cgroup.subtree_control"), format!("+{controller}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_written_to_the_pods_cgroup_of_either_version() {
        for hierarchy in ["pids", ""] {
            let root = tempfile::tempdir().expect("folder");
            let base = root.path().join(hierarchy);
            fs::create_dir_all(&base).expect("made");
            let pids = PodCgroups { max_pids: Some(50), root: root.path().to_owned() };
            assert_eq!(pids.prepare("/skep", "u", None).expect("made"), "/skep/podu");
            let limit = fs::read_to_string(base.join("skep/podu/pids.max")).expect("read");
            assert_eq!(limit, "50");
            let passed_on = base.join("skep/cgroup.subtree_control").exists();
            assert_eq!(passed_on, hierarchy.is_empty());
            // The kernel's files do not keep a cgroup from being removed.
            fs::remove_file(base.join("skep/podu/pids.max")).expect("removed");
            pids.remove("/skep", "u").expect("removed");
            pids.remove("/skep", "u").expect("nothing is left to remove");
            assert!(!base.join("skep/podu").exists());
        }
    }

    #[test]
    fn without_a_limit_pods_share_the_parent() {
        assert_eq!(PodCgroups::new(None).prepare("/skep", "u", None).expect("nothing to do"), "/skep");
    }

    #[test]
    fn resources_of_the_pod_are_limits_of_its_cgroup() {
        let own =
            Cgroup { cpu_shares: 1024, cpu_quota: 150_000, cpu_period: 100_000, memory_limit: 64 << 20 };
        let read = |path: PathBuf| fs::read_to_string(path).expect("read");
        let root = tempfile::tempdir().expect("folder");
        let cgroups = PodCgroups { max_pids: None, root: root.path().to_owned() };
        assert_eq!(cgroups.prepare("/skep", "u", Some(own)).expect("made"), "/skep/podu");
        let pod = root.path().join("skep/podu");
        assert_eq!(read(pod.join("cpu.weight")), "39");
        assert_eq!(read(pod.join("cpu.max")), "150000 100000");
        assert_eq!(read(pod.join("memory.max")), (64 << 20).to_string());
        for controller in ["cpu", "memory"] {
            fs::create_dir(root.path().join(controller)).expect("made");
        }
        let unlimited = Cgroup { cpu_quota: 0, memory_limit: 0, ..own };
        cgroups.prepare("/skep", "u", Some(unlimited)).expect("made");
        assert_eq!(read(root.path().join("cpu/skep/podu/cpu.shares")), "1024");
        assert_eq!(read(root.path().join("cpu/skep/podu/cpu.cfs_quota_us")), "-1");
        assert_eq!(read(root.path().join("memory/skep/podu/memory.limit_in_bytes")), "-1");
    }
}
