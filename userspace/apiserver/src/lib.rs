//! The API server: HTTP in front of the store.
//!
//! In: requests over TLS, or from the same process by [`ApiServer::in_process`]; both take one way: authenticate,
//! authorise, route, decode, admit, validate, store, answer. Reads are served from [`cache`], never parsed.

mod access;
mod admission;
mod allocate;
mod audit;
mod authn;
mod authz;
mod body;
mod bootstrap;
mod cache;
mod config;
mod convert;
mod crd;
mod events;
mod handlers;
mod http;
mod managers;
mod negotiate;
mod node_client;
mod object;
mod review;
mod route;
mod serve;
mod subresources;
mod webhook;
mod write;

use std::sync::Arc;

use axum::Router;

pub use audit::{Audit, LogOptions, Policy};
pub use authn::Identity;
pub use config::{Config, NODE_PORTS, NodeTls, ServiceNetwork, TokenKeys};
pub use serve::ServeError;

use cache::Caches;

/// A running API server; cheap to clone.
#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<Inner>,
}

/// What every request needs.
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) caches: Caches,
    pub(crate) node_client: node_client::NodeClient,
    pub(crate) quota_locks: admission::Locks,
    /// Webhooks and policies.
    pub(crate) hooks: admission::Hooks,
    pub(crate) webhooks: webhook::Client,
}

impl ApiServer {
    /// Loads the caches from the store and makes what every cluster has: namespaces, roles, the `kubernetes` Service.
    pub async fn new(config: Config) -> Result<ApiServer, StartError> {
        let caches = Caches::load(config.store.clone()).await?;
        let node_client = node_client::NodeClient::new(&config.node_tls)?;
        let hooks = admission::Hooks::new(&caches);
        let (quota_locks, webhooks) = Default::default();
        let inner = Inner { caches, node_client, quota_locks, hooks, webhooks, config };
        let server = ApiServer { inner: Arc::new(inner) };
        bootstrap::run(&server.inner).await?;
        allocate::keep_repaired(&server.inner);
        tokio::spawn(crd::run(Arc::downgrade(&server.inner)));
        Ok(server)
    }

    /// The API as a service. Requests that carry an [`Identity`] in their extensions are taken as authenticated.
    pub fn router(&self) -> Router {
        Router::new().fallback(http::handle).with_state(self.inner.clone())
    }

    /// The API for a caller in this process, who acts as `identity`: no TCP, no TLS, the same code.
    pub fn in_process(&self, identity: Identity) -> Router {
        self.router().layer(axum::Extension(identity))
    }
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("read the store")]
    Store(#[from] skep_store::StoreError),
    #[error("make the objects of every cluster: {0}")]
    Bootstrap(#[from] skep_api::Status),
    #[error("TLS towards the nodes")]
    Tls(#[from] rustls::Error),
    #[error("{what} is not PEM as expected")]
    Pem { what: &'static str },
}
