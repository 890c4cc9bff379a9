//! The machine under the cluster: links, namespaces, cgroups and mounts, made and found.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::layout::{Layout, NodeLayout, UPLINK};

/// `ip` with arguments.
pub fn ip(args: &[&str]) -> Result<String> {
    let output =
        Command::new("ip").args(args).output().context("run ip (Debian: apt-get install iproute2)")?;
    if !output.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The bridge between the nodes and the server, with an address of this machine on it.
pub fn make_bridge(layout: &Layout) -> Result<()> {
    let bridge = layout.bridge();
    if !link_exists(&bridge) {
        ip(&["link", "add", &bridge, "type", "bridge"])?;
    }
    let address = format!("{}/24", layout.gateway_addr());
    ip(&["addr", "replace", &address, "dev", &bridge])?;
    ip(&["link", "set", &bridge, "up"])?;
    Ok(())
}

/// The server's namespace. It has no default route and none to pods: the server reaches them through tunnels, or not at all.
pub fn make_server_network(layout: &Layout) -> Result<()> {
    join_bridge(layout, &layout.server_netns(), &layout.server_port(), layout.server_addr())
}

/// The node's namespace and its uplink to the bridge.
pub fn make_node_network(layout: &Layout, node: &NodeLayout) -> Result<()> {
    join_bridge(layout, &node.netns, &node.port, node.addr)?;
    let inside = |args: &[&str]| ip(&[&["-n", &node.netns], args].concat());
    inside(&["route", "replace", "default", "via", &layout.gateway_addr().to_string()])?;
    Ok(())
}

/// A namespace with an address on the bridge's network.
fn join_bridge(layout: &Layout, netns: &str, port: &str, addr: Ipv4Addr) -> Result<()> {
    if !Path::new("/run/netns").join(netns).exists() {
        ip(&["netns", "add", netns])?;
    }
    let inside = |args: &[&str]| ip(&[&["-n", netns], args].concat());
    inside(&["link", "set", "lo", "up"])?;
    if !link_exists(port) {
        ip(&["link", "add", port, "type", "veth", "peer", "name", UPLINK, "netns", netns])?;
    }
    ip(&["link", "set", port, "master", &layout.bridge(), "up"])?;
    inside(&["addr", "replace", &format!("{addr}/24"), "dev", UPLINK])?;
    inside(&["link", "set", UPLINK, "up"])?;
    Ok(())
}

pub fn link_exists(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

/// Names of the links of this namespace that begin with `prefix`.
pub fn links(prefix: &str) -> Vec<String> {
    names_in(Path::new("/sys/class/net"), prefix)
}

/// Named network namespaces whose names begin with `prefix`.
pub fn namespaces(prefix: &str) -> Vec<String> {
    names_in(Path::new("/run/netns"), prefix)
}

fn names_in(folder: &Path, prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    names
}

/// Mounts a BPF file system, once.
pub fn mount_bpf(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    if mounts()?.iter().any(|mount| mount.path == folder) {
        return Ok(());
    }
    mount("bpf", folder, "bpf", MountFlags::empty(), None)
        .with_context(|| format!("mount a BPF file system at {}", folder.display()))
}

/// One line of /proc/self/mounts.
pub struct Mount {
    pub path: PathBuf,
    pub kind: String,
}

pub fn mounts() -> Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let parse = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        // The kernel writes a space in a path as \040.
        let path = PathBuf::from(fields.next()?.replace("\\040", " "));
        Some(Mount { path, kind: fields.next()?.to_owned() })
    };
    Ok(text.lines().filter_map(parse).collect())
}

/// Mount points at or below any of `folders`, the deepest first.
pub fn mounts_below(folders: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let all = mounts()?.into_iter().map(|mount| mount.path);
    let mut below: Vec<PathBuf> =
        all.filter(|path| folders.iter().any(|folder| path.starts_with(folder))).collect();
    below.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    Ok(below)
}

pub fn unmount_all(paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        match unmount(path, UnmountFlags::DETACH) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error).with_context(|| format!("unmount {}", path.display())),
        }
    }
    Ok(())
}

/// Where cgroup v2 is mounted: beside the v1 controllers or as the only hierarchy.
pub fn cgroup_root() -> Result<PathBuf> {
    let found = mounts()?.into_iter().find(|mount| mount.kind == "cgroup2");
    Ok(found.context("cgroup v2 is not mounted")?.path)
}

/// The same cgroup in every hierarchy that has it; containers are put into all of them.
pub fn cgroups(name: &str) -> Result<Vec<PathBuf>> {
    let roots = mounts()?.into_iter().filter(|mount| mount.kind.starts_with("cgroup"));
    Ok(roots.map(|mount| mount.path.join(name)).filter(|path| path.is_dir()).collect())
}

/// Makes the node's cgroup with the one of its own processes below.
pub fn make_cgroup(node: &NodeLayout) -> Result<PathBuf> {
    let cgroup = cgroup_root()?.join(&node.cgroup);
    let system = system_cgroup(&cgroup);
    fs::create_dir_all(&system).with_context(|| format!("create {}", system.display()))?;
    Ok(cgroup)
}

/// The cgroup of containerd and the agent: with controllers enabled, a cgroup that has children may hold no process itself.
pub fn system_cgroup(cgroup: &Path) -> PathBuf {
    cgroup.join("system")
}
