//! A cluster on one machine: one server, nodes made of network namespaces, each with its own containerd and agent.
//!
//! `cargo xtask up` and the cluster tests share this code. Starting converges: what already runs as wanted stays.

pub mod containerd;
pub mod host;
pub mod kubectl;
pub mod layout;
pub mod process;
pub mod stray;
mod teardown;
mod trouble;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::image;
use kubectl::Kubectl;
use layout::{Layout, MAX_NODES, NodeLayout, UPLINK};
use process::{Processes, Spec, args, tail};
use trouble::trouble;

/// Where the server keeps its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    Embedded,
    Etcd,
}

/// The wanted state of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    pub nodes: u8,
    pub store: Store,
    /// Seconds without a Lease after which a node is lost.
    pub node_grace: u16,
}

impl Default for Options {
    fn default() -> Options {
        Options { nodes: 3, store: Store::Embedded, node_grace: 20 }
    }
}

/// Paths of the built binaries.
#[derive(Clone, Debug)]
pub struct Binaries {
    pub skep: PathBuf,
    /// The folder of `skep-cni`.
    pub plugins: PathBuf,
}

/// What an agent needs to join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Join {
    token: String,
    ca_hash: String,
}

pub struct Cluster {
    pub layout: Layout,
    pub kubectl: Kubectl,
    binaries: Binaries,
    processes: Processes,
}

const SERVER: &str = "server";
const ETCD: &str = "etcd";
const START_TIMEOUT: Duration = Duration::from_secs(30);

impl Cluster {
    pub fn new(layout: Layout, binaries: Binaries, kubectl: PathBuf) -> Cluster {
        let kubectl = Kubectl { program: kubectl, kubeconfig: layout.kubeconfig() };
        let processes = Processes::new(layout.pids());
        Cluster { layout, kubectl, binaries, processes }
    }

    /// The options that the running cluster was started with.
    pub fn options(&self) -> Result<Options> {
        let file = self.layout.state.join("options.json");
        let text = fs::read(&file).context("there is no cluster; start one with `cargo xtask up`")?;
        serde_json::from_slice(&text).with_context(|| format!("read {}", file.display()))
    }

    /// Starts the store and the server, and waits until it is ready.
    pub fn start_server(&self, options: &Options) -> Result<()> {
        if options.nodes > MAX_NODES {
            bail!("{} nodes are more than one machine is asked to play ({MAX_NODES})", options.nodes);
        }
        if let Ok(before) = self.options()
            && before.store != options.store
        {
            bail!("the cluster's store is {:?}; `cargo xtask down` first", before.store);
        }
        self.claim()?;
        fs::create_dir_all(&self.layout.state)
            .with_context(|| format!("create {}", self.layout.state.display()))?;
        fs::write(self.layout.state.join("options.json"), serde_json::to_vec(options)?)?;
        host::make_bridge(&self.layout)?;
        host::make_server_network(&self.layout)?;
        if options.store == Store::Etcd {
            self.processes.converge(&self.etcd()?)?;
        }
        let server = self.server(options);
        self.processes.converge(&server)?;
        self.wait_for_server(&server.log)
    }

    /// Names and addresses are the machine's: a running cluster of another source tree is not taken over.
    fn claim(&self) -> Result<()> {
        let (run, state) = (self.layout.run(), &self.layout.state);
        if as_left(&self.layout).state != *state {
            tear_down(&self.layout).context(
                "start this cluster beside the other with `--cluster` and a number from 88 to 95, or end that one",
            )?;
        }
        fs::create_dir_all(&run).with_context(|| format!("create {}", run.display()))?;
        let file = owner_file(&self.layout);
        fs::write(&file, state.display().to_string()).with_context(|| format!("write {}", file.display()))
    }

    fn server(&self, options: &Options) -> Spec {
        let layout = &self.layout;
        let mut words = args(["server", "--data-dir"]);
        words.push(layout.state.join("server").into());
        words.extend(args([
            format!("--listen={}", SocketAddr::from((layout.server_addr(), 6443))),
            format!("--service-cidr={}", layout.service_cidr()),
            format!("--cluster-cidr={}", layout.pod_cidr()),
            format!("--node-monitor-grace-period={}s", options.node_grace),
        ]));
        words.push("--write-kubeconfig".into());
        words.push(layout.kubeconfig().into());
        if options.store == Store::Etcd {
            words.push(format!("--store=etcd={}", self.etcd_url()).into());
        }
        Spec {
            name: SERVER.to_owned(),
            program: self.binaries.skep.clone(),
            args: words,
            env: Vec::new(),
            netns: Some(self.layout.server_netns_path()),
            cgroup: None,
            log: layout.logs().join("server.log"),
        }
    }

