//! The errors of [`crate::ApiServer::new`].

use crate::authn::AuthenticationError;
use crate::authorizers::AuthorizationError;
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
    #[error("authentication configuration: {0}")]
    Authentication(#[from] AuthenticationError),
    #[error("authorization configuration: {0}")]
    Authorization(#[from] AuthorizationError),
    #[error("{0}")]
    TokenKey(&'static str),
}
