//! The errors of [`crate::ApiServer::new`].

use crate::tls::TlsError;

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("read the store")]
    Store(#[from] skep_store::StoreError),
    #[error("make the objects of every cluster: {0}")]
    Bootstrap(#[from] skep_api::Status),
    #[error("TLS towards nodes and other API servers")]
    Tls(#[from] TlsError),
    #[error("{0}")]
    TokenKey(&'static str),
}
