//! The shared cluster, namespaces of tests in it, and work done from inside of pods.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use xtask::binaries::Profile;
use xtask::cluster::kubectl::{Kubectl, condition, text};
use xtask::cluster::layout::Layout;
use xtask::cluster::{Cluster, Options, Store, host, stray};
use xtask::{binaries, deps};

/// A node is lost after this many seconds; the least is 5, and test machines are slow.
pub(crate) const NODE_GRACE: u16 = 8;
pub(crate) const NODES: u8 = 3;

/// The cluster, for one test at a time.
pub(crate) struct Shared {
    pub(crate) cluster: Cluster,
    _turn: File,
}

pub(crate) fn options() -> Options {
    Options { nodes: NODES, store: Store::Embedded, node_grace: NODE_GRACE }
}

/// Takes the lock and brings the cluster to [`options`].
pub(crate) fn shared() -> Result<Shared> {
    let cluster = cluster(Layout::test(&xtask::workspace()))?;
    let folder = &cluster.layout.state;
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let turn = File::create(folder.join("turn"))?;
    flock(&turn, FlockOperation::LockExclusive)?;
    stray::watch(&cluster.layout)?;
    start(&cluster, &options())?;
    Ok(Shared { cluster, _turn: turn })
}

pub(crate) fn cluster(layout: Layout) -> Result<Cluster> {
    let kubectl = deps::kubectl(&layout.state.join("tools"))?;
    Ok(Cluster::new(layout, binaries::built(Profile::Dev)?, kubectl))
}

pub(crate) fn start(cluster: &Cluster, options: &Options) -> Result<()> {
    cluster.start_server(options)?;
    for index in 1..=options.nodes {
        cluster.start_node(index)?;
    }
    cluster.wait_for_nodes(options.nodes, |_| ())
}

/// A namespace of a test's own, deleted when dropped.
pub(crate) struct Space<'a> {
    pub(crate) kubectl: &'a Kubectl,
    pub(crate) name: String,
}

