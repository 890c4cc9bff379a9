//! What ends the agent.

/// Why the agent could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("containerd at {socket}: {source}")]
    Runtime { socket: String, source: tonic::transport::Error },
    #[error("{operation} {path}: {source}")]
    Io { operation: &'static str, path: String, source: std::io::Error },
    #[error("allowed unsafe sysctls: {0}")]
    UnsafeSysctls(#[from] crate::admit::NotNamespaced),
    #[error("credential providers: {0}")]
    CredentialProviders(#[from] crate::images::ProviderError),
    #[error("serving certificate: {0}")]
    Tls(String),
}
