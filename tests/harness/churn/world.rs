//! A server, two nodes with their agents, pods with echo servers on both, and the Service that the connections use.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use xtask::binaries;
use xtask::cluster::layout::{Layout, NodeLayout, UPLINK};
use xtask::cluster::process::{Processes, Spec, args};
use xtask::cluster::{self, Cluster, Options, Store, host};
use xtask::deps;

use super::traffic;
use crate::netns::NetNs;

const NODES: [u8; 2] = [1, 2];
/// Of each backend: the others are on the first node.
const BACKENDS: [u8; 3] = [1, 1, 2];
const READY_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) const PORT: u16 = 8080;
pub(super) const STEADY: &str = "steady";
const CLOSED: &str = "closed";

/// Everything is unmade when it is dropped: pods' namespaces first, the cluster last.
pub(super) struct World {
    pub(super) client: Client,
    pub(super) visitor: NetNs,
    pub(super) backends: Vec<Ipv4Addr>,
    pub(super) cluster_addr: SocketAddr,
    /// Of every node.
    pub(super) node_ports: Vec<SocketAddr>,
    /// Of the node that the visitor is on.
    pub(super) node_addr: Ipv4Addr,
    /// An address of this machine that is outside the cluster.
    pub(super) outside: Ipv4Addr,
    /// Where a pod listens that policy closes, by its address and by a Service.
    pub(super) closed: [SocketAddr; 2],
    _pods: Vec<NetNs>,
    processes: Processes,
    agents: Vec<Spec>,
    /// How many agents were ended.
    ended: usize,
    _down: Down,
    /// Released last.
    _lock: File,
}

/// Namespaces and links of the churn have names that are the machine's: a second run would take the first one's down.
fn lock() -> Result<File> {
    let path = Path::new("/run/skep-churn.lock");
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    file.try_lock().context("another soak or churn test runs on this machine: wait until it has ended")?;
    Ok(file)
}

struct Down(Layout);

impl Drop for Down {
    fn drop(&mut self) {
        let _ = cluster::seize(&self.0);
    }
}

pub(super) fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an API object")
}

impl World {
    pub(super) fn new(options: &super::options::Options, runtime: &Runtime) -> Result<World> {
        let layout = Layout::named("skepchrn", &xtask::workspace().join("target/skep-churn"), 92);
        let lock = lock()?;
        cluster::seize(&layout)?;
        let down = Down(layout.clone());
        let kubectl = deps::kubectl(&layout.state.join("tools"))?;
        let binaries = binaries::built(options.profile)?;
        let cluster = Cluster::new(layout.clone(), binaries.clone(), kubectl);
        // No kubelet renews the node's Lease here.
        cluster.start_server(&Options {
            nodes: NODES.len() as u8,
            store: Store::Embedded,
            node_grace: u16::MAX,
        })?;
        let client = runtime.block_on(client(layout.kubeconfig()))?;
        let nodes = NODES.map(|index| layout.node(index));
        let processes = Processes::new(layout.pids());
        let start = |node| agent(&layout, node, binaries.skep.clone(), options.overlay);
        let agents = nodes.iter().map(start).collect::<Result<Vec<Spec>>>()?;
        for (agent, node) in agents.iter().zip(&nodes) {
            processes.converge(agent)?;
            runtime.block_on(register(&client, node))?;
        }
        let mut pods = Vec::new();
        let mut backends = Vec::new();
        for (number, index) in BACKENDS.into_iter().enumerate() {
            let node = layout.node(index);
            let (pod, addr) =
                runtime.block_on(add_pod(&client, &node, &format!("pod-{number}"), "backend"))?;
            traffic::serve(&pod, SocketAddr::from((addr, PORT)), runtime)?;
            backends.push(addr);
            pods.push(pod);
        }
        let (visitor, _) = runtime.block_on(add_pod(&client, &nodes[0], "visitor", "visitor"))?;
        let (pod, closed) = runtime.block_on(add_pod(&client, &nodes[1], "closed", CLOSED))?;
        traffic::serve(&pod, SocketAddr::from((closed, PORT)), runtime)?;
        pods.push(pod);
        let closed_vip = runtime.block_on(close(&client, closed))?;
        let (vip, port) = runtime.block_on(steady(&client, &backends))?;
        let cluster_addr = SocketAddr::from((vip, 80));
        let world = World {
            client,
            visitor,
            backends,
            cluster_addr,
            node_ports: nodes.iter().map(|node| SocketAddr::from((node.addr, port))).collect(),
            node_addr: nodes[0].addr,
            outside: layout.gateway_addr(),
            closed: [SocketAddr::from((closed, PORT)), SocketAddr::from((closed_vip, 80))],
            _pods: pods,
            processes,
            agents,
            ended: 0,
            _down: down,
            _lock: lock,
        };
        world.answers(cluster_addr).context("before the churn")?;
        world.refuses().context("before the churn")?;
        Ok(world)
    }

