//! Forwards requests to kubelets, pods, services and other API servers. One connection per request; bodies stream both
//! ways, and an upgraded connection becomes a pipe.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::dial::Dialer;
use crate::identity::PeerAddress;
use crate::remote_address::RemoteAddress;
use crate::switched;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Hop-by-hop headers (RFC 9110, 7.6.1): they belong to one connection.
const HOP_BY_HOP: [&str; 6] =
    ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"];

/// Why a request could not be forwarded. The texts are parts of the API's answers.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error("the path cannot be passed on")]
    Path,
    #[error("dial tcp {0}: i/o timeout")]
    DialTimeout(RemoteAddress),
    #[error("dial tcp {0}: {1}")]
    Dial(RemoteAddress, #[source] io::Error),
    #[error("tls with {0}: i/o timeout")]
    TlsTimeout(RemoteAddress),
    #[error("tls with {0}: {1}")]
    Tls(RemoteAddress, #[source] io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// The transport security of a connection.
#[derive(Clone)]
pub(crate) enum Security {
    Plain,
    Tls { config: Arc<ClientConfig>, name: ServerName<'static> },
}

impl Security {
    /// TLS with a certificate for the address.
    pub(crate) fn of_address(config: Arc<ClientConfig>, address: &RemoteAddress) -> Security {
        Security::Tls { config, name: ServerName::IpAddress(address.get().ip().into()) }
    }
}

/// The destination of a forwarded request.
pub(crate) struct Destination {
    pub(crate) security: Security,
    pub(crate) address: RemoteAddress,
    pub(crate) path_and_query: String,
}

/// Marks the answer of another server, in the extensions of a response: its body is passed on, never collected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forwarded;

/// The headers to forward. Credentials are removed: the destination trusts this server, not its clients.
pub(crate) fn forwarded_headers(headers: &HeaderMap) -> HeaderMap {
    let upgrading = headers.contains_key(UPGRADE);
    let mut out = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let of_upgrade = upgrading && (name == CONNECTION || name == UPGRADE);
        let hop = HOP_BY_HOP.contains(&name.as_str()) && !of_upgrade;
        if !hop && name != AUTHORIZATION && name != HOST && !name.as_str().starts_with("impersonate-") {
            out.append(name.clone(), value.clone());
        }
    }
    out
}

/// Forwards a request with these headers and returns its answer.
pub(crate) async fn forward(
    dialer: &Dialer,
    to: Destination,
    mut headers: HeaderMap,
    mut request: Request,
) -> Result<Response, ForwardError> {
    let upgrading = headers.contains_key(UPGRADE);
    let client = upgrading.then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    if let Some(PeerAddress(peer)) = parts.extensions.get() {
        let before = headers.get(FORWARDED_FOR).and_then(|value| value.to_str().ok());
        let all = before.map_or(peer.ip().to_string(), |before| format!("{before}, {}", peer.ip()));
        headers.extend(HeaderValue::from_str(&all).ok().map(|all| (FORWARDED_FOR, all)));
    }
    let uri: Uri = to.path_and_query.parse().map_err(|_| ForwardError::Path)?;
    let mut onward = http::Request::new(if upgrading { Body::empty() } else { body });
    *onward.method_mut() = parts.method;
    *onward.uri_mut() = uri;
    *onward.headers_mut() = headers;
    let mut answer = send(dialer, &to.security, &to.address, onward).await?;
    if let (StatusCode::SWITCHING_PROTOCOLS, Some(client)) = (answer.status(), client) {
        let backend = hyper::upgrade::on(&mut answer);
        let (parts, _) = answer.into_parts();
        let switch = parts.headers.clone();
        tokio::spawn(async move { switched::pipe(client, backend, &switch).await });
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    let (mut parts, body) = answer.into_parts();
    parts.extensions.insert(Forwarded);
    for hop in HOP_BY_HOP {
        parts.headers.remove(hop);
    }
    Ok(Response::from_parts(parts, Body::new(body)))
}

/// Sends a request with the address as its Host header; the response's body streams.
pub(crate) async fn send(
    dialer: &Dialer,
    security: &Security,
    address: &RemoteAddress,
    mut request: http::Request<Body>,
) -> Result<http::Response<Incoming>, ForwardError> {
    if let Ok(host) = HeaderValue::from_str(&address.to_string()) {
        request.headers_mut().insert(HOST, host);
    }
    let connect = tokio::time::timeout(CONNECT_TIMEOUT, dialer.dial(address));
    let stream = connect.await.map_err(|_| ForwardError::DialTimeout(address.clone()))?;
    let stream = stream.map_err(|error| ForwardError::Dial(address.clone(), error))?;
    match security {
        Security::Plain => exchange(TokioIo::new(stream), request).await,
        Security::Tls { config, name } => {
            let connect = TlsConnector::from(config.clone()).connect(name.clone(), stream);
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect).await;
            let stream = stream.map_err(|_| ForwardError::TlsTimeout(address.clone()))?;
            let stream = stream.map_err(|error| ForwardError::Tls(address.clone(), error))?;
            exchange(TokioIo::new(stream), request).await
        }
    }
}

async fn exchange<T>(io: T, request: http::Request<Body>) -> Result<http::Response<Incoming>, ForwardError>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    tokio::spawn(async move {
        // The body or the upgraded stream reports the end of the connection.
        let _ = connection.with_upgrades().await;
    });
    Ok(sender.send_request(request).await?)
}
