//! A cgroup v2 folder of a test's own, removed on drop.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes `name` in the v2 hierarchy, wherever it is mounted.
    pub fn new(name: &str) -> Result<Cgroup> {
        let path = root()?.join(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Cgroup { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves a process in.
    pub fn add(&self, pid: u32) -> Result<()> {
        let file = self.path.join("cgroup.procs");
        fs::write(&file, pid.to_string()).with_context(|| format!("write {}", file.display()))
    }

    /// From here on single threads may enter, not only whole processes.
    pub fn make_threaded(&self) -> Result<()> {
        let file = self.path.join("cgroup.type");
        fs::write(&file, "threaded").with_context(|| format!("write {}", file.display()))
    }

    /// Moves the calling thread in, and with it the sockets and threads that it makes.
    pub fn enter(&self) -> Result<()> {
        let file = self.path.join("cgroup.threads");
        fs::write(&file, "0").with_context(|| format!("write {}", file.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Processes that just ended leave in their own time.
        for _ in 0..50 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// Where cgroup v2 is mounted.
pub fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let found = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    });
    found.context("cgroup v2 is not mounted")
}
