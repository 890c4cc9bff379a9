//! Ends a cluster and removes what it left in the kernel and on disk. Every step is idempotent; errors are collected.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::host;
use super::layout::{Layout, NodeLayout};
use super::process::Processes;
use super::stray;

const END_TIMEOUT: Duration = Duration::from_secs(10);
/// The parts of the state that are kept: logs, and fetched tools.
const KEPT: [&str; 2] = ["logs", "tools"];

/// Collects errors and what was done.
#[derive(Default)]
struct Report {
    removed: Vec<String>,
    errors: Vec<String>,
}

impl Report {
    fn note(&mut self, result: Result<Option<String>>) {
        match result {
            Ok(removed) => self.removed.extend(removed),
            Err(error) => self.errors.push(format!("{error:#}")),
        }
    }

    fn end(self) -> Result<Vec<String>> {
        if self.errors.is_empty() {
            return Ok(self.removed);
        }
        bail!("{}", self.errors.join("\n"))
    }
}

pub(super) fn cluster(layout: &Layout) -> Result<Vec<String>> {
    let mut report = Report::default();
    let processes = Processes::new(layout.pids());
    // Agents first: they would report the containers' end as failures.
    let mut names = processes.names();
    names.sort_by_key(|name| (!name.starts_with("agent-"), name == "etcd"));
    for name in names {
        let ended = processes.end(&name, END_TIMEOUT);
        report.note(ended.map(|ended| ended.then(|| format!("process {name}"))));
    }
    report.note(end_holders(&layout.run()));
    kill_cgroup(&layout.name, &mut report);
    report.note(remove_shim_sockets(&layout.run()));
    let folders = [layout.run(), layout.state.clone()];
    report.note(unmount(&folders));
    for name in namespaces(layout) {
        report.note(host::ip(&["netns", "del", &name]).map(|_| Some(format!("namespace {name}"))));
    }
    for link in links(layout) {
        // The kernel removes a port shortly after its namespace.
        let deleted = host::ip(&["link", "del", &link]);
        report.note(match deleted {
            Err(error) if host::link_exists(&link) => Err(error),
            _ => Ok(Some(format!("link {link}"))),
        });
    }
    let counted = stray::unwatch(layout);
    report.note(counted.map(|counted| counted.then(|| format!("table {}", layout.name))));
    report.note(remove_cgroups(&layout.name));
    report.note(remove_tree(&layout.run()));
    report.note(remove_state(&layout.state));
    report.end()
}

pub(super) fn node(processes: &Processes, node: &NodeLayout) -> Result<()> {
    let mut report = Report::default();
    for name in [format!("agent-{}", node.name), format!("containerd-{}", node.name)] {
        report.note(processes.end(&name, END_TIMEOUT).map(|_| None));
    }
    report.note(end_holders(&node.run));
    kill_cgroup(&node.cgroup, &mut report);
    report.note(remove_shim_sockets(&node.run));
    report.note(unmount(&[node.run.clone(), node.state.clone()]));
    if node.netns_path().exists() {
        report.note(host::ip(&["netns", "del", &node.netns]).map(|_| None));
    }
    report.note(remove_cgroups(&node.cgroup));
    report.note(remove_tree(&node.run));
    report.note(remove_tree(&node.state));
    report.end().map(drop)
}

pub(super) fn leftovers(layout: &Layout) -> Result<Vec<String>> {
    let mut left: Vec<String> = processes_of(layout).into_iter().map(|p| format!("process {p}")).collect();
    left.extend(namespaces(layout).into_iter().map(|name| format!("namespace {name}")));
    left.extend(links(layout).into_iter().map(|name| format!("link {name}")));
    let mounts = host::mounts_below(&[layout.run(), layout.state.clone()])?;
    left.extend(mounts.into_iter().map(|path| format!("mount {}", path.display())));
    let cgroups = host::cgroups(&layout.name)?;
    left.extend(cgroups.into_iter().map(|path| format!("cgroup {}", path.display())));
    left.extend(layout.run().exists().then(|| format!("folder {}", layout.run().display())));
    Ok(left)
}

/// The namespaces of the cluster's nodes and of its server.
fn namespaces(layout: &Layout) -> Vec<String> {
    let mut all = host::namespaces(&format!("{}-node-", layout.name));
    all.extend(Some(layout.server_netns()).filter(|_| layout.server_netns_path().exists()));
    all
}

/// The cluster's links: its bridge and the bridge's ports.
fn links(layout: &Layout) -> Vec<String> {
    let mut links = host::links(&format!("{}-n", layout.name));
    links.extend(Some(layout.server_port()).filter(|port| host::link_exists(port)));
    links.extend(Some(layout.bridge()).filter(|bridge| host::link_exists(bridge)));
    links
}

/// What a cluster starts, by the program's file name.
const PROGRAMS: [&str; 5] = ["skep", "etcd", "containerd", "containerd-shim-runc-v2", "runc"];

