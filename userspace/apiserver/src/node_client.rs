//! HTTP towards nodes and pods: one connection a request, upgrades passed through.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::StartError;
use crate::config::NodeTls;

const CONNECT: Duration = Duration::from_secs(10);

pub(crate) struct NodeClient {
    tls: Arc<ClientConfig>,
}

/// Whether the far end speaks TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl NodeClient {
    /// Trusts the nodes' CA and shows the server's own certificate.
    pub(crate) fn new(config: &NodeTls) -> Result<NodeClient, StartError> {
        let pem = |what: &'static str| StartError::Pem { what };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(config.ca.as_bytes()) {
            roots.add(certificate.map_err(|_| pem("the nodes' CA"))?)?;
        }
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(config.certificate.as_bytes()).collect();
        let chain = chain.map_err(|_| pem("the certificate for nodes"))?;
        let key =
            PrivateKeyDer::from_pem_slice(config.key.as_bytes()).map_err(|_| pem("the key for nodes"))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(NodeClient { tls: Arc::new(tls) })
    }

    /// Sends a request; the response's body streams, and an upgraded connection stays open behind it.
    pub(crate) async fn send(
        &self,
        scheme: Scheme,
        address: SocketAddr,
        request: http::Request<Body>,
    ) -> Result<http::Response<hyper::body::Incoming>, String> {
        let connect = tokio::time::timeout(CONNECT, TcpStream::connect(address));
        let stream = connect.await.map_err(|_| format!("connect to {address}: timed out"))?;
        let stream = stream.map_err(|error| format!("connect to {address}: {error}"))?;
        let _ = stream.set_nodelay(true);
        match scheme {
            Scheme::Http => exchange(TokioIo::new(stream), request).await,
            Scheme::Https => {
                let name = ServerName::IpAddress(address.ip().into());
                let tls = TlsConnector::from(self.tls.clone()).connect(name, stream).await;
                exchange(TokioIo::new(tls.map_err(|error| format!("TLS with {address}: {error}"))?), request)
                    .await
            }
        }
    }
}

pub(crate) async fn exchange<T>(
    io: T,
    request: http::Request<Body>,
) -> Result<http::Response<hyper::body::Incoming>, String>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        // The end of the connection shows in the body or the upgraded stream.
        let _ = connection.with_upgrades().await;
    });
    sender.send_request(request).await.map_err(|error| error.to_string())
}