    fn etcd(&self) -> Result<Spec> {
        let url = self.etcd_url();
        let mut words = args(["--name", "skep", "--data-dir"]);
        words.push(self.layout.state.join("etcd").into());
        words.extend(args([
            "--listen-client-urls",
            &url,
            "--advertise-client-urls",
            &url,
            "--listen-peer-urls",
            "http://127.0.0.1:0",
        ]));
        Ok(Spec {
            name: ETCD.to_owned(),
            program: crate::deps::program("etcd").context("no etcd (Debian: apt-get install etcd-server)")?,
            args: words,
            env: vec![("ETCD_UNSUPPORTED_ARCH".into(), std::env::consts::ARCH.into())],
            netns: Some(self.layout.server_netns_path()),
            cgroup: None,
            log: self.layout.logs().join("etcd.log"),
        })
    }

    /// On loopback of the server's namespace, because it authenticates no one.
    pub fn etcd_url(&self) -> String {
        let port = 12_000 + u16::from(self.layout.server_addr().octets()[1]);
        format!("http://127.0.0.1:{port}")
    }

    pub fn wait_for_server(&self, log: &Path) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if self.kubectl.kubeconfig.exists() && self.kubectl.run(&["get", "--raw=/readyz"]).is_ok() {
                return Ok(());
            }
            if self.processes.pid(SERVER).is_none() {
                bail!("the server ended; the end of {}:\n{}", log.display(), tail(log, 12));
            }
            if Instant::now() > deadline {
                bail!("the server is not ready; the end of {}:\n{}", log.display(), tail(log, 12));
            }
            // It may not listen yet: poll.
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Starts node `index` (from 1): namespace, containerd, agent. It is Ready some time later.
    pub fn start_node(&self, index: u8) -> Result<()> {
        let node = self.layout.node(index);
        let cgroup = self.start_runtime(&node)?;
        self.import_images(&node)?;
        let agent = self.agent(&node, &cgroup)?;
        self.processes.converge(&agent)?;
        Ok(())
    }

    /// Prepares what the agent needs: links, cgroup, pins, containerd. Returns the node's cgroup.
    pub fn start_runtime(&self, node: &NodeLayout) -> Result<PathBuf> {
        host::make_node_network(&self.layout, node)?;
        let cgroup = host::make_cgroup(node)?;
        host::mount_bpf(&node.bpffs())?;
        let containerd =
            containerd::spec(&self.layout, node, &self.binaries.plugins, &host::system_cgroup(&cgroup))?;
        self.processes.converge(&containerd)?;
        containerd::wait(&node.containerd_socket(), &containerd.log)?;
        Ok(cgroup)
    }

    fn agent(&self, node: &NodeLayout, cgroup: &Path) -> Result<Spec> {
        let join = self.join()?;
        let mut words = args([
            "agent".to_owned(),
            format!("--node={}", node.name),
            format!("--server={}", self.layout.server_url()),
            format!("--ca-hash={}", join.ca_hash),
            format!("--node-ip={}", node.addr),
            format!("--uplink={UPLINK}"),
            format!("--cgroup-parent=/{}", node.cgroup),
            "--lease-interval=2s".to_owned(),
            // The disk is the developer's, and may be nearly full.
            "--eviction-hard=memory.available<100Mi,nodefs.available<100Mi,imagefs.available<100Mi"
                .to_owned(),
            "--image-gc-high-threshold=100".to_owned(),
        ]);
        for (flag, path) in [
            ("--data-dir", node.agent_root()),
            ("--containerd", node.containerd_socket()),
            ("--cni-socket", node.cni_socket()),
            ("--bpffs", node.bpffs()),
            ("--cgroup", cgroup.to_owned()),
        ] {
            words.extend([flag.into(), path.into()]);
        }
        Ok(Spec {
            name: format!("agent-{}", node.name),
            program: self.binaries.skep.clone(),
            args: words,
            env: vec![("SKEP_TOKEN".into(), join.token.into())],
            netns: Some(node.netns_path()),
            cgroup: Some(host::system_cgroup(cgroup)),
            log: self.layout.logs().join(format!("agent-{}.log", node.name)),
        })
    }

