//! The state of a running server, shared by all requests. Only the entry points (HTTP, start) see all of it; every other
//! part gets the fields that it needs.

use std::sync::Arc;

use rustls::ClientConfig;

use crate::aggregate::Aggregator;
use crate::authn::token::Tokens;
use crate::config::{Config, NodeTls};
use crate::connections::Connections;
use crate::metrics::Metrics;
use crate::reconcilers::Running;
use crate::stored::Storage;
use crate::tls::{ClientCertificate, TlsError, Trust, client};
use crate::write::Writer;

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) storage: Storage,
    pub(crate) writer: Arc<Writer>,
    pub(crate) tokens: Tokens,
    pub(crate) peers: Peers,
    pub(crate) aggregator: Arc<Aggregator>,
    pub(crate) metrics: Metrics,
    pub(crate) connections: Connections,
    pub(crate) _reconcilers: Running,
}

/// TLS configurations for proxied requests.
pub(crate) struct Peers {
    /// For kubelets: trusts the nodes' CA and presents the server's client certificate.
    pub(crate) nodes: Arc<ClientConfig>,
    /// For pods and services: their certificates are not verified.
    pub(crate) unverified: Arc<ClientConfig>,
}

impl Peers {
    pub(crate) fn new(nodes: &NodeTls) -> Result<Peers, TlsError> {
        let what = "the certificate for nodes";
        let certificate = ClientCertificate::read(&nodes.certificate, &nodes.key, what)?;
        let trust = Trust::Bundle(nodes.ca.as_bytes(), "the nodes' CA");
        Ok(Peers { nodes: client(trust, Some(&certificate))?, unverified: client(Trust::Unverified, None)? })
    }
}
