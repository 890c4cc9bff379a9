//! A pod's own cgroup, which bounds how many processes and threads all its containers have together.
//!
//! In: the limit, the parent of all pods' cgroups. Out: the parent cgroup that the runtime receives. Without a limit pods
//! have no cgroup of their own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";
/// containerd's parent for pods that name none.
const DEFAULT_PARENT: &str = "/k8s.io";

/// The limit of each pod.
#[derive(Debug, Clone)]
pub(crate) struct PodPids {
    limit: Option<u64>,
    root: PathBuf,
}

impl PodPids {
    pub(crate) fn new(limit: Option<u64>) -> PodPids {
        PodPids { limit, root: PathBuf::from(ROOT) }
    }

    /// Makes the pod's cgroup with its limit. Returns the parent cgroup of its containers. Idempotent.
    pub(crate) fn prepare(&self, parent: &str, uid: &str) -> io::Result<String> {
        let Some(limit) = self.limit else { return Ok(parent.to_owned()) };
        let path = path(parent, uid);
        // cgroup v1 has a hierarchy for each controller.
        let legacy = self.root.join("pids");
        let hierarchy = if legacy.is_dir() { legacy } else { self.root.clone() };
        let folder = hierarchy.join(path.trim_start_matches('/'));
        fs::create_dir_all(&folder)?;
        if hierarchy == self.root {
            enable(&hierarchy, &folder)?;
        }
        fs::write(folder.join("pids.max"), limit.to_string())?;
        Ok(path)
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

/// Gives the controller to every cgroup from the root to the pod's: cgroup v2 passes it on step by step.
fn enable(root: &Path, folder: &Path) -> io::Result<()> {
    let mut ancestors: Vec<&Path> =
        folder.ancestors().skip(1).take_while(|path| path.starts_with(root)).collect();
    ancestors.reverse();
    ancestors.iter().try_for_each(|path| fs::write(path.join("cgroup.subtree_control"), "+pids"))
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
            let pids = PodPids { limit: Some(50), root: root.path().to_owned() };
            assert_eq!(pids.prepare("/skep", "u").expect("made"), "/skep/podu");
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
        assert_eq!(PodPids::new(None).prepare("/skep", "u").expect("nothing to do"), "/skep");
    }
}
