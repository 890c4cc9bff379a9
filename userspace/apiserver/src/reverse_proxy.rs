//! Requests that others answer: nodes, pods, services, API servers. One connection a request; bodies stream both ways,
//! and an upgraded connection becomes a pipe.

use std::net::SocketAddr;
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
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::identity::PeerAddress;

const CONNECT: Duration = Duration::from_secs(10);
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Headers that are of one connection, not of the request or its answer.
const HOPS: [&str; 6] =
    ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"];

/// How the far end is spoken to.
#[derive(Clone)]
pub(crate) enum Security {
    Plain,
    Tls { config: Arc<ClientConfig>, name: ServerName<'static> },
}

impl Security {
    /// TLS with what certifies the address itself.
    pub(crate) fn of_address(config: Arc<ClientConfig>, address: SocketAddr) -> Security {
        Security::Tls { config, name: ServerName::IpAddress(address.ip().into()) }
    }
}

/// Where a request goes on to.
pub(crate) struct Destination {
    pub(crate) security: Security,
    pub(crate) address: SocketAddr,
    pub(crate) path_and_query: String,
}

/// The headers to go on with. Credentials stay here: the far end trusts the server, not its clients.
pub(crate) fn onward_headers(headers: &HeaderMap) -> HeaderMap {
    let upgrading = headers.contains_key(UPGRADE);
    let mut out = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let of_upgrade = upgrading && (name == CONNECTION || name == UPGRADE);
        let hop = HOPS.contains(&name.as_str()) && !of_upgrade;
        if !hop && name != AUTHORIZATION && name != HOST && !name.as_str().starts_with("impersonate-") {
            out.append(name.clone(), value.clone());
        }
    }
    out
}

/// Sends a request on with these headers, and its answer back.
pub(crate) async fn forward(
    to: Destination,
    mut headers: HeaderMap,
    mut request: Request,
) -> Result<Response, String> {
    let upgrading = headers.contains_key(UPGRADE);
    let client = upgrading.then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    if let Some(PeerAddress(peer)) = parts.extensions.get() {
        let before = headers.get(FORWARDED_FOR).and_then(|value| value.to_str().ok());
        let all = before.map_or(peer.ip().to_string(), |before| format!("{before}, {}", peer.ip()));
        headers.extend(HeaderValue::from_str(&all).ok().map(|all| (FORWARDED_FOR, all)));
    }
    let uri: Uri = to.path_and_query.parse().map_err(|_| "the path cannot be passed on".to_owned())?;
    let mut onward = http::Request::new(if upgrading { Body::empty() } else { body });
    *onward.method_mut() = parts.method;
    *onward.uri_mut() = uri;
    *onward.headers_mut() = headers;
    let mut answer = send(&to.security, to.address, onward).await?;
    if let (StatusCode::SWITCHING_PROTOCOLS, Some(client)) = (answer.status(), client) {
        let backend = hyper::upgrade::on(&mut answer);
        tokio::spawn(async move {
            if let (Ok(client), Ok(backend)) = (client.await, backend.await) {
                // Either end closing ends the pipe; there is nobody left to tell.
                let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(backend))
                    .await;
            }
        });
        let (parts, _) = answer.into_parts();
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    let (mut parts, body) = answer.into_parts();
    for hop in HOPS {
        parts.headers.remove(hop);
    }
    Ok(Response::from_parts(parts, Body::new(body)))
}

/// Sends a request under the address as its host; the response's body streams.
pub(crate) async fn send(
    security: &Security,
    address: SocketAddr,
    mut request: http::Request<Body>,
) -> Result<http::Response<Incoming>, String> {
    if let Ok(host) = HeaderValue::from_str(&address.to_string()) {
        request.headers_mut().insert(HOST, host);
    }
    let connect = tokio::time::timeout(CONNECT, TcpStream::connect(address));
    let stream = connect.await.map_err(|_| format!("dial tcp {address}: i/o timeout"))?;
    let stream = stream.map_err(|error| format!("dial tcp {address}: {error}"))?;
    let _ = stream.set_nodelay(true);
    match security {
        Security::Plain => exchange(TokioIo::new(stream), request).await,
        Security::Tls { config, name } => {
            let connect = TlsConnector::from(config.clone()).connect(name.clone(), stream);
            let stream = tokio::time::timeout(CONNECT, connect).await;
            let stream = stream.map_err(|_| format!("tls with {address}: i/o timeout"))?;
            let stream = stream.map_err(|error| format!("tls with {address}: {error}"))?;
            exchange(TokioIo::new(stream), request).await
        }
    }
}

async fn exchange<T>(io: T, request: http::Request<Body>) -> Result<http::Response<Incoming>, String>
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
