//! A containerd of a node's or a test's own: configuration, CNI configuration, process.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::layout::{Layout, NodeLayout};
use super::process::{Spec, args, tail};
use crate::{deps, image};

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Writes the configuration, and returns how the process is started.
pub fn spec(layout: &Layout, node: &NodeLayout, plugins: &Path, cgroup: &Path) -> Result<Spec> {
    let folder = node.state.join("containerd");
    let cni = folder.join("cni");
    fs::create_dir_all(&cni).with_context(|| format!("create {}", cni.display()))?;
    fs::create_dir_all(&node.run).with_context(|| format!("create {}", node.run.display()))?;
    write(&cni.join("10-skep.conflist"), &network(node))?;
    let bin = folder.join("plugins");
    fs::create_dir_all(&bin).with_context(|| format!("create {}", bin.display()))?;
    link(&plugins.join("skep-cni"), &bin.join("skep-cni"))?;
    link(Path::new(deps::LOOPBACK), &bin.join("loopback"))?;
    let config = folder.join("config.toml");
    let socket = node.containerd_socket();
    let folders = Folders { state: &folder, run: &node.run, socket: &socket, cni_bin: &bin, cni_conf: &cni };
    write(&config, &configuration(&folders))?;
    Ok(Spec {
        name: format!("containerd-{}", node.name),
        program: deps::program("containerd").context("no containerd (Debian: apt-get install containerd)")?,
        args: args(["--config".as_ref(), config.as_os_str()]),
        env: Vec::new(),
        netns: Some(node.netns_path()),
        cgroup: Some(cgroup.to_owned()),
        log: layout.logs().join(format!("containerd-{}.log", node.name)),
    })
}

/// Waits until the containerd of the socket answers.
pub fn wait(socket: &Path, log: &Path) -> Result<()> {
    let deadline = Instant::now() + START_TIMEOUT;
    while !ctr(socket, &["version"])?.status.success() {
        if Instant::now() > deadline {
            bail!("containerd at {} does not answer:\n{}", socket.display(), tail(log, 10));
        }
        // Its socket exists before it serves, and it reports nothing when it does.
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Runs containerd's own client in the namespace of CRI.
pub fn ctr(socket: &Path, arguments: &[&str]) -> Result<std::process::Output> {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(socket).args(["--namespace", "k8s.io"]).args(arguments);
    command.stdin(Stdio::null()).output().context("run ctr (Debian: apt-get install containerd)")
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("write {}", file.display()))
}

fn link(to: &Path, at: &Path) -> Result<()> {
    if fs::read_link(at).is_ok_and(|old| old == to) {
        return Ok(());
    }
    let _ = fs::remove_file(at);
    std::os::unix::fs::symlink(to, at).with_context(|| format!("link {}", at.display()))
}

/// The folders and the socket of one containerd.
pub struct Folders<'a> {
    /// Images, snapshots and plugins: what outlives a restart of the machine.
    pub state: &'a Path,
    /// Tasks and the shims' state.
    pub run: &'a Path,
    pub socket: &'a Path,
    pub cni_bin: &'a Path,
    pub cni_conf: &'a Path,
}

/// The configuration file. Mirrors of registries are in `registries/HOST/hosts.toml` of the state folder, as containerd's
/// documentation of registry hosts has it. Without CAP_SYS_RESOURCE, as in many containers and virtual machines, a sandbox cannot lower its
/// OOM score.
pub fn configuration(folders: &Folders<'_>) -> String {
    let Folders { state, run, socket, cni_bin, cni_conf } = folders;
    let (state, run, socket, pause) = (state.display(), run.display(), socket.display(), image::PAUSE);
    let (cni_bin, cni_conf) = (cni_bin.display(), cni_conf.display());
    format!(
        r#"version = 2
root = "{state}/root"
state = "{run}/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{state}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = "{run}/runc"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{state}/registries"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_bin}"
    conf_dir = "{cni_conf}"
"#
    )
}

fn network(node: &NodeLayout) -> String {
    let list = serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "skep",
        "plugins": [{"type": "skep-cni", "agentSocket": node.cni_socket()}],
    });
    list.to_string()
}
