//! PURE. Where the kernel shows cgroups, and which of them a process is in.
//!
//! In: the texts of `/proc/self/mountinfo` and `/proc/PID/cgroup`. Out: the folders of a process's cgroups.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A mounted hierarchy: its folder, and the cgroup that is its root there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    folder: PathBuf,
    root: String,
}

/// The hierarchies of the machine: version 1 has one for each controller, version 2 has one for all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    legacy: BTreeMap<String, Mount>,
    unified: Option<Mount>,
}

/// Controllers whose version 1 hierarchies are read.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "blkio"];

impl Hierarchies {
    /// From the mounts of this process (proc(5), "mountinfo").
    pub(crate) fn parse(mountinfo: &str) -> Hierarchies {
        let mut found = Hierarchies::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let (left, right): (Vec<&str>, Vec<&str>) =
                (left.split(' ').collect(), right.split(' ').collect());
            let (Some(root), Some(folder), Some(kind)) = (left.get(3), left.get(4), right.first()) else {
                continue;
            };
            let mount = || Mount { folder: PathBuf::from(folder), root: (*root).to_owned() };
            match *kind {
                "cgroup2" => drop(found.unified.get_or_insert_with(mount)),
                "cgroup" => {
                    let options = right.get(2).copied().unwrap_or_default();
                    for controller in options.split(',').filter(|name| CONTROLLERS.contains(name)) {
                        found.legacy.entry(controller.to_owned()).or_insert_with(mount);
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// The folders of a process's cgroups (cgroups(7), "/proc/PID/cgroup").
    pub(crate) fn folders_of(&self, cgroups: &str) -> Folders {
        let mut folders = Folders::default();
        for line in cgroups.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            if controllers.is_empty() {
                folders.unified = self.unified.as_ref().and_then(|mount| mount.folder_of(path));
                folders.name = path.to_owned();
            }
            for controller in controllers.split(',') {
                let Some(mount) = self.legacy.get(controller) else { continue };
                if let Some(folder) = mount.folder_of(path) {
                    folders.legacy.insert(controller.to_owned(), folder);
                    if controller == "memory" {
                        path.clone_into(&mut folders.legacy_name);
                    }
                }
            }
        }
        folders
    }

    /// The cgroups at the roots, which hold all processes.
    pub(crate) fn roots(&self) -> Folders {
        let legacy = self.legacy.iter().map(|(name, mount)| (name.clone(), mount.folder.clone())).collect();
        let unified = self.unified.as_ref().map(|mount| mount.folder.clone());
        Folders { legacy, unified, name: "/".to_owned(), legacy_name: "/".to_owned() }
    }
}

impl Mount {
    /// `None`: the cgroup is not below this mount.
    fn folder_of(&self, path: &str) -> Option<PathBuf> {
        let below = match self.root.as_str() {
            "/" => path,
            root => path.strip_prefix(root).filter(|rest| rest.is_empty() || rest.starts_with('/'))?,
        };
        Some(self.folder.join(below.trim_start_matches('/')))
    }
}

/// The folders of one cgroup: those of version 1 by controller, and that of version 2.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Folders {
    legacy: BTreeMap<String, PathBuf>,
    unified: Option<PathBuf>,
    name: String,
    legacy_name: String,
}

impl Folders {
    /// The folder of a controller in version 1, if the machine has it there.
    pub(crate) fn legacy(&self, controller: &str) -> Option<&Path> {
        self.legacy.get(controller).map(PathBuf::as_path)
    }

    pub(crate) fn unified(&self) -> Option<&Path> {
        self.unified.as_deref()
    }

    /// The cgroup's path: that of the memory controller in version 1, else of version 2.
    pub(crate) fn name(&self) -> &str {
        if self.legacy_name.is_empty() { &self.name } else { &self.legacy_name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn a_process_is_found_in_every_hierarchy() {
        let folders = Hierarchies::parse(V1)
            .folders_of("4:memory:/pods/a\n2:cpu,cpuacct:/pods/a\n9:name=systemd:/\n0::/pods/a\n");
        assert_eq!(folders.legacy("memory"), Some(Path::new("/sys/fs/cgroup/memory/pods/a")));
        assert_eq!(folders.legacy("cpuacct"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct/pods/a")));
        assert_eq!(folders.legacy("pids"), None);
        assert_eq!(folders.unified(), Some(Path::new("/sys/fs/cgroup/unified/pods/a")));
        assert_eq!(folders.name(), "/pods/a");
    }

    #[test]
    fn a_mount_may_show_a_part_of_the_hierarchy() {
        let mounts = Hierarchies::parse("41 31 0:38 /outer /sys/fs/cgroup rw - cgroup2 none rw\n");
        assert_eq!(mounts.folders_of("0::/outer/a").unified(), Some(Path::new("/sys/fs/cgroup/a")));
        assert_eq!(mounts.folders_of("0::/outers/a").unified(), None);
        assert_eq!(mounts.roots().unified(), Some(Path::new("/sys/fs/cgroup")));
    }
}
