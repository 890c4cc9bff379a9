//! A containerd of a test's own: root, state and socket in a temporary folder, all of it gone when dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

/// The sandbox image that the configuration names; [`crate::image::pause`] builds it.
pub const SANDBOX_IMAGE: &str = "localhost/skep/pause:1";

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
        containerd.wait()?;
        Ok(containerd)
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
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.ctr(&["version"]).is_ok_and(|ok| ok) {
            if Instant::now() > deadline {
                let log = fs::read_to_string(self.folder.path().join("containerd.log")).unwrap_or_default();
                bail!("containerd does not answer: {log}");
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.socket()).args(["--namespace", "k8s.io"]).args(arguments);
        command.stderr(Stdio::null());
        command
    }

    fn ctr(&self, arguments: &[&str]) -> Result<bool> {
        Ok(self.command(arguments).stdout(Stdio::null()).status()?.success())
    }

    fn list(&self, what: &str) -> Vec<String> {
        let output = self.command(&[what, "list", "--quiet"]).output();
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
    let place = folder.display().to_string();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        if !command.contains("containerd-shim") || !command.contains(&place) {
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
    let place = folder.display();
    let config = format!(
        r#"version = 2
root = "{place}/root"
state = "{place}/state"
[grpc]
  address = "{place}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{SANDBOX_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{place}/cni/bin"
    conf_dir = "{place}/cni/conf"
"#
    );
    let file = folder.join("config.toml");
    fs::write(&file, config)?;
    let log = fs::File::options().create(true).append(true).open(folder.join("containerd.log"))?;
    Command::new("containerd")
        .arg("--config")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start containerd (Debian: apt-get install containerd)")
}