    /// The bootstrap token of all nodes; made once.
    fn join(&self) -> Result<Join> {
        let file = self.layout.state.join("join.json");
        if let Ok(text) = fs::read(&file) {
            return serde_json::from_slice(&text).with_context(|| format!("read {}", file.display()));
        }
        let mut command = Command::new(&self.binaries.skep);
        command.args(["token", "create", "--output=json", "--kubeconfig"]).arg(&self.kubectl.kubeconfig);
        let output = command.output().with_context(|| format!("run {}", self.binaries.skep.display()))?;
        if !output.status.success() {
            bail!("skep token create: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let join: Join = serde_json::from_slice(&output.stdout).context("what skep token create prints")?;
        fs::write(&file, serde_json::to_vec(&join)?).with_context(|| format!("write {}", file.display()))?;
        Ok(join)
    }

    /// Writes images into the folder that the agent imports from.
    fn import_images(&self, node: &NodeLayout) -> Result<()> {
        let folder = node.agent_root().join("images");
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        image::pause(&folder.join("pause.tar"))?;
        image::example(&folder.join("example.tar"))
    }

    /// Waits until `nodes` nodes are Ready; `each` is called with the number that is.
    pub fn wait_for_nodes(&self, nodes: u8, mut each: impl FnMut(usize)) -> Result<()> {
        let mut troubles = Vec::new();
        let waited = self.kubectl.wait(&["nodes"], Duration::from_secs(90), |objects| {
            troubles = objects.iter().filter_map(trouble).collect();
            let usable = objects.len() - troubles.len();
            each(usable);
            (usable >= usize::from(nodes)).then_some(())
        });
        waited.map_err(|error| {
            let logs = (1..=nodes).map(|index| self.last_words(index));
            let details: Vec<String> = troubles.into_iter().chain(logs).collect();
            error.context(format!("not all nodes are Ready and without taints\n{}", details.join("\n")))
        })
    }

    fn last_words(&self, index: u8) -> String {
        let name = format!("agent-{}", self.layout.node(index).name);
        let log = self.layout.logs().join(format!("{name}.log"));
        let state = if self.processes.pid(&name).is_some() { "runs" } else { "has ended" };
        format!("{name} {state}; the end of {}:\n{}", log.display(), tail(&log, 5))
    }

    pub fn server_pid(&self) -> Option<u32> {
        self.processes.pid(SERVER)
    }

    pub fn agent_pid(&self, index: u8) -> Option<u32> {
        self.processes.pid(&format!("agent-{}", self.layout.node(index).name))
    }

    /// Kills the server as a power cut would.
    pub fn kill_server(&self) -> Result<bool> {
        self.processes.kill(SERVER)
    }

    pub fn kill_agent(&self, index: u8) -> Result<bool> {
        self.processes.kill(&format!("agent-{}", self.layout.node(index).name))
    }

    /// Ends node `index` and takes it out of the cluster.
    pub fn remove_node(&self, index: u8) -> Result<()> {
        let node = self.layout.node(index);
        teardown::node(&self.processes, &node)?;
        self.kubectl.run(&["delete", "node", &node.name, "--ignore-not-found"])?;
        Ok(())
    }

    /// Indexes of the nodes that are there, from what is on this machine.
    pub fn nodes_present(&self) -> Vec<u8> {
        let names = host::namespaces(&format!("{}-node-", self.layout.name));
        names.iter().filter_map(|name| name.rsplit('-').next()?.parse().ok()).collect()
    }

    /// Cuts a node's uplink or heals it.
    pub fn set_uplink(&self, index: u8, up: bool) -> Result<()> {
        let port = self.layout.node(index).port;
        host::ip(&["link", "set", &port, if up { "up" } else { "down" }])?;
        Ok(())
    }
}

/// Says from which source tree a cluster was started.
fn owner_file(layout: &Layout) -> PathBuf {
    layout.run().join("owner")
}

/// Finds the running cluster of that name; its state folder is in the source tree that started it.
pub fn as_left(layout: &Layout) -> Layout {
    let mut left = layout.clone();
    if let Ok(owner) = fs::read_to_string(owner_file(layout)) {
        left.state = PathBuf::from(owner);
    }
    left
}

/// Ends and removes everything of a cluster and reports what it removed. Idempotent. Leftovers of another source tree's dead
/// cluster are removed too; a running one is refused.
pub fn tear_down(layout: &Layout) -> Result<Vec<String>> {
    let left = as_left(layout);
    if left.state != layout.state && teardown::is_alive(&left) {
        bail!(
            "a cluster with this number runs from {}; end it there with `cargo xtask down`",
            left.state.display()
        );
    }
    teardown::cluster(&left)
}

/// The same for any source tree's cluster, running or not: for test clusters, by the process that holds the lock.
pub fn seize(layout: &Layout) -> Result<Vec<String>> {
    teardown::cluster(&as_left(layout))
}

/// What is still there of a cluster: processes, namespaces, links, mounts, cgroups, sockets.
pub fn leftovers(layout: &Layout) -> Result<Vec<String>> {
    teardown::leftovers(layout)
}
