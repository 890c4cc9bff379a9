//! The state of a running server, shared by all requests. Only the entry points (HTTP, start) see all of it; every other
//! part gets the fields that it needs.

use std::sync::Arc;

use rustls::ClientConfig;

use crate::aggregate::Aggregator;
use crate::auth_config::Anonymous;
use crate::authn::RemoteTokens;
use crate::authn::token::Tokens;
use crate::blocking::LargeWork;
use crate::config::{Config, Credentials, NodeTls};
use crate::connections::Connections;
use crate::dial::Dialer;
use crate::fairness::Fairness;
use crate::lock::RwLock;
use crate::metrics::Metrics;
use crate::reconcilers::Running;
use crate::resource_metrics::collect::UsageCache;
use crate::server_endpoints::ServerEndpoints;
use crate::stored::Storage;
use crate::tls::{ClientCertificate, TlsError, Trust, client};
use crate::write::Writer;

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) storage: Storage,
    pub(crate) writer: Arc<Writer>,
    pub(crate) tokens: Tokens,
    pub(crate) remote_tokens: Arc<RemoteTokens>,
    pub(crate) anonymous: Anonymous,
    pub(crate) credentials: LiveCredentials,
    pub(crate) dialer: Dialer,
    pub(crate) aggregator: Arc<Aggregator>,
    pub(crate) metrics: Metrics,
    pub(crate) connections: Connections,
    pub(crate) fairness: Fairness,
    pub(crate) endpoints: Arc<ServerEndpoints>,
    pub(crate) large_work: LargeWork,
    pub(crate) usage: UsageCache,
    pub(crate) _reconcilers: Running,
}

/// The parts of the configuration that change while the server runs.
pub(crate) struct LiveCredentials {
    client_ca: RwLock<Arc<str>>,
    peers: RwLock<Arc<Peers>>,
}

impl LiveCredentials {
    pub(crate) fn new(config: &Config) -> Result<LiveCredentials, TlsError> {
        Ok(LiveCredentials {
            client_ca: RwLock::new(config.client_ca.as_str().into()),
            peers: RwLock::new(Arc::new(Peers::new(&config.node_tls)?)),
        })
    }

    pub(crate) fn replace(&self, new: &Credentials) -> Result<(), TlsError> {
        *self.peers.write() = Arc::new(Peers::new(&new.node_tls)?);
        *self.client_ca.write() = new.client_ca.as_str().into();
        Ok(())
    }

    /// PEM of the CAs of client certificates.
    pub(crate) fn client_ca(&self) -> Arc<str> {
        self.client_ca.read().clone()
    }

    pub(crate) fn peers(&self) -> Arc<Peers> {
        self.peers.read().clone()
    }
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
