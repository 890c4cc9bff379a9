//! The machine's cgroups.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// The mount point of cgroup v2.
pub(super) fn root() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let found = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let path = fields.next()?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
    });
    found.context("cgroup v2 is not mounted; mount it, or pass a folder of it with --cgroup")
}
