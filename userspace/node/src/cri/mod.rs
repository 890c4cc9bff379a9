//! CRI v1 over containerd's socket: the calls that the agent makes, in its own types.
//!
//! Builders of requests ([`sandbox`], [`container`]) are pure; [`client`] performs them; [`events`] tells of exits.

pub mod client;
pub mod container;
pub mod events;
pub mod sandbox;

pub use client::Cri;
pub use k8s_cri::v1 as api;

/// Labels of the CRI, the same as any kubelet's, so that crictl shows pods as usual.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation: seconds of grace, for a pod whose API object is gone.
pub const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Annotations: where the termination message is on the host, and whether logs stand in for it.
pub const MESSAGE_FILE: &str = "io.kubernetes.container.terminationMessageFile";
pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";

/// A call that the runtime refused or that did not reach it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", .status.message())]
pub struct CriError {
    pub call: &'static str,
    pub status: tonic::Status,
}

impl CriError {
    pub fn is_not_found(&self) -> bool {
        self.status.code() == tonic::Code::NotFound
    }
}

/// A pod that has sandboxes in the runtime, whether or not the API server knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodIdentity {
    pub uid: String,
    pub name: String,
    pub namespace: String,
    pub grace: i64,
}