impl<'a> Space<'a> {
    pub(crate) fn new(kubectl: &'a Kubectl, name: &str) -> Result<Space<'a>> {
        // Remove what an interrupted run left behind.
        kubectl.run(&["delete", "namespace", name, "--ignore-not-found", "--timeout=60s"])?;
        kubectl.run(&["create", "namespace", name])?;
        // Pods are refused until their namespace has its service account.
        kubectl.wait(&["serviceaccounts", "--namespace", name], Duration::from_secs(20), |found| {
            (!found.is_empty()).then_some(())
        })?;
        Ok(Space { kubectl, name: name.to_owned() })
    }

    /// kubectl in this namespace.
    pub(crate) fn run(&self, args: &[&str]) -> Result<String> {
        self.kubectl.run(&[&["--namespace", &self.name], args].concat())
    }

    pub(crate) fn get(&self, args: &[&str]) -> Result<Value> {
        self.kubectl.get(&[&["--namespace", &self.name], args].concat())
    }

    /// Runs a command that must fail; returns its error text.
    pub(crate) fn refused(&self, args: &[&str]) -> Result<String> {
        let output = self.kubectl.output(&[&["--namespace", &self.name], args].concat())?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        ensure!(!output.status.success(), "kubectl {args:?} succeeded");
        Ok(said)
    }

    pub(crate) fn apply(&self, manifest: &str) -> Result<String> {
        self.kubectl.apply_text(&manifest.replace("NAMESPACE", &self.name))
    }

    /// A Deployment of the example's image, rolled out.
    pub(crate) fn deploy(&self, name: &str, replicas: usize) -> Result<()> {
        let (image, replicas) =
            (format!("--image={}", xtask::image::EXAMPLE), format!("--replicas={replicas}"));
        self.run(&["create", "deployment", name, &image, &replicas])?;
        self.rolled_out(name)
    }

    pub(crate) fn rolled_out(&self, name: &str) -> Result<()> {
        let done = self.run(&["rollout", "status", "--timeout=60s", &format!("deployment/{name}")]);
        done.map(drop).map_err(|error| {
            let pods = self.run(&["get", "pods", "--output=wide"]).unwrap_or_default();
            let events = self.run(&["get", "events", "--field-selector=type=Warning"]).unwrap_or_default();
            error.context(format!("{pods}\n{events}"))
        })
    }

    pub(crate) fn expose(&self, name: &str) -> Result<String> {
        self.run(&["expose", "deployment", name, "--port=80", "--target-port=8080"])?;
        let service = self.get(&["service", name])?;
        Ok(text(&service, "/spec/clusterIP").to_owned())
    }

    /// Pods that are Ready and not on their way out, by label.
    pub(crate) fn ready_pods(&self, selector: &str) -> Result<Vec<Value>> {
        let list = self.get(&["pods", "--selector", selector])?;
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        let stays = |pod: &Value| pod.pointer("/metadata/deletionTimestamp").is_none();
        Ok(pods.into_iter().filter(|pod| condition(pod, "Ready") && stays(pod)).collect())
    }

    pub(crate) fn wait_ready(&self, selector: &str, count: usize) -> Result<()> {
        let args = ["pods", "--namespace", &self.name, "--selector", selector];
        self.kubectl.wait(&args, Duration::from_secs(60), |pods| {
            let ready = pods.iter().filter(|pod| condition(pod, "Ready")).count();
            (ready == count && pods.len() == count).then_some(())
        })
    }

    /// A shell command in a pod of the Deployment `name`.
    pub(crate) fn exec(&self, name: &str, script: &str) -> Result<String> {
        self.run(&["exec", &format!("deployment/{name}"), "--", "sh", "-c", script])
    }
}

impl Drop for Space<'_> {
    fn drop(&mut self) {
        let _ = self.kubectl.run(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}

/// Counts the answers to requests for a URL from inside a pod of the Deployment `from`.
pub(crate) fn answers(
    space: &Space<'_>,
    from: &str,
    url: &str,
    requests: usize,
) -> Result<std::collections::BTreeMap<String, usize>> {
    let script = format!("for i in $(seq {requests}); do timeout 5 wget -q -O - {url} || echo failed; done");
    let mut counted = std::collections::BTreeMap::new();
    for line in space.exec(from, &script)?.lines() {
        let first = line.split_whitespace().next().unwrap_or("nothing");
        *counted.entry(first.to_owned()).or_default() += 1;
    }
    Ok(counted)
}

/// Runs `work` on a thread in the pod's network namespace. It is in no cgroup of a pod: services are translated by
/// packet for it, not at the socket.
pub(crate) fn in_pod<T: Send>(
    cluster: &Cluster,
    pod: &Value,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let namespace = pod_namespace(cluster, pod)?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || -> Result<T> {
            let file = File::open(&namespace).with_context(|| format!("open {}", namespace.display()))?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .context("enter the pod's namespace")?;
            work()
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The network namespace of a running pod's first container.
pub(crate) fn pod_namespace(cluster: &Cluster, pod: &Value) -> Result<PathBuf> {
    let id = text(pod, "/status/containerStatuses/0/containerID").trim_start_matches("containerd://");
    ensure!(!id.is_empty(), "pod {} has no container yet", text(pod, "/metadata/name"));
    let mut folders = vec![host::cgroup_root()?.join(&cluster.layout.name)];
    while let Some(folder) = folders.pop() {
        if folder.file_name().is_some_and(|name| name.to_string_lossy().contains(id)) {
            let file = folder.join("cgroup.procs");
            let processes = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            let first = processes.lines().next().context("the container has no process")?;
            return Ok(PathBuf::from(format!("/proc/{first}/ns/net")));
        }
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        folders.extend(entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    bail!("no cgroup of container {id}")
}
