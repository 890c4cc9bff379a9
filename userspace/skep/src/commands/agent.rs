//! `skep agent`: runs this machine as a node, or, with `--network-only`, the network of a node of any Kubernetes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use skep_datapath::{FlowGroup, Options, ProgramLogLevel, SocketLb, Timeouts, Uplinks, XdpMode};
use skep_dns::Dns;
use skep_holder::Purpose;
use skep_network::{
    DnsSubscriptions, FlowLog, FlowLogLevel, Informers, KernelNetwork, NetworkConfig, NetworkState, NodeDns,
    Parts, Publisher, SettingsSource, Subscriptions,
};
use skep_node::eviction::{EvictionSettings, signals};
use skep_node::{
    AgentConfig, FlowSource, Inputs, MetricsSource, OtherParts, PodLimits, ServerTunnels, ServingTls,
};
use skep_tunnel::Keeper;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::agent_gateway::{DataPlane, IngressArguments, telemetry};
use super::agent_kubelet::KubeletArguments;
use super::{cgroup, duration, flow_timeout, hold_sockets};
use crate::join::{Identity, IdentityFolder, Invitation, Trusted, fetch_trusted};
use crate::kubeconfig::{Credentials, Impersonated, client, client_from_file};
use crate::tunnel;

#[derive(clap::Args)]
pub(crate) struct Agent {
    /// Name of the Node
    #[arg(long)]
    node: String,
    /// The API server, as https://HOST:PORT
    #[arg(long, required_unless_present = "kubeconfig")]
    server: Option<String>,
    /// File with the bootstrap token of `skep token create`; needed once
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// The bootstrap token itself. Every user of the machine can read a command line: use the file or the variable
    #[arg(long, env = "SKEP_TOKEN", hide_env_values = true, conflicts_with = "token_file")]
    token: Option<String>,
    /// SHA-256 of the CA's public key, as `skep token create` prints it; needed once
    #[arg(long)]
    ca_hash: Option<String>,
    /// Use the credentials of this kubeconfig instead of joining
    #[arg(long, conflicts_with_all = ["server", "token", "token_file", "ca_hash"], requires = "network_only")]
    kubeconfig: Option<PathBuf>,
    /// Run only the network (services, policy, pod interfaces), for a node with a kubelet
    #[arg(long)]
    network_only: bool,
    /// Data directory: keys, volumes, images, logs
    #[arg(long, default_value = "/var/lib/skep/agent")]
    data_dir: PathBuf,
    /// The node's address; may be repeated for IPv4 and IPv6
    #[arg(long = "node-ip", required = true)]
    node_ips: Vec<IpAddr>,
    /// Interface to the other nodes or the outside; may be repeated [default: every Ethernet interface with a default route or one
    /// of the node's addresses]
    #[arg(long = "uplink", value_delimiter = ',')]
    uplinks: Vec<String>,
    /// Mode of the uplinks' XDP program: auto, driver, generic or off; auto: driver mode if supported, else generic, and off
    /// on a veth
    #[arg(long, default_value_t)]
    xdp: XdpMode,
    /// Port of the kubelet API
    #[arg(long, default_value_t = 10250)]
    port: u16,
    /// Socket of containerd
    #[arg(long, default_value = "/run/containerd/containerd.sock")]
    containerd: PathBuf,
    /// Socket on which the agent serves skep-cni
    #[arg(long, default_value = "/run/skep/cni.sock")]
    cni_socket: PathBuf,
    /// Folder on a mounted BPF file system
    #[arg(long, default_value = "/sys/fs/bpf/skep")]
    bpffs: PathBuf,
    /// cgroup v2 folder whose processes get service load balancing at the socket [default: the mounted root]
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// Parent cgroup of pods
    #[arg(long, default_value = "/skep")]
    cgroup_parent: String,
    /// Networks of the pods' addresses [default: the Node's podCIDRs]
    #[arg(long)]
    pod_cidr: Vec<IpNetwork>,
    /// Network of the services' cluster addresses, once for IPv4 and once for IPv6; packets to an address that no service has are
    /// dropped [default: they are routed]
    #[arg(long)]
    service_cidr: Vec<IpNetwork>,
    /// Network of those addresses of the node on which node ports are open; may be repeated [default: all addresses]
    #[arg(long, value_delimiter = ',')]
    nodeport_addresses: Vec<IpNetwork>,
    /// Network outside the cluster to which pods speak with their own addresses; may be repeated [default: none; pods speak to the
    /// outside as the node]
    #[arg(long, value_delimiter = ',')]
    non_masquerade_cidr: Vec<IpNetwork>,
    /// MTU of pod interfaces [default: the least of the uplinks, minus the overhead of the tunnel]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    mtu: u32,
    /// How packets reach pods of other nodes: unencapsulated, or in VXLAN if the network routes only node addresses
    #[arg(long, value_enum, default_value = "none")]
    tunnel: Tunnel,
    /// Entries of the table of flows, at least 4096; a table that is there already keeps its size until the node is rebooted
    /// [default: one for each 64 KiB of memory, 65536 to 2097152]
    #[arg(long, value_parser = clap::value_parser!(u32).range(4_096..))]
    conntrack_max: Option<u32>,
    /// How long a flow keeps its entry without a packet, as udp=30s; may be repeated. Groups: tcp-established (8000s),
    /// sctp-established (210s), closing (120s), opening (120s), udp (180s), icmp (60s), other (600s)
    #[arg(long, value_delimiter = ',', value_parser = flow_timeout)]
    conntrack_timeout: Vec<(FlowGroup, u32)>,
    /// New flows a second that one pod may open, after a burst of as many; more are dropped as "flow rate" [default: no limit]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pod_new_flows: Option<u32>,
    /// Whose sockets are translated at connect; the packets of others are translated one by one. `host` leaves out pods, for those
    /// with a service mesh's proxy or a virtual machine
    #[arg(long, value_enum, default_value = "all")]
    socket_lb: SocketLbArgument,
    /// TCP packets of more than 64 KB inside the machine, on the uplinks and to pods that are added: fewer packets for the same data. It
    /// needs Linux 6.3 for IPv4
    #[arg(long)]
    big_tcp: bool,
    /// Which flow events are recorded without a reader; readers of `skep flows --follow` always get all
    #[arg(long, value_enum, default_value = "drops")]
    flow_log: FlowLogArgument,
    /// What the BPF programs log about packets; the agent's log has the lines, under the target bpf
    #[arg(long, value_enum, default_value = "off")]
    bpf_log: BpfLogArgument,
    /// Label of the Node, as key=value; may be repeated
    #[arg(long = "node-label", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Taint of the Node at registration, as key=value:Effect; may be repeated
    #[arg(long = "register-with-taint")]
    taints: Vec<String>,
    /// Name servers of pods [default: the addresses of the Service kube-system/kube-dns]
    #[arg(long)]
    cluster_dns: Vec<IpAddr>,
    /// Domain of services
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Interval of the node's heartbeats (Lease renewals)
    #[arg(long, default_value = "10s", value_parser = duration)]
    lease_interval: Duration,
    /// Maximum number of pods
    #[arg(long, default_value_t = 110)]
    max_pods: u32,
    /// Sysctl that pods may set in addition to the safe ones, or a prefix that ends with `*`; may be repeated
    #[arg(long, value_delimiter = ',')]
    allowed_unsafe_sysctls: Vec<String>,
    /// Give a container without a seccomp profile the runtime's default profile
    #[arg(long)]
    seccomp_default: bool,
    /// Maximum number of processes and threads of a pod [default: no limit]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pod_max_pids: Option<u64>,
    /// Evict pods when the node has less than this, as memory.available<100Mi or nodefs.available<10%; may be repeated
    /// [default: memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%]
    #[arg(long, value_delimiter = ',')]
    eviction_hard: Vec<String>,
    /// The same, when it lasts longer than the signal's --eviction-soft-grace-period
    #[arg(long, value_delimiter = ',')]
    eviction_soft: Vec<String>,
    /// Seconds, as memory.available=90
    #[arg(long, value_delimiter = ',')]
    eviction_soft_grace_period: Vec<String>,
    /// How long the node stays under pressure after it ran short
    #[arg(long, default_value = "5m", value_parser = duration)]
    eviction_pressure_transition_period: Duration,
    /// Remove unused images when their disk is fuller than this, in percent; 100: never
    #[arg(long, default_value_t = 85, value_parser = clap::value_parser!(u8).range(1..=100))]
    image_gc_high_threshold: u8,
    /// Remove them until it is as full as this
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100))]
    image_gc_low_threshold: u8,
    #[command(flatten)]
    ingress: IngressArguments,
    #[command(flatten)]
    kubelet: KubeletArguments,
    /// Close a stream of exec, attach or port-forward that carries nothing for this long
    #[arg(long, default_value = "4h", value_parser = duration)]
    streaming_connection_idle_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum SocketLbArgument {
    All,
    Host,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FlowLogArgument {
    /// None; there is no flow log
    Off,
    /// Packets that are dropped
    Drops,
    /// Also flows that open
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum BpfLogArgument {
    /// Nothing; the code for it is not loaded
    Off,
    /// Packets that are dropped
    Info,
    /// Also flows that open
    Debug,
    /// Every packet
    Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Tunnel {
    None,
    Vxlan,
}

/// The user and group as whom the network reads the cluster; every node may act as them.
const NETWORK_AGENT: Impersonated = Impersonated { user: "skep:network-agent", group: "skep:network-agents" };

/// Clients of the API by what they do.
struct Clients {
    /// Acts as the node: reads and writes what is the node's.
    node: Client,
    /// Reads services, pods and policies of the whole cluster.
    informers: Client,
}

/// The node's own resolver configuration.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How often the node looks whether a CA was rotated.
const AUTHORITIES_CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// Pause after a failed renewal of certificates.
const RENEWAL_RETRY_INTERVAL: Duration = Duration::from_secs(3600);

pub(crate) async fn run(agent: Agent) -> Result<()> {
    hide_token()?;
    super::raise_descriptor_limit();
    let stop = CancellationToken::new();
    let on_signal = stop.clone();
    tokio::spawn(async move {
        if super::terminated().await.is_ok() {
            tracing::info!("received a signal to stop; pods keep running");
            on_signal.cancel();
        }
    });
    let data_plane = agent.ingress.start(!agent.network_only, &agent.node_ips, &stop)?;
    let ended = run_until_stop(&agent, data_plane.as_ref(), &stop).await;
    stop.cancel();
    if let Some(data_plane) = data_plane {
        data_plane.ended().await;
    }
    ended
}

async fn run_until_stop(
    agent: &Agent,
    data_plane: Option<&DataPlane>,
    stop: &CancellationToken,
) -> Result<()> {
    if let Some(file) = &agent.kubeconfig {
        let (_, client) = client_from_file(file).await?;
        let clients = Clients { node: client.clone(), informers: client };
        return network_only(agent, data_plane, clients, stop.clone()).await;
    }
    let invitation = Invitation {
        server: agent.server.clone().context("--server is missing")?,
        token: token(agent)?,
        ca_hash: agent.ca_hash.clone(),
    };
    let folder = IdentityFolder::new(agent.data_dir.join("pki"), &agent.node, &agent.node_ips);
    while !stop.is_cancelled() {
        let identity = tokio::select! {
            identity = folder.identity(&invitation) => identity?,
            () = stop.cancelled() => return Ok(()),
        };
        run_until_renewal(agent, data_plane, &invitation.server, identity, stop).await?;
    }
    Ok(())
}

/// The bootstrap token, if there is one.
fn token(agent: &Agent) -> Result<Option<String>> {
    let read = |file: &PathBuf| {
        let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        Ok::<_, anyhow::Error>(text.trim().to_owned())
    };
    let token = match &agent.token_file {
        // The file may be gone once the machine has joined.
        Some(file) if file.exists() || !joined(agent) => Some(read(file)?),
        Some(_) => None,
        None => agent.token.clone(),
    };
    Ok(token.filter(|token| !token.is_empty()))
}

fn joined(agent: &Agent) -> bool {
    agent.data_dir.join("pki/client.crt").exists()
}

/// Replaces this process by one whose command line has no token: every user of the machine can read command lines.
fn hide_token() -> Result<()> {
    let mut token = None;
    let mut rest = Vec::new();
    let mut all = std::env::args_os();
    let program = all.next();
    while let Some(word) = all.next() {
        match word.to_str() {
            Some("--token") => token = all.next(),
            Some(text) if text.starts_with("--token=") => {
                token = text.strip_prefix("--token=").map(Into::into)
            }
            _ => rest.push(word),
        }
    }
    let (Some(token), Some(program)) = (token, program) else { return Ok(()) };
    let mut again = std::process::Command::new("/proc/self/exe");
    let error = again.arg0(program).args(rest).env("SKEP_TOKEN", token).exec();
    Err(error).context("start again without the token on the command line")
}

/// Runs the node until it is stopped or a certificate should be renewed; pods keep running in both cases.
async fn run_until_renewal(
    agent: &Agent,
    data_plane: Option<&DataPlane>,
    server: &str,
    identity: Identity,
    stop: &CancellationToken,
) -> Result<()> {
    let due = identity.due().context("a certificate has no expiry")?;
    let due = due.duration_since(SystemTime::now()).unwrap_or(RENEWAL_RETRY_INTERVAL);
    let credentials = Credentials::Certificate(&identity.client);
    let clients = Clients {
        node: client(server, &identity.trusted.cluster, credentials, None)?,
        informers: client(server, &identity.trusted.cluster, credentials, Some(NETWORK_AGENT))?,
    };
    let until_renewal = stop.child_token();
    let keeper = tunnel::keeper(&agent.node, server, &identity)?;
    let tls = ServingTls {
        certificate: identity.serving.certificate,
        key: identity.serving.key,
        client_ca: identity.trusted.kubelet_client.clone(),
    };
    let of_authorities = clients.node.clone();
    let running = async {
        if agent.network_only {
            return network_only(agent, data_plane, clients, until_renewal.clone()).await;
        }
        pods_and_network(agent, data_plane, clients, tls, keeper, until_renewal.clone()).await
    };
    tokio::pin!(running);
    tokio::select! {
        ended = &mut running => return ended,
        () = tokio::time::sleep(due) => tracing::info!("renewing the certificates"),
        () = other_authorities(of_authorities, &identity.trusted) => {
            tracing::info!("the cluster's CAs changed; renewing what they certify");
        }
    }
    until_renewal.cancel();
    running.await
}

/// Returns when the CAs that the server publishes are others than the known ones.
async fn other_authorities(client: Client, known: &Trusted) {
    loop {
        tokio::time::sleep(AUTHORITIES_CHECK_INTERVAL).await;
        match fetch_trusted(client.clone()).await {
            Ok(found) if found != *known => return,
            Ok(_) => {}
            Err(error) => tracing::debug!(error = format!("{error:#}"), "read CAs failed"),
        }
    }
}

/// Runs pods and network over one set of informers until `stop`, or until one of them fails.
async fn pods_and_network(
    agent: &Agent,
    data_plane: Option<&DataPlane>,
    clients: Clients,
    tls: ServingTls,
    keeper: Keeper,
    stop: CancellationToken,
) -> Result<()> {
    let (state_in, state) = starting();
    let mut informers = Informers::default();
    let name = agent.node.clone();
    let dns = dns(agent, &mut informers)?;
    let of_dns = dns.dns.clone();
    let mut metrics: Vec<MetricsSource> = vec![Arc::new(move |out| of_dns.write_metrics(out))];
    metrics.extend(data_plane.map(DataPlane::metrics));
    let telemetry = telemetry(data_plane);
    let of_network = telemetry.metrics.clone();
    metrics.push(Arc::new(move |out| of_network.write(out)));
    let inputs = Inputs {
        pods: informers.pods.subscribe_to(move |pod| node_of(pod) == Some(name.as_str())),
        services: informers.services.subscribe(),
        tunnels: Some(ServerTunnels {
            keeper,
            slices: informers.endpoint_slices.subscribe_to(skep_node::names_servers),
        }),
        network: Some(state),
        others: OtherParts {
            metrics,
            flows: (agent.flow_log != FlowLogArgument::Off).then(|| flow_source(telemetry.flows.clone())),
        },
    };
    let config = config(agent, clients.node.clone(), tls)?;
    let parts = Parts { publisher: Publisher::default(), telemetry, state: state_in };
    let network = spawn_network(agent, data_plane, informers, (parts, dns), clients, stop.clone())?;
    let node = async { skep_node::run(config, inputs, stop).await.map_err(anyhow::Error::from) };
    tokio::try_join!(node, first_failure(network)).map(drop)
}

/// The flow log as the kubelet API serves it.
fn flow_source(log: FlowLog) -> FlowSource {
    Arc::new(move |query| Ok(Box::pin(log.read(query)?)))
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn starting() -> (watch::Sender<NetworkState>, watch::Receiver<NetworkState>) {
    watch::channel(NetworkState::NotReady("the network is starting".to_owned()))
}

/// The network, its DNS and the informers, each as a task that runs until `stop`.
fn spawn_network(
    agent: &Agent,
    data_plane: Option<&DataPlane>,
    mut informers: Informers,
    (parts, dns): (Parts, NodeDns),
    clients: Clients,
    stop: CancellationToken,
) -> Result<JoinSet<Result<()>>> {
    let subscriptions = Subscriptions::new(&mut informers);
    let mut tasks = JoinSet::new();
    if let Some(gateway) = data_plane.map(|data_plane| data_plane.gateway(&agent.node, &mut informers)) {
        let run = gateway.run(clients.node.clone(), clients.informers.clone(), stop.clone());
        tasks.spawn(async move {
            run.await;
            Ok(())
        });
    }
    let names = dns.run(&parts.publisher, stop.clone());
    tasks.spawn(async move {
        names.await;
        Ok(())
    });
    let network = network(agent)?.run(clients.node, subscriptions, parts, stop.clone());
    tasks.spawn(async move { network.await.context("network") });
    tasks.spawn(async move {
        informers.run(clients.informers, stop).await;
        Ok(())
    });
    Ok(tasks)
}

/// Waits for all tasks, or for the first error. A task that panics does not end the others.
async fn first_failure(mut tasks: JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(result) => result?,
            Err(error) => tracing::error!(%error, "a task of the agent panicked"),
        }
    }
    Ok(())
}

fn config(agent: &Agent, client: Client, tls: ServingTls) -> Result<AgentConfig> {
    let address = *agent.node_ips.first().context("--node-ip is missing")?;
    let listen = SocketAddr::new(address, agent.port);
    let mut config = AgentConfig::new(&agent.node, client, agent.data_dir.clone(), listen, tls);
    config.containerd_socket.clone_from(&agent.containerd);
    config.runtime_holder = Some(Arc::new(hold_sockets::holder(&agent.cni_socket, Purpose::Runtime)));
    config.cgroup_parent.clone_from(&agent.cgroup_parent);
    config.node_ips.clone_from(&agent.node_ips);
    config.labels = agent.labels.iter().cloned().collect::<BTreeMap<_, _>>();
    config.taints.clone_from(&agent.taints);
    config.cluster_dns.clone_from(&agent.cluster_dns);
    config.cluster_domain.clone_from(&agent.cluster_domain);
    config.lease_interval = agent.lease_interval;
    config.max_pods = agent.max_pods;
    config.limits = PodLimits {
        allowed_unsafe_sysctls: agent.allowed_unsafe_sysctls.clone(),
        seccomp_default: agent.seccomp_default,
        max_pids: agent.pod_max_pids,
        streaming_idle_timeout: agent.streaming_connection_idle_timeout,
    };
    config.eviction = eviction(agent)?;
    agent.kubelet.apply(&mut config)?;
    config.images.high_percent = agent.image_gc_high_threshold;
    config.images.low_percent = agent.image_gc_low_threshold.min(agent.image_gc_high_threshold);
    Ok(config)
}

fn eviction(agent: &Agent) -> Result<EvictionSettings> {
    let hard: Result<Vec<_>, _> = agent.eviction_hard.iter().map(|text| signals::parse(text)).collect();
    let mut thresholds = if agent.eviction_hard.is_empty() { signals::defaults() } else { hard? };
    thresholds.extend(signals::soft(&agent.eviction_soft, &agent.eviction_soft_grace_period)?);
    let transition =
        agent.eviction_pressure_transition_period.try_into().context("the period is too long")?;
    Ok(EvictionSettings { thresholds, transition })
}

/// The node's DNS. Names of other zones are the node's name servers' to answer, unless the cluster's settings say otherwise.
fn dns(agent: &Agent, informers: &mut Informers) -> Result<NodeDns> {
    let settings = SettingsSource::new(informers, &agent.cluster_domain, RESOLV_CONF);
    let tls = skep_dns::tls::client_config().context("set up TLS for DNS")?;
    let dns = Dns::new(settings.defaults()?, tls, tokio::runtime::Handle::current());
    let holder = hold_sockets::holder(&agent.cni_socket, Purpose::Dns);
    let subscriptions = DnsSubscriptions::new(informers, &agent.node);
    Ok(NodeDns { dns, subscriptions, settings, holder: Some(holder) })
}

fn network(agent: &Agent) -> Result<KernelNetwork> {
    let cgroup = match &agent.cgroup {
        Some(cgroup) => cgroup.clone(),
        None => cgroup::root()?,
    };
    let mut config =
        NetworkConfig::new(&agent.node, agent.cni_socket.clone(), agent.data_dir.join("network"));
    config.node_addrs.clone_from(&agent.node_ips);
    config.pod_cidrs.clone_from(&agent.pod_cidr);
    config.node_port_networks.clone_from(&agent.nodeport_addresses);
    config.mtu = agent.mtu;
    config.flow_log = match agent.flow_log {
        FlowLogArgument::Off => FlowLogLevel::Off,
        FlowLogArgument::Drops => FlowLogLevel::Drops,
        FlowLogArgument::All => FlowLogLevel::All,
    };
    config.flows_socket =
        (agent.flow_log != FlowLogArgument::Off).then(|| agent.cni_socket.with_file_name("flows.sock"));
    let datapath = Options {
        bpffs: agent.bpffs.clone(),
        cgroup,
        uplinks: match agent.uplinks.is_empty() {
            true => Uplinks::Routed,
            false => Uplinks::Named(agent.uplinks.clone()),
        },
        xdp: agent.xdp,
        node_addrs: agent.node_ips.clone(),
        overlay: agent.tunnel == Tunnel::Vxlan,
        socket_lb: match agent.socket_lb {
            SocketLbArgument::All => SocketLb::All,
            SocketLbArgument::Host => SocketLb::Host,
        },
        service_cidrs: agent.service_cidr.clone(),
        masquerade_exemptions: agent.non_masquerade_cidr.clone(),
        program_log: match agent.bpf_log {
            BpfLogArgument::Off => ProgramLogLevel::Off,
            BpfLogArgument::Info => ProgramLogLevel::Info,
            BpfLogArgument::Debug => ProgramLogLevel::Debug,
            BpfLogArgument::Trace => ProgramLogLevel::Trace,
        },
        conntrack_max: agent.conntrack_max.unwrap_or(0),
        timeouts: agent
            .conntrack_timeout
            .iter()
            .fold(Timeouts::DEFAULT, |timeouts, (group, seconds)| timeouts.with(*group, *seconds)),
        pod_new_flows: agent.pod_new_flows.unwrap_or(0),
        big_tcp: agent.big_tcp,
    };
    Ok(KernelNetwork { config, datapath })
}

async fn network_only(
    agent: &Agent,
    data_plane: Option<&DataPlane>,
    clients: Clients,
    stop: CancellationToken,
) -> Result<()> {
    let (state_in, mut state) = starting();
    let log = tokio::spawn(async move {
        while state.changed().await.is_ok() {
            tracing::info!(state = ?*state.borrow_and_update(), "network state changed");
        }
    });
    let mut informers = Informers::default();
    let dns = dns(agent, &mut informers)?;
    let parts = Parts { publisher: Publisher::default(), telemetry: telemetry(data_plane), state: state_in };
    let tasks = spawn_network(agent, data_plane, informers, (parts, dns), clients, stop)?;
    let ended = first_failure(tasks).await;
    log.abort();
    ended
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}
