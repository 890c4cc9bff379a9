//! Asks an API server for a tunnel: TLS with the node's certificate, and a protocol switch (RFC 9110, 7.8).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::keepalive::probe_silence;

/// The time for connecting, the TLS handshake and the answer.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a refusal that are logged.
const MAX_REFUSAL_BYTES: usize = 4 << 10;

/// Where a server is, and the name or address in its certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerAddress {
    pub host: String,
    pub port: u16,
}

impl std::fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ServerAddress { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("connect: {0}")]
    Connect(#[source] io::Error),
    #[error("TLS: {0}")]
    Tls(#[source] io::Error),
    #[error("{0:?} is not the name of a server")]
    Name(String),
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("the server refused: {0}: {1}")]
    Refused(StatusCode, String),
    #[error("no answer in time")]
    Timeout,
}

pub(super) async fn open(
    server: &ServerAddress,
    node: &str,
    tls: &Arc<ClientConfig>,
) -> Result<TokioIo<Upgraded>, OpenError> {
    timeout(OPEN_TIMEOUT, switch(server, node, tls)).await.map_err(|_| OpenError::Timeout)?
}

async fn switch(
    server: &ServerAddress,
    node: &str,
    tls: &Arc<ClientConfig>,
) -> Result<TokioIo<Upgraded>, OpenError> {
    let stream = TcpStream::connect((server.host.as_str(), server.port)).await.map_err(OpenError::Connect)?;
    // Only latency depends on it.
    let _ = stream.set_nodelay(true);
    probe_silence(&stream).map_err(OpenError::Connect)?;
    let bad_name = || OpenError::Name(server.to_string());
    let name = ServerName::try_from(server.host.clone()).map_err(|_| bad_name())?;
    let stream = TlsConnector::from(tls.clone()).connect(name, stream).await.map_err(OpenError::Tls)?;
    let (mut requests, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // The answer or the upgraded stream reports the end of the connection.
        let _ = connection.with_upgrades().await;
    });
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = crate::path(node).parse().map_err(|_| OpenError::Name(node.to_owned()))?;
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_str(&server.to_string()).map_err(|_| bad_name())?);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(crate::PROTOCOL));
    let mut answer = requests.send_request(request).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (head, body) = answer.into_parts();
        let text = Limited::new(body, MAX_REFUSAL_BYTES).collect().await.map(|body| body.to_bytes());
        let text = String::from_utf8_lossy(&text.unwrap_or_default()).trim().to_owned();
        return Err(OpenError::Refused(head.status, text));
    }
    Ok(TokioIo::new(hyper::upgrade::on(&mut answer).await?))
}
