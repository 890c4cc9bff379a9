//! The errors of an authentication configuration.

use std::path::PathBuf;

use crate::auth_config::ConfigError;
use crate::kubeconfig::KubeconfigError;
use crate::tls::TlsError;

/// Why an authentication configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationError {
    #[error("read {}: {error}", path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("TLS towards issuers: {0}")]
    Tls(#[from] TlsError),
    #[error("token webhook: {0}")]
    Webhook(#[from] KubeconfigError),
    #[error("anonymous: Forbidden: {0}")]
    Anonymous(&'static str),
    #[error("an issuer is not ready: {0}")]
    NotReady(String),
    #[error("signing algorithm {0:?} is not supported")]
    Algorithm(String),
}
