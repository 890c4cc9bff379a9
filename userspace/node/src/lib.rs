//! The node agent: runs the pods that are bound to this node under containerd, and tells the API server how they fare.
//!
//! In: an [`AgentConfig`], a `kube::Client`, containerd's socket. Out: containers, a Node with its Lease, pod statuses,
//! events, and the kubelet's HTTPS API. What to do with a pod is decided by the pure [`plan`]; the rest performs it.

mod agent;
pub mod cni;
pub mod config;
pub mod cri;
pub mod downward;
pub mod env;
pub mod events;
mod handlers;
pub mod images;
mod logs;
pub mod names;
pub mod network;
pub mod objects;
pub mod plan;
pub mod register;
pub mod resources;
mod server;
pub mod services;
mod shared;
mod tls;
pub mod volumes;
mod worker;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use config::{AgentConfig, NetworkState, NodeNetwork, ServingTls};
use cri::Cri;
use cri::sandbox::{NodeSettings, parse_resolv_conf};
use downward::Allocatable;
use objects::ObjectKey;
use register::machine::Capacity;
use register::{Identity, Registration};
use shared::Shared;

/// Why the agent could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("containerd at {socket}: {source}")]
    Runtime { socket: String, source: tonic::transport::Error },
    #[error("{operation} {path}: {source}")]
    Io { operation: &'static str, path: String, source: std::io::Error },
    #[error("serving certificate: {0}")]
    Tls(String),
    #[error("network: {0}")]
    Network(Box<dyn std::error::Error + Send + Sync>),
}

/// Runs the agent until `stop` is cancelled. Pods keep running after it returns: the next agent adopts them.
pub async fn run(config: AgentConfig, stop: CancellationToken) -> Result<(), NodeError> {
    let stop = stop.child_token();
    let _guard = stop.clone().drop_guard();
    let AgentConfig {
        name,
        client,
        containerd_socket,
        root_dir,
        cgroup_parent,
        node_ips,
        labels,
        taints,
        listen,
        tls,
        cluster_dns,
        cluster_domain,
        max_pods,
        lease_interval,
        lease_duration,
        status_interval,
        log_max_size,
        log_max_files,
        network,
    } = config;
    let root = prepare_root(&root_dir)?;
    let cri = Cri::new(&containerd_socket)
        .map_err(|source| NodeError::Runtime { socket: containerd_socket.display().to_string(), source })?;
    wait_for_runtime(&cri, &stop).await;
    import_images(&cri, &root).await;
    let settings = NodeSettings {
        cgroup_parent,
        log_root: root.join("logs").display().to_string(),
        cluster_dns: cluster_dns.iter().map(ToString::to_string).collect(),
        cluster_domain,
        host_dns: parse_resolv_conf(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
    };
    let capacity = Capacity::read(&root);
    let first = match &network {
        Some(_) => NetworkState::NotReady("the network is starting".to_owned()),
        None => NetworkState::Ready,
    };
    let (network_in, network_state) = watch::channel(first);
    let facts = Facts {
        name: &name,
        root: &root,
        ips: &node_ips,
        capacity,
        settings,
        network: network_state.clone(),
    };
    let (shared, changes) = share(facts, client.clone(), cri.clone())?;
    shared.events.node(&name, false, "Starting", "Starting kubelet.");
    let (registered_in, registered) = watch::channel::<Option<Node>>(None);
    let (returned_in, returned) = watch::channel(());
    let identity = Identity {
        name: name.clone(),
        ips: node_ips,
        labels,
        taints,
        port: listen.port(),
        max_pods,
        capacity,
        root,
        status_interval,
    };
    let registration = Registration {
        client: client.clone(),
        cri,
        identity,
        network: network_state,
        registered: registered_in,
        returned,
    };
    let server = server::Server::bind(listen, &tls, shared.clone()).await?;
    let mut tasks = JoinSet::new();
    let lease = register::keep_lease(
        client.clone(),
        name.clone(),
        registered,
        lease_interval,
        lease_duration,
        returned_in,
        stop.clone(),
    );
    begin(&mut tasks, registration.run(stop.clone()));
    begin(&mut tasks, lease);
    begin(&mut tasks, shared.services.clone().follow(client.clone()));
    begin(&mut tasks, server.run(stop.clone()));
    begin(&mut tasks, logs::rotate::run(shared.clone(), log_max_size, log_max_files, stop.clone()));
    begin(&mut tasks, agent::Agent { shared, changes, stop: stop.clone() }.run());
    if let Some(network) = network {
        let running = network.run(name, client, network_in, stop.clone());
        tasks.spawn(async move { running.await.map_err(NodeError::Network) });
    }
    first_failure(tasks, &stop).await
}

/// What the parts of the agent are told of the node.
struct Facts<'a> {
    name: &'a str,
    root: &'a Path,
    ips: &'a [IpAddr],
    capacity: Capacity,
    settings: NodeSettings,
    network: watch::Receiver<NetworkState>,
}

