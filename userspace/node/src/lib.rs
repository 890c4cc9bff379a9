//! The node's pod agent: runs the pods that are bound to this node under containerd, and reports their status.
//!
//! In: an [`AgentConfig`], the [`Inputs`] that it follows, containerd's socket. Out: containers, a Node with its Lease,
//! pod statuses, events, and the kubelet's HTTPS API. The pure [`plan`] decides what to do with a pod; the rest performs
//! it.

pub mod admit;
mod agent;
pub mod allocation;
mod cgroup;
pub mod config;
mod configuration;
mod context;
pub mod cri;
pub mod downward;
pub mod env;
pub mod error;
pub mod events;
pub mod eviction;
mod http_probe;
pub mod images;
mod logs;
pub mod names;
pub mod objects;
pub mod plan;
mod probe_counts;
mod prober;
pub mod register;
pub mod rejection;
pub mod resources;
mod server;
pub mod services;
pub mod shutdown;
mod static_pods;
mod stats;
mod tls;
mod tunnels;
pub mod volumes;
mod watched_folder;
mod worker;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use skep_api::fit::Amounts;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use admit::{Admission, UnsafeSysctls};
pub use config::{
    AgentConfig, Events, FlowSource, Inputs, MetricsSource, OtherParts, PodLimits, ServerTunnels, ServingTls,
    SystemLogs,
};
use context::NodeContext;
use cri::Cri;
use cri::client::Features;
use cri::sandbox::{NodeSettings, parse_resolv_conf};
use downward::Allocatable;
pub use error::NodeError;
use eviction::EvictionSettings;
use eviction::signals::Shortage;
use objects::ObjectKey;
use register::machine::Capacity;
use register::{Identity, LeaseTimes};
use shutdown::ShutdownSettings;
use skep_cni::NetworkState;
use skep_holder::Holder;
use skep_tunnel::Keeper;
pub use tunnels::names_servers;

/// Runs the agent until `stop` is cancelled. Pods keep running after it returns: the next agent adopts them.
pub async fn run(config: AgentConfig, inputs: Inputs, stop: CancellationToken) -> Result<(), NodeError> {
    let stop = stop.child_token();
    let _stop_all = stop.clone().drop_guard();
    let configuration = configuration::document(&config);
    let Inputs { pods, services, tunnels, network, others } = inputs;
    let root = prepare_root(&config.root_dir)?;
    let cri = connect(config.containerd_socket, config.runtime_holder)?;
    let features = wait_for_runtime(&cri, &stop).await;
    let collector = images::ImageCollector::new(config.images, import_images(&cri, &root).await);
    let network = network.unwrap_or_else(|| watch::channel(NetworkState::Ready).1);
    let capacity = Capacity::read(&root);
    let settings = sandbox_settings(
        config.cgroup_parent,
        &root,
        (&config.cluster_dns, config.cluster_domain),
        &config.limits,
    );
    let pulls = pull_records(&cri, &root).await.map_err(io("open records of image pulls under", &root))?;
    let node = (config.name.as_str(), root.as_path(), config.node_ips.as_slice());
    let keeper = tunnels.as_ref().map(|tunnels| tunnels.keeper.clone());
    let providers = config.credential_providers.as_ref().map(images::CredentialProviders::open);
    let pulls = (pulls, providers.transpose()?.unwrap_or_default());
    let shown = (configuration, config.system_logs);
    let facts = Facts {
        node,
        keeper,
        capacity,
        max_pods: config.max_pods,
        settings,
        network,
        limits: config.limits,
        features,
        pulls,
        others,
        shown,
    };
    let opened = open_context(facts, config.client.clone(), cri.clone())?;
    let Opened { context, changes, registered, shortages, shutting_down } = opened;
    let AgentConfig { name, labels, taints, max_pods, status_interval, .. } = config;
    let (ips, port, network) = (config.node_ips, config.listen.port(), context.network.clone());
    let identity =
        Identity { name, ips, labels, taints, port, max_pods, capacity, root, status_interval, features };
    let reported = (network, context.shortages.clone(), context.shutting_down.clone());
    let times = LeaseTimes { interval: config.lease_interval, duration: config.lease_duration };
    let (registration, keep_lease) =
        register::new(config.client, cri, identity, reported, registered, times, stop.clone());
    let server = server::Server::bind(config.listen, &config.tls, context.clone()).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(registration.run(stop.clone()));
    tasks.spawn(keep_lease);
    tasks.spawn(context.services.clone().follow(services));
    tasks.spawn(server.run(stop.clone()));
    tunnels.map(|tunnels| tasks.spawn(tunnels::run(tunnels, context.clone(), port, stop.clone())));
    tasks.spawn(logs::rotate::run(context.clone(), config.log_max_size, config.log_max_files, stop.clone()));
    let statics = spawn_static_pods(&mut tasks, config.static_pods, &context, &stop);
    let ends = (config.eviction, collector, shortages);
    spawn_pods(&mut tasks, context, (pods, statics, changes), ends, (config.shutdown, shutting_down), &stop);
    until_stopped(tasks, &stop).await;
    Ok(())
}

