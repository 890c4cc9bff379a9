//! A BPF file system of a test's own, so that a machine that has mounted none can run it.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

/// Mounted until it is dropped.
pub(crate) struct TestBpffs(PathBuf);

impl TestBpffs {
    pub(crate) fn mount(name: &str) -> TestBpffs {
        let path = std::env::temp_dir().join(format!("skep-bpffs-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        rustix::mount::mount("bpf", &path, "bpf", MountFlags::empty(), None).unwrap();
        TestBpffs(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TestBpffs {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
        drop(fs::remove_dir(&self.0));
    }
}
