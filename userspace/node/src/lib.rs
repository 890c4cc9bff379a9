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
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use config::{AgentConfig, NetworkState, NodeNetwork, ServingTls};
use cri::Cri;
use downward::Allocatable;
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
    let io = |operation, path: &std::path::Path| {
        let path = path.display().to_string();
        move |source| NodeError::Io { operation, path, source }
    };
    let root_dir = std::path::absolute(&root_dir).map_err(io("resolve", &root_dir))?;
    for folder in ["images", "logs", "pods"] {
        let folder = root_dir.join(folder);
        std::fs::create_dir_all(&folder).map_err(io("create", &folder))?;
    }
    let cri = Cri::new(&containerd_socket)
        .map_err(|source| NodeError::Runtime { socket: containerd_socket.display().to_string(), source })?;
    wait_for_runtime(&cri, &stop).await;
    import_images(&cri, &root_dir).await;
    let capacity = Capacity::read(&root_dir);
    let allocatable = Allocatable {
        cpu_milli: capacity.cpus * 1000,
        memory: capacity.allocatable_memory(),
        ephemeral_storage: capacity.allocatable_disk(),
    };
    let (changes_in, changes) = mpsc::unbounded_channel();
    let cache = objects::ObjectCache::new(client.clone(), changes_in);
    let ips: Vec<String> = node_ips.iter().map(ToString::to_string).collect();
    let volumes = volumes::VolumeManager::open(&root_dir, client.clone(), cache, allocatable, ips.clone())
        .map_err(io("open volumes under", &root_dir))?;
    let (events, writer) = events::Recorder::new(client.clone(), &name);
    tokio::spawn(writer);
    let first = match &network {
        Some(_) => NetworkState::NotReady("the network is starting".to_owned()),
        None => NetworkState::Ready,
    };
    let (network_in, network_state) = watch::channel(first);
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let shared = Arc::new(Shared {
        node: name.clone(),
        client: client.clone(),
        cri: cri.clone(),
        settings: cri::sandbox::NodeSettings {
            cgroup_parent,
            log_root: root_dir.join("logs").display().to_string(),
            cluster_dns: cluster_dns.iter().map(ToString::to_string).collect(),
            cluster_domain,
            host_dns: cri::sandbox::parse_resolv_conf(&resolv_conf),
        },
        node_view: plan::NodeView { ips },
        allocatable,
        volumes,
        services: services::Services::default(),
        events,
        network: network_state.clone(),
        root: root_dir.clone(),
        owners: Mutex::new(HashMap::new()),
        pods: Mutex::new(HashMap::new()),
        pod_changes: watch::Sender::new(0),
    });
    let (registered_in, registered) = watch::channel::<Option<Node>>(None);
    let registration = Registration {
        client: client.clone(),
        cri,
        identity: Identity {
            name: name.clone(),
            ips: node_ips,
            labels,
            taints,
            port: listen.port(),
            max_pods,
            capacity,
            root: root_dir,
            status_interval,
        },
        network: network_state,
        registered: registered_in,
    };
    let mut tasks = tokio::task::JoinSet::new();
    let own = stop.clone();
    tasks.spawn(async move {
        registration.run(own).await;
        Ok(())
    });
    let lease = register::keep_lease(
        client.clone(),
        name.clone(),
        registered,
        lease_interval,
        lease_duration,
        stop.clone(),
    );
    tasks.spawn(async move {
        lease.await;
        Ok(())
    });
    let services = shared.services.clone().follow(client.clone());
    tasks.spawn(async move {
        services.await;
        Ok(())
    });
    if let Some(network) = network {
        let running = network.run(name, client, network_in, stop.clone());
        tasks.spawn(async move { running.await.map_err(NodeError::Network) });
    }
    let server = server::Server::bind(listen, &tls, shared.clone()).await?;
    let own = stop.clone();
    tasks.spawn(async move {
        server.run(own).await;
        Ok(())
    });
    let rotation = logs::rotate::run(shared.clone(), log_max_size, log_max_files, stop.clone());
    tasks.spawn(async move {
        rotation.await;
        Ok(())
    });
    let agent = agent::Agent { shared, changes, stop: stop.clone() };
    tasks.spawn(async move {
        agent.run().await;
        Ok(())
    });
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

async fn import_images(cri: &Cri, root: &std::path::Path) {
    let (names, errors) = images::import_folder(cri, &root.join("images")).await;
    for name in names {
        tracing::info!(image = name, "image imported");
    }
    for error in errors {
        tracing::warn!(%error, "image not imported");
    }
}