/// The pods of the folder and their mirrors. Without a folder there are none.
fn spawn_static_pods(
    tasks: &mut JoinSet<()>,
    folder: Option<PathBuf>,
    context: &Arc<NodeContext>,
    stop: &CancellationToken,
) -> mpsc::Receiver<Vec<Arc<Pod>>> {
    let (sets_in, sets) = mpsc::channel(1);
    if let Some(folder) = folder {
        let node = (folder, context.node.clone());
        tasks.spawn(static_pods::follow(node, context.events.clone(), sets_in, stop.clone()));
    }
    tasks.spawn(static_pods::keep(context.clone(), stop.clone()));
    sets
}

/// The pods' workers, their volumes and figures, and the end of pods that use too much.
fn spawn_pods(
    tasks: &mut JoinSet<()>,
    context: Arc<NodeContext>,
    (pods, statics, changes): (
        Events<Pod>,
        mpsc::Receiver<Vec<Arc<Pod>>>,
        mpsc::UnboundedReceiver<ObjectKey>,
    ),
    (eviction, images, shortages): (
        EvictionSettings,
        images::ImageCollector,
        watch::Sender<BTreeSet<Shortage>>,
    ),
    (shutdown, shutting_down): (Option<ShutdownSettings>, watch::Sender<bool>),
    stop: &CancellationToken,
) {
    tasks.spawn(context.volumes.follow(stop.clone()));
    tasks.spawn(stats::Stats::run(context.clone(), stop.clone()));
    let (evicted, evictions) = mpsc::channel(16);
    let evictor = eviction::Evictor::new((context.clone(), eviction, images), shortages, evicted.clone());
    tasks.spawn(evictor.run(stop.clone()));
    if let Some(settings) = shutdown {
        let (context, state) = (context.clone(), shutting_down);
        let shutdown = shutdown::Shutdown { context, settings, state, evictions: evicted };
        tasks.spawn(shutdown.run(stop.clone()));
    }
    tasks.spawn(agent::Agent { context, pods, statics, changes, evictions, stop: stop.clone() }.run());
}

/// What the agent's parts know of the node.
struct Facts<'a> {
    /// Its name, the agent's folder, its addresses.
    node: (&'a str, &'a Path, &'a [IpAddr]),
    keeper: Option<Keeper>,
    capacity: Capacity,
    max_pods: u32,
    settings: NodeSettings,
    network: watch::Receiver<NetworkState>,
    limits: PodLimits,
    features: Features,
    pulls: (images::PullRecords, images::CredentialProviders),
    others: OtherParts,
    /// The agent's settings, and the node's logs; the kubelet API shows them.
    shown: (serde_json::Value, SystemLogs),
}

/// What every part uses, and what single parts write or read.
struct Opened {
    context: Arc<NodeContext>,
    /// ConfigMaps and Secrets that changed.
    changes: mpsc::UnboundedReceiver<ObjectKey>,
    registered: watch::Sender<Option<Node>>,
    shortages: watch::Sender<BTreeSet<Shortage>>,
    shutting_down: watch::Sender<bool>,
}

fn room(allocatable: Allocatable, max_pods: u32) -> allocation::Room {
    let amounts = Amounts {
        cpu: allocatable.cpu_milli,
        memory: allocatable.memory,
        storage: allocatable.ephemeral_storage,
        ..Amounts::default()
    };
    allocation::Room { amounts, pods: max_pods.into() }
}

fn admission(
    node: &str,
    features: Features,
    allowed_unsafe_sysctls: Vec<String>,
) -> Result<Admission, NodeError> {
    Ok(Admission {
        node: node.to_owned(),
        supplemental_groups_policy: features.supplemental_groups_policy,
        app_armor: register::machine::app_armor(),
        unsafe_sysctls: UnsafeSysctls::new(allowed_unsafe_sysctls)?,
    })
}

