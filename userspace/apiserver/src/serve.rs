//! The listener: TLS with optional client certificates, HTTP/1.1 and HTTP/2.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::ApiServer;
use crate::authn::PeerCertificate;
use crate::coalesce::CoalescingStream;
use crate::identity::PeerAddress;

/// The time that a client has for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("TLS")]
    Tls(#[from] rustls::Error),
    #[error("{0} is not PEM as expected")]
    Pem(&'static str),
    #[error("verify client certificates: {0}")]
    Verifier(String),
    #[error("accept connections")]
    Accept(#[from] io::Error),
}

impl ApiServer {
    /// Serves until the listener fails or the future is dropped. `certificate` and `key` are PEM.
    pub async fn serve(
        &self,
        listener: &TcpListener,
        certificate: &str,
        key: &str,
    ) -> Result<(), ServeError> {
        let acceptor = TlsAcceptor::from(Arc::new(self.tls(certificate, key)?));
        let router = self.router();
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_transient(&error) => {
                    tracing::warn!(%error, "accept connection failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            tokio::spawn(connection(acceptor.clone(), router.clone(), stream, peer));
        }
    }

    fn tls(&self, certificate: &str, key: &str) -> Result<ServerConfig, ServeError> {
        let mut roots = RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(self.inner.config.client_ca.as_bytes()) {
            roots.add(ca.map_err(|_| ServeError::Pem("the clients' CA"))?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|error| ServeError::Verifier(error.to_string()))?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
        let chain = chain.map_err(|_| ServeError::Pem("the server's certificate"))?;
        let key =
            PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| ServeError::Pem("the server's key"))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Whether the listener is still usable: no descriptors are free, or the client went away.
fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
        || matches!(error.raw_os_error(), Some(23 | 24 | 105))
}

async fn connection(acceptor: TlsAcceptor, router: Router, stream: TcpStream, address: SocketAddr) {
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await else {
        return;
    };
    let (_, session) = stream.get_ref();
    let peer = session.peer_certificates().and_then(|chain| chain.first());
    let peer = peer.map(|certificate| Arc::new(PeerCertificate::read(certificate)));
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(PeerAddress(address));
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        let request: Request = request.map(axum::body::Body::new);
        tower_call(router.clone(), request)
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    server.http2().timer(TokioTimer::new()).max_concurrent_streams(250);
    // The end of a connection is not an error of the server.
    let stream = CoalescingStream::new(stream);
    let connection = server.serve_connection_with_upgrades(TokioIo::new(stream.clone()), service);
    let _ = stream.drive(connection).await;
}

async fn tower_call(
    mut router: Router,
    request: Request,
) -> Result<axum::response::Response, std::convert::Infallible> {
    use tower_service::Service as _;
    router.call(request).await
}
