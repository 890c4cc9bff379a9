//! TLS towards clients: the certificate follows the name that the client asks for, by the configuration of the moment.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::UnixTime;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    Acceptor, ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Shared, acme};
use crate::acme::ALPN;
use crate::client_check::{CheckedClient, ClientCheck};
use crate::crypto;

/// What clients say inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inside {
    Http,
    Stream,
}

/// Answers the handshakes at a port. It stays the same while certificates change.
pub(super) struct Handshakes {
    shared: Arc<Shared>,
    port: u16,
    inside: Inside,
    /// For clients that are not asked for a certificate.
    open: Arc<ServerConfig>,
}

impl Handshakes {
    pub(super) fn new(shared: &Arc<Shared>, port: u16, inside: Inside) -> Result<Handshakes, rustls::Error> {
        let mut open = config(shared, port, inside, WebPkiClientVerifier::no_client_auth())?;
        open.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        Ok(Handshakes { shared: shared.clone(), port, inside, open: Arc::new(open) })
    }

    /// The handshake of a client, and what is known of it if its server asks for a certificate.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Option<CheckedClient>)> {
        if !self.checks_clients() {
            let acceptor = tokio_rustls::TlsAcceptor::from(self.open.clone());
            return Ok((acceptor.accept(stream).await?, None));
        }
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let Some(check) = self.check_of(&start.client_hello()) else {
            return Ok((start.into_stream(self.open.clone()).await?, None));
        };
        let checking = self.checking(&check).map_err(io::Error::other)?;
        let stream = start.into_stream(Arc::new(checking)).await?;
        let client = check.admit(stream.get_ref().1.peer_certificates());
        let client = client.ok_or_else(|| io::Error::from(io::ErrorKind::PermissionDenied))?;
        Ok((stream, Some(client)))
    }

    fn checks_clients(&self) -> bool {
        let snapshot = self.shared.snapshot.load();
        let listener = snapshot.listeners.get(&self.port);
        listener.and_then(|listener| listener.tls.as_ref()).is_some_and(|servers| servers.checks_clients)
    }

    /// How the client's certificate is verified. A validation of ACME has none.
    fn check_of(&self, hello: &ClientHello<'_>) -> Option<Arc<ClientCheck>> {
        if self.inside == Inside::Http && hello.alpn().is_some_and(acme::validates) {
            return None;
        }
        let snapshot = self.shared.snapshot.load();
        let servers = snapshot.listeners.get(&self.port)?.tls.as_ref()?;
        let name = hello.server_name().unwrap_or_default().to_ascii_lowercase();
        servers.find(&name)?.clients.clone()
    }

    /// Sessions are resumed by tickets of the check only.
    fn checking(&self, check: &Arc<ClientCheck>) -> Result<ServerConfig, rustls::Error> {
        let mut config = config(&self.shared, self.port, self.inside, check.verifier())?;
        config.ticketer = check.tickets.clone();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }
}

fn config(
    shared: &Arc<Shared>,
    port: u16,
    inside: Inside,
    clients: Arc<dyn ClientCertVerifier>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(crypto::provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(Resolver { shared: shared.clone(), port }));
    let protocols: &[&[u8]] = match inside {
        Inside::Http => &[b"h2", b"http/1.1", ALPN],
        Inside::Stream => &[],
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

struct Resolver {
    shared: Arc<Shared>,
    port: u16,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Resolver").field("port", &self.port).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let snapshot = self.shared.snapshot.load();
        let servers = snapshot.listeners.get(&self.port)?.tls.as_ref()?;
        let name = hello.server_name().unwrap_or_default().to_ascii_lowercase();
        if hello.alpn().is_some_and(acme::validates) {
            return acme::certificate(&snapshot, &name);
        }
        let certificates = &servers.find(&name)?.certificates;
        let serves = |key: &Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let now = UnixTime::now().as_secs().cast_signed();
        let mut keys = certificates.iter().map(|certificate| certificate.key_at(now));
        keys.clone().find(|key| serves(key)).or_else(|| keys.next()).cloned()
    }
}