/// Whether anything of the cluster runs.
pub(super) fn is_alive(layout: &Layout) -> bool {
    !processes_of(layout).is_empty()
}

/// Processes in the cluster's cgroup, and programs of ours that were started with one of its folders.
fn processes_of(layout: &Layout) -> Vec<String> {
    let folders = [layout.run().display().to_string(), layout.state.display().to_string()];
    let member = format!(":/{}/", layout.name);
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(pid) = name.parse::<u32>() else { continue };
        let cgroups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        let program = Path::new(words.split(' ').next().unwrap_or_default());
        let ours = PROGRAMS.iter().any(|ours| program.file_name().is_some_and(|name| name == *ours))
            // With the slash, so that /run/skep is not found in /run/skeptest.
            && folders.iter().any(|folder| words.contains(&format!("{folder}/")));
        let inside = cgroups.lines().any(|line| line.contains(&member));
        // A zombie has an empty command line.
        if pid != std::process::id() && !words.trim().is_empty() && (inside || ours) {
            found.push(format!("{pid} {}", words.trim()));
        }
    }
    found
}

/// Ends the processes that hold sockets for agents below the folder: no agent comes any more.
fn end_holders(run: &Path) -> Result<Option<String>> {
    let folder = format!("{}/", run.display());
    let mut ended = 0;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.parse::<i32>().ok().and_then(rustix::process::Pid::from_raw) else { continue };
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        if words.contains(" hold-sockets ") && words.contains(&folder) {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL)
                .with_context(|| format!("end process {name}"))?;
            ended += 1;
        }
    }
    Ok((ended > 0).then(|| format!("{ended} holders of sockets")))
}

/// Kills what runs in the cgroup and below it, pods and shims included, and waits until it is empty.
fn kill_cgroup(name: &str, report: &mut Report) {
    let killed = host::cgroup_root().and_then(|root| {
        let folder = root.join(name);
        if !folder.is_dir() {
            return Ok(None);
        }
        let file = folder.join("cgroup.kill");
        fs::write(&file, "1").with_context(|| format!("write {}", file.display()))?;
        let deadline = Instant::now() + END_TIMEOUT;
        let events = folder.join("cgroup.events");
        while fs::read_to_string(&events).unwrap_or_default().contains("populated 1") {
            if Instant::now() > deadline {
                bail!("processes in {} do not end", folder.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Some(format!("processes of cgroup {}", folder.display())))
    });
    report.note(killed);
}

/// A killed shim leaves its socket outside of our folders; its bundle says where.
fn remove_shim_sockets(run: &Path) -> Result<Option<String>> {
    let mut removed = 0;
    let mut folders = vec![run.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_name() == "address" {
                let address = fs::read_to_string(&path).unwrap_or_default();
                if let Some(socket) = address.trim().strip_prefix("unix://") {
                    removed += usize::from(fs::remove_file(socket).is_ok());
                }
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !path.ends_with("rootfs") {
                folders.push(path);
            }
        }
    }
    Ok((removed > 0).then(|| format!("{removed} shim sockets")))
}

fn unmount(folders: &[PathBuf]) -> Result<Option<String>> {
    let mounts = host::mounts_below(folders)?;
    host::unmount_all(&mounts)?;
    Ok((!mounts.is_empty()).then(|| format!("{} mounts", mounts.len())))
}

/// Removes the cgroup and all below it from every hierarchy, the deepest first.
fn remove_cgroups(name: &str) -> Result<Option<String>> {
    let tops = host::cgroups(name)?;
    for top in &tops {
        let mut all = vec![top.clone()];
        let mut next = 0;
        while let Some(folder) = all.get(next).cloned() {
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            all.extend(entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
            next += 1;
        }
        for folder in all.iter().rev() {
            remove_cgroup(folder)?;
        }
    }
    Ok((!tops.is_empty()).then(|| format!("cgroup {name} in {} hierarchies", tops.len())))
}

/// A killed process leaves its cgroup only when it is reaped.
fn remove_cgroup(folder: &Path) -> Result<()> {
    let deadline = Instant::now() + END_TIMEOUT;
    loop {
        match fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error).with_context(|| format!("remove {}", folder.display())),
        }
    }
}

fn remove_state(state: &Path) -> Result<Option<String>> {
    let mut removed = false;
    for entry in fs::read_dir(state).into_iter().flatten().flatten() {
        if !KEPT.iter().any(|kept| entry.file_name() == *kept) {
            let path = entry.path();
            if path.is_dir() {
                remove_tree(&path)?;
            } else {
                fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            }
            removed = true;
        }
    }
    Ok(removed.then(|| format!("state in {}", state.display())))
}

fn remove_tree(folder: &Path) -> Result<Option<String>> {
    match fs::remove_dir_all(folder) {
        Ok(()) => Ok(Some(format!("folder {}", folder.display()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("remove {}", folder.display())),
    }
}