    /// Ends the agent of each node in turn and starts it again.
    pub(super) fn restart_agent(&mut self, by_force: bool) -> Result<()> {
        let agent = &self.agents[self.ended / 2 % self.agents.len()];
        self.ended += 1;
        let ended = match by_force {
            true => self.processes.kill(&agent.name)?,
            false => self.processes.end(&agent.name, Duration::from_secs(10))?,
        };
        let last = || cluster::process::tail(&agent.log, 12);
        ensure!(ended, "{} had ended by itself; it says\n{}", agent.name, last());
        self.processes.converge(agent)?;
        Ok(())
    }

    /// Waits until the closed pod is closed.
    fn refuses(&self) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let connects = |to: &SocketAddr| TcpStream::connect_timeout(to, traffic::REFUSAL_TIMEOUT).is_ok();
        while self.visitor.run(|| self.closed.iter().any(connects))? {
            ensure!(Instant::now() < deadline, "the policy is not in force");
        }
        Ok(())
    }

    /// Where pods ask for names; the server makes that Service at its start.
    pub(super) async fn dns_addr(&self) -> Result<SocketAddr> {
        let services: Api<Service> = Api::namespaced(self.client.clone(), "kube-system");
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let service = services.get_opt("kube-dns").await?;
            if let Some(addr) = service.and_then(|service| service.spec?.cluster_ip) {
                return Ok(SocketAddr::from((addr.parse::<Ipv4Addr>()?, 53)));
            }
            ensure!(Instant::now() < deadline, "there is no Service kube-dns");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether a Service made now is served soon.
    pub(super) fn serves_a_new_service(&self, runtime: &Runtime) -> Result<()> {
        let vip = runtime.block_on(async {
            let vip = create_service(&self.client, "last", "ClusterIP").await?.0;
            create_slice(&self.client, "last", &self.backends).await.map(|()| vip)
        })?;
        self.answers(SocketAddr::from((vip, 80)))
    }

    fn answers(&self, to: SocketAddr) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            match self.visitor.run(|| traffic::dial(to))? {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error).with_context(|| format!("{to} does not answer"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

async fn client(kubeconfig: PathBuf) -> Result<Client> {
    let read = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Links, cgroup and pins of the node, and how its agent is started.
fn agent(layout: &Layout, node: &NodeLayout, skep: PathBuf, overlay: bool) -> Result<Spec> {
    host::make_node_network(layout, node)?;
    let cgroup = host::make_cgroup(node)?;
    host::mount_bpf(&node.bpffs())?;
    let mut words = args([
        "agent".to_owned(),
        "--network-only".to_owned(),
        format!("--node={}", node.name),
        format!("--node-ip={}", node.addr),
        format!("--uplink={UPLINK}"),
        format!("--tunnel={}", if overlay { "vxlan" } else { "none" }),
    ]);
    for (flag, path) in [
        ("--kubeconfig", layout.kubeconfig()),
        ("--data-dir", node.agent_root()),
        ("--cni-socket", node.cni_socket()),
        ("--bpffs", node.bpffs()),
        ("--cgroup", cgroup.clone()),
    ] {
        words.extend([flag.into(), path.into()]);
    }
    let name = format!("churn-{}", node.name);
    Ok(Spec {
        program: skep,
        args: words,
        env: Vec::new(),
        netns: Some(node.netns_path()),
        cgroup: Some(host::system_cgroup(&cgroup)),
        log: layout.logs().join(format!("{name}.log")),
        name,
    })
}

/// The Node, as a kubelet makes it, and the namespace's account, without which there are no pods.
async fn register(client: &Client, node: &NodeLayout) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    nodes.create(&PostParams::default(), &object(json!({"metadata": {"name": node.name}}))).await?;
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": node.addr}]}});
    nodes.patch_status(&node.name, &PatchParams::default(), &Patch::Merge(status)).await?;
    let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
    let deadline = Instant::now() + READY_TIMEOUT;
    while accounts.get_opt("default").await?.is_none() {
        ensure!(Instant::now() < deadline, "no service account is made");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// A namespace with the pod's interface, and the pod's address.
async fn add_pod(client: &Client, node: &NodeLayout, name: &str, app: &str) -> Result<(NetNs, Ipv4Addr)> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let pod = object(json!({
        "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"nodeName": node.name, "automountServiceAccountToken": false,
                 "containers": [{"name": "main", "image": "localhost/none:1"}]},
    }));
    pods.create(&PostParams::default(), &pod).await?;
    let netns = NetNs::new(&format!("skepchrn-{name}"))?;
    let config =
        json!({"cniVersion": "1.0.0", "name": "skep", "type": "skep-cni", "agentSocket": node.cni_socket()});
    let environment = skep_cni::Environment {
        command: Some("ADD".into()),
        container_id: Some(format!("sandbox-{name}")),
        netns: Some(netns.path().display().to_string()),
        ifname: Some("eth0".into()),
        args: Some(format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}")),
    };
    let deadline = Instant::now() + READY_TIMEOUT;
    let added = loop {
        let outcome = skep_cni::run(&environment, config.to_string().as_bytes()).await;
        match outcome.stdout {
            Some(added) if !outcome.failed => break added,
            answer if Instant::now() > deadline => bail!("ADD {name}: {answer:?}"),
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    let address = added["ips"][0]["address"].as_str().and_then(|text| text.strip_suffix("/32"));
    Ok((netns, address.context("no address")?.parse()?))
}

/// Closes the pod with that address for everyone, and makes a Service for it; the Service's address.
async fn close(client: &Client, addr: Ipv4Addr) -> Result<Ipv4Addr> {
    let policies: Api<NetworkPolicy> = Api::default_namespaced(client.clone());
    let policy = object(json!({
        "metadata": {"name": CLOSED},
        "spec": {"podSelector": {"matchLabels": {"app": CLOSED}}, "policyTypes": ["Ingress"]},
    }));
    policies.create(&PostParams::default(), &policy).await?;
    let made = create_service(client, CLOSED, "ClusterIP").await?;
    create_slice(client, CLOSED, &[addr]).await?;
    Ok(made.0)
}

async fn steady(client: &Client, backends: &[Ipv4Addr]) -> Result<(Ipv4Addr, u16)> {
    let made = create_service(client, STEADY, "NodePort").await?;
    create_slice(client, STEADY, backends).await?;
    Ok(made)
}

/// Gives the cluster address and the node port, 0 where there is none.
pub(super) async fn create_service(client: &Client, name: &str, kind: &str) -> Result<(Ipv4Addr, u16)> {
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let service = object(json!({
        "metadata": {"name": name},
        "spec": {"type": kind, "ports": [{"port": 80, "targetPort": PORT}]},
    }));
    let service = services.create(&PostParams::default(), &service).await?;
    let spec = service.spec.context("no spec")?;
    let port = spec.ports.iter().flatten().find_map(|port| port.node_port).unwrap_or_default();
    Ok((spec.cluster_ip.context("no cluster address")?.parse()?, u16::try_from(port)?))
}

pub(super) async fn create_slice(client: &Client, service: &str, backends: &[Ipv4Addr]) -> Result<()> {
    let slices: Api<EndpointSlice> = Api::default_namespaced(client.clone());
    let endpoints: Vec<Value> = backends.iter().map(|addr| json!({"addresses": [addr]})).collect();
    let slice = object(json!({
        "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"port": PORT}], "endpoints": endpoints,
    }));
    slices.create(&PostParams::default(), &slice).await?;
    Ok(())
}

pub(super) async fn replace_endpoints(client: &Client, service: &str, backends: &[Ipv4Addr]) -> Result<()> {
    let slices: Api<EndpointSlice> = Api::default_namespaced(client.clone());
    let endpoints: Vec<Value> = backends.iter().map(|addr| json!({"addresses": [addr]})).collect();
    slices.patch(service, &PatchParams::default(), &Patch::Merge(json!({"endpoints": endpoints}))).await?;
    Ok(())
}
