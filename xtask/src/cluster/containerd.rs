//! A node's own containerd: configuration, CNI configuration, process.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::layout::{Layout, NodeLayout};
use super::process::{Spec, args, tail};
use crate::{deps, image};

/// Writes the configuration and says how to start it.
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
    write(&config, &configuration(node))?;
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

/// Waits until it answers.
pub fn wait(node: &NodeLayout, log: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !ctr(node, &["version"])?.status.success() {
        if Instant::now() > deadline {
            bail!("containerd of {} does not answer:\n{}", node.name, tail(log, 10));
        }
        // Its socket is there before it serves; nothing tells when it does.
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// containerd's own client, for a look at what is there.
pub fn ctr(node: &NodeLayout, arguments: &[&str]) -> Result<std::process::Output> {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(node.containerd_socket()).args(["--namespace", "k8s.io"]).args(arguments);
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

/// Without CAP_SYS_RESOURCE, as in many containers and virtual machines, a sandbox cannot lower its OOM score.
fn configuration(node: &NodeLayout) -> String {
    let state = node.state.join("containerd");
    let (state, run) = (state.display(), node.run.display());
    let (socket, pause) = (node.containerd_socket(), image::PAUSE);
    let socket = socket.display();
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
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{state}/plugins"
    conf_dir = "{state}/cni"
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
