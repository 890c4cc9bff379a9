//! The API server: HTTP in front of the store.
//!
//! In: requests over TLS, or from the same process by [`ApiServer::in_process`]; both take one way: authenticate,
//! authorise, route, decode, admit, validate, store, answer. Reads are served from [`cache`], never parsed.

mod access;
mod admission;
mod aggregate;
mod allocate;
mod audit;
mod authn;
mod authz;
mod body;
mod bootstrap;
mod cache;
mod call;
mod config;
mod convert;
mod crd;
mod endpoints;
mod follow;
mod forward;
mod gather;
mod handlers;
mod http;
mod identity;
mod managers;
mod metrics;
mod negotiate;
mod object;
mod policy_status;
mod query;
mod request_info;
mod review;
mod route;
mod serve;
mod subresources;
mod tls;
mod webhook;
mod write;

use std::sync::Arc;

use axum::Router;
use rustls::ClientConfig;

pub use audit::{Audit, AuditPolicy, LogOptions};
pub use config::{Config, FrontProxy, NODE_PORTS, NodeTls, ServiceNetwork, TokenKeys};
pub use identity::Identity;
pub use serve::ServeError;
pub use tls::TlsError;

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
    pub(crate) peers: Peers,
    pub(crate) aggregator: aggregate::Aggregator,
    pub(crate) metrics: metrics::Metrics,
    pub(crate) quota_locks: admission::QuotaLocks,
    /// Webhooks and policies.
    pub(crate) hooks: admission::HookSources,
    pub(crate) webhooks: webhook::Client,
}

/// TLS towards those whose requests are passed on.
pub(crate) struct Peers {
    /// Kubelets: their CA is trusted, and the server's own certificate shown.
    pub(crate) nodes: Arc<ClientConfig>,
    /// Pods, of whom nobody knows a CA.
    pub(crate) anyone: Arc<ClientConfig>,
}

impl Peers {
    fn new(nodes: &NodeTls) -> Result<Peers, TlsError> {
        let what = "the certificate for nodes";
        let shown = tls::ClientCertificate::read(&nodes.certificate, &nodes.key, what)?;
        let trust = tls::Trust::Bundle(nodes.ca.as_bytes(), "the nodes' CA");
        Ok(Peers { nodes: tls::client(trust, Some(&shown))?, anyone: tls::client(tls::Trust::Anyone, None)? })
    }
}

impl ApiServer {
    /// Loads the caches from the store and makes what every cluster has: namespaces, roles, the `kubernetes` Service.
    pub async fn new(config: Config) -> Result<ApiServer, StartError> {
        let caches = Caches::load(config.store.clone()).await?;
        let peers = Peers::new(&config.node_tls)?;
        let aggregator = aggregate::Aggregator::new(&config.front_proxy)?;
        let hooks = admission::HookSources::new(&caches);
        let (metrics, quota_locks, webhooks) = Default::default();
        let inner = Inner { caches, peers, aggregator, metrics, quota_locks, hooks, webhooks, config };
        let server = ApiServer { inner: Arc::new(inner) };
        bootstrap::run(&server.inner).await?;
        allocate::keep_repaired(&server.inner);
        server.inner.aggregator.refresh(&server.inner);
        tokio::spawn(crd::run(Arc::downgrade(&server.inner)));
        tokio::spawn(aggregate::keep_available(Arc::downgrade(&server.inner)));
        tokio::spawn(aggregate::keep_local(Arc::downgrade(&server.inner)));
        tokio::spawn(policy_status::run(Arc::downgrade(&server.inner)));
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
    #[error("TLS towards nodes and other API servers")]
    Tls(#[from] TlsError),
}
