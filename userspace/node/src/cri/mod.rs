//! CRI v1 over containerd's socket: the calls that the agent makes, in its own types.
//!
//! In: pods as pure request builders ([`sandbox`], [`container`]) compile them. Out: calls by [`client`], exits from
//! [`events`].

pub mod client;
mod connection;
pub mod container;
pub mod events;
pub mod sandbox;
pub(crate) mod services;

pub use client::Cri;
pub use connection::Connector;
pub use k8s_cri::v1 as api;

/// Labels of sandboxes and containers: the kubelet's, which crictl expects.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation: the image of the container's spec.
pub const SPEC_IMAGE: &str = "io.kubernetes.container.image";
/// Annotation: the grace period in seconds, for a pod whose API object is gone.
pub const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Annotations: the termination message's file on the host, and the policy when that file is empty.
pub const MESSAGE_FILE: &str = "io.kubernetes.container.terminationMessageFile";
pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";

/// A call that the runtime rejected or that did not reach it.
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

/// A pod that has sandboxes in the runtime; the API server may have deleted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodIdentity {
    pub uid: String,
    pub name: String,
    pub namespace: String,
    /// In seconds.
    pub grace: i64,
}
