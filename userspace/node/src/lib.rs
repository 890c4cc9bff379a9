//! The node agent: runs the pods that are bound to this node under containerd, and tells the API server how they fare.
//!
//! In: an [`AgentConfig`], a `kube::Client`, containerd's socket. Out: containers, a Node with its Lease, pod statuses,
//! events, and the kubelet's HTTPS API. What to do with a pod is decided by the pure [`plan`]; the rest performs it.

pub mod cni;
pub mod config;
pub mod network;

pub use config::{AgentConfig, NetworkState, NodeNetwork, ServingTls};

use tokio_util::sync::CancellationToken;

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
    let _ = config;
    stop.cancelled().await;
    Ok(())
}