/// Puts together what every part uses, and the stream of changed objects.
fn share(
    facts: Facts<'_>,
    client: kube::Client,
    cri: Cri,
) -> Result<(Arc<Shared>, mpsc::UnboundedReceiver<ObjectKey>), NodeError> {
    let allocatable = Allocatable {
        cpu_milli: facts.capacity.cpus * 1000,
        memory: facts.capacity.allocatable_memory(),
        ephemeral_storage: facts.capacity.allocatable_disk(),
    };
    let (changes_in, changes) = mpsc::unbounded_channel();
    let cache = objects::ObjectCache::new(client.clone(), changes_in);
    let ips: Vec<String> = facts.ips.iter().map(ToString::to_string).collect();
    let volumes = volumes::VolumeManager::open(facts.root, client.clone(), cache, allocatable, ips.clone())
        .map_err(io("open volumes under", facts.root))?;
    let (events, writer) = events::Recorder::new(client.clone(), facts.name);
    tokio::spawn(writer);
    let shared = Shared {
        node: facts.name.to_owned(),
        client,
        cri,
        settings: facts.settings,
        node_view: plan::NodeView { ips },
        allocatable,
        volumes,
        services: services::Services::default(),
        events,
        network: facts.network,
        root: facts.root.to_path_buf(),
        owners: Mutex::new(HashMap::new()),
        pods: Mutex::new(HashMap::new()),
        pod_changes: watch::Sender::new(0),
    };
    Ok((Arc::new(shared), changes))
}

type Tasks = JoinSet<Result<(), NodeError>>;

fn begin(tasks: &mut Tasks, part: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(async move {
        part.await;
        Ok(())
    });
}

/// Waits for the stop, or for the first part that cannot go on.
async fn first_failure(mut tasks: Tasks, stop: &CancellationToken) -> Result<(), NodeError> {
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Err(error)) => return Err(error),
            Err(error) => tracing::error!(%error, "a part of the agent ended badly"),
            Ok(Ok(())) => {}
        }
        if stop.is_cancelled() {
            break;
        }
    }
    Ok(())
}

fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> NodeError + use<> {
    let path = path.display().to_string();
    move |source| NodeError::Io { operation, path, source }
}

/// The agent's folder as an absolute path, with its parts made.
fn prepare_root(root: &Path) -> Result<PathBuf, NodeError> {
    let root = std::path::absolute(root).map_err(io("resolve", root))?;
    for folder in ["images", "logs", "pods"] {
        let folder = root.join(folder);
        std::fs::create_dir_all(&folder).map_err(io("create", &folder))?;
    }
    Ok(root)
}

async fn wait_for_runtime(cri: &Cri, stop: &CancellationToken) {
    let mut told = false;
    while let Err(error) = cri.version().await {
        if !told {
            tracing::warn!(%error, "waiting for the container runtime");
            told = true;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(250)) => {}
        }
    }
}

async fn import_images(cri: &Cri, root: &Path) {
    let (names, errors) = images::import_folder(cri, &root.join("images")).await;
    for name in names {
        tracing::info!(image = name, "image imported");
    }
    for error in errors {
        tracing::warn!(%error, "image not imported");
    }
}