fn open_context(facts: Facts<'_>, client: kube::Client, cri: Cri) -> Result<Opened, NodeError> {
    let (name, root, ips) = facts.node;
    let allocatable = Allocatable {
        cpu_milli: facts.capacity.cpus * 1000,
        memory: facts.capacity.allocatable_memory(),
        ephemeral_storage: facts.capacity.allocatable_disk(),
    };
    let admission = admission(name, facts.features, facts.limits.allowed_unsafe_sysctls)?;
    let (changes_in, changes) = mpsc::unbounded_channel();
    let (registered, node_object) = watch::channel(None);
    let (shortages, shortages_out) = watch::channel(BTreeSet::new());
    let (shutting_down, shutting_down_out) = watch::channel(false);
    let cache = objects::ObjectCache::new(client.clone(), changes_in);
    let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
    let volumes = volumes::VolumeManager::open(name, root, client.clone(), cache, allocatable, ips.clone())
        .map_err(io("open volumes under", root))?;
    let (events, writer) = events::Recorder::new(client.clone(), name);
    tokio::spawn(writer);
    events.node(name, false, "Starting", "Starting kubelet.");
    let context = NodeContext {
        node: name.to_owned(),
        client: client.clone(),
        cri,
        settings: facts.settings,
        node_view: plan::NodeView { ips },
        allocatable,
        volumes,
        services: services::Services::default(),
        events,
        network: facts.network,
        root: root.to_path_buf(),
        owners: Mutex::new(HashMap::new()),
        pods: Mutex::new(HashMap::new()),
        pod_changes: watch::Sender::new(0),
        admission,
        allocations: allocation::Allocations::new(room(allocatable, facts.max_pods)),
        node_object,
        shortages: shortages_out,
        shutting_down: shutting_down_out,
        features: facts.features,
        stats: stats::Stats::new(),
        pod_cgroups: cgroup::PodCgroups::new(facts.limits.max_pids),
        pulls: facts.pulls.0,
        providers: facts.pulls.1,
        streaming_idle_timeout: facts.limits.streaming_idle_timeout,
        tunnels: facts.keeper,
        probes: probe_counts::ProbeCounts::default(),
        panics: AtomicU64::new(0),
        others: facts.others,
        access: server::access::Access::new(name, client),
        configuration: facts.shown.0,
        system_logs: facts.shown.1,
        mirrors: static_pods::Mirrors::default(),
    };
    Ok(Opened { context: Arc::new(context), changes, registered, shortages, shutting_down })
}

fn sandbox_settings(
    cgroup_parent: String,
    root: &Path,
    (cluster_dns, cluster_domain): (&[IpAddr], String),
    limits: &PodLimits,
) -> NodeSettings {
    NodeSettings {
        cgroup_parent,
        log_root: root.join("logs").display().to_string(),
        cluster_dns: cluster_dns.iter().map(ToString::to_string).collect(),
        cluster_domain,
        host_dns: parse_resolv_conf(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
        seccomp_root: root.join("seccomp").display().to_string(),
        seccomp_default: limits.seccomp_default,
    }
}

/// Waits for the stop, and then for one part to end. A part that panics does not end the others.
async fn until_stopped(mut tasks: JoinSet<()>, stop: &CancellationToken) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a task of the agent panicked");
        }
        if stop.is_cancelled() {
            return;
        }
    }
}

fn connect(socket: PathBuf, holder: Option<Arc<Holder>>) -> Result<Cri, NodeError> {
    let shown = socket.display().to_string();
    let connector = cri::Connector::new(socket, holder);
    Cri::new(connector).map_err(|source| NodeError::Runtime { socket: shown, source })
}

fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> NodeError + use<> {
    let path = path.display().to_string();
    move |source| NodeError::Io { operation, path, source }
}

/// The agent's folder as an absolute path; creates it with its subfolders. No other user can enter them: a container
/// reaches its volumes by mounts of their own, not by this path.
fn prepare_root(root: &Path) -> Result<PathBuf, NodeError> {
    let root = std::path::absolute(root).map_err(io("resolve", root))?;
    for folder in ["", "images", "logs", "pods", "volumes"] {
        let folder = if folder.is_empty() { root.clone() } else { root.join(folder) };
        std::fs::create_dir_all(&folder).map_err(io("create", &folder))?;
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).map_err(io("chmod", &folder))?;
    }
    Ok(root)
}

/// Waits for the runtime. Returns what it says that it can do; one that does not say can do nothing of it.
async fn wait_for_runtime(cri: &Cri, stop: &CancellationToken) -> Features {
    const RETRY_INTERVAL: Duration = Duration::from_millis(250);
    let mut logged = false;
    loop {
        match cri.features().await {
            Ok(features) => return features,
            Err(error) if !logged => {
                tracing::warn!(%error, "connect to container runtime failed; waiting for it");
                logged = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return Features::default(),
            () = tokio::time::sleep(RETRY_INTERVAL) => {}
        }
    }
}

/// The records of image pulls, without images that are gone.
async fn pull_records(cri: &Cri, root: &Path) -> std::io::Result<images::PullRecords> {
    let records = images::PullRecords::open(root)?;
    match cri.images().await {
        Ok(present) => {
            let names = present.iter().flat_map(|image| image.repo_tags.iter().chain(&image.repo_digests));
            let names = names.map(|name| images::normalize(name)).collect();
            records.keep(&present.iter().map(|image| image.id.clone()).collect(), &names)?;
        }
        Err(error) => tracing::warn!(%error, "list images failed"),
    }
    Ok(records)
}

/// Imports the archives of the node's own folder. Returns the names of the images that stay: these, and that of sandboxes.
async fn import_images(cri: &Cri, root: &Path) -> BTreeSet<String> {
    let (names, errors) = images::import_folder(cri, &root.join("images")).await;
    for name in &names {
        tracing::info!(image = name, "image imported");
    }
    for error in errors {
        tracing::warn!(%error, "import image failed");
    }
    let of_sandboxes = cri.sandbox_image().await.ok().flatten();
    names.iter().chain(&of_sandboxes).map(|name| images::normalize(name)).collect()
}
