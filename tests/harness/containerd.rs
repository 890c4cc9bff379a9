//! A containerd of a test's own: root, state and socket in a temporary folder, all of it gone when dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result};
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;
use xtask::cluster::containerd::{Folders, configuration, ctr, wait};

const LOG: &str = "containerd.log";

/// A running containerd.
pub struct Containerd {
    folder: TempDir,
    process: Child,
}

impl Containerd {
    /// Starts one and waits until it takes connections. `name` goes into the folder's name.
    pub fn start(name: &str) -> Result<Containerd> {
        let folder = tempfile::Builder::new().prefix(&format!("skep-{name}-")).tempdir_in("/tmp")?;
        let process = spawn(folder.path())?;
        let containerd = Containerd { folder, process };
        containerd.wait().map(|()| containerd)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("containerd.sock")
    }

    /// Kills it and starts it again over the same state; containers live on.
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        let _ = fs::remove_file(self.socket());
        self.process = spawn(self.folder.path())?;
        self.wait()
    }

    fn wait(&self) -> Result<()> {
        wait(&self.socket(), &self.folder.path().join(LOG))
    }

    fn ctr(&self, arguments: &[&str]) -> Option<Output> {
        ctr(&self.socket(), arguments).ok()
    }

    fn list(&self, what: &str) -> Vec<String> {
        let output = self.ctr(&[what, "list", "--quiet"]);
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn remove_everything(&self) {
        for task in self.list("tasks") {
            let _ = self.ctr(&["tasks", "delete", "--force", &task]);
        }
        for container in self.list("containers") {
            let _ = self.ctr(&["containers", "delete", &container]);
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.remove_everything();
        let _ = self.process.kill();
        let _ = self.process.wait();
        kill_shims(self.folder.path());
        unmount_below(self.folder.path());
    }
}

/// Kills the shims that belong to the containerd of that folder, and what they run.
fn kill_shims(folder: &Path) {
    let folder = folder.display().to_string();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        if !command.contains("containerd-shim") || !command.contains(&folder) {
            continue;
        }
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let pids = children.split_whitespace().filter_map(|child| child.parse().ok()).chain([pid]);
        for pid in pids.filter_map(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Unmounts everything under a folder, the deepest first.
pub fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut below: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1).map(PathBuf::from))
        .filter(|path| path.starts_with(folder))
        .collect();
    below.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for path in below {
        let _ = unmount(&path, UnmountFlags::DETACH);
    }
}

fn spawn(folder: &Path) -> Result<Child> {
    let config = configuration(&Folders {
        state: folder,
        run: folder,
        socket: &folder.join("containerd.sock"),
        cni_bin: &folder.join("cni/bin"),
        cni_conf: &folder.join("cni/conf"),
    });
    let file = folder.join("config.toml");
    fs::write(&file, config)?;
    let log = fs::File::options().create(true).append(true).open(folder.join(LOG))?;
    Command::new("containerd")
        .arg("--config")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start containerd (Debian: apt-get install containerd)")
}
