//! The listener: accepts connections and gives them TLS with optional client certificates.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{ApiServer, connection};

const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);

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
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_fatal(&error) => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(%error, "accept connection failed");
                    tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
                    continue;
                }
            };
            let slot = self.inner.connections.enter(peer.ip());
            tokio::spawn(connection::run(acceptor.clone(), self.inner.clone(), stream, peer, slot));
        }
    }

    fn tls(&self, certificate: &str, key: &str) -> Result<ServerConfig, ServeError> {
        let mut roots = RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(self.inner.credentials.client_ca().as_bytes()) {
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

/// Whether the listener itself is broken. Everything else passes: a client went away, or descriptors or memory are short.
fn is_fatal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotConnected)
        || error.raw_os_error().is_some_and(|code| code == Errno::BADF.raw_os_error())
}
