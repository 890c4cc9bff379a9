//! A node's tunnel: the protocol switch by which a node's connection becomes one that this server opens streams on.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use skep_api::{Reason, Status};
use skep_tunnel::{PROTOCOL, RESOURCE, Tunnels, VERSION};
use tokio::time::Instant;

use crate::authn::PeerCertificate;
use crate::authz::node_name;
use crate::identity::Identity;
use crate::request_info::RequestInfo;

/// Answers an authorised request with the switch. Whatever rights a user has, a tunnel is that of the node who asks for it.
pub(crate) fn handle(
    tunnels: &Tunnels,
    identity: &Identity,
    info: &RequestInfo<'_>,
    mut request: Request,
) -> Result<Response, Status> {
    if info.version != VERSION
        || info.resource != RESOURCE
        || info.name.is_empty()
        || !info.subresource.is_empty()
    {
        return Err(Status::no_such_path());
    }
    if node_name(&identity.user, &identity.groups) != Some(&info.name) {
        let why = format!("only node {} itself can open its tunnel", info.name);
        return Err(Status::new(Reason::Forbidden, why));
    }
    let asked = request.headers().get(UPGRADE).and_then(|value| value.to_str().ok());
    if !asked.is_some_and(|asked| asked.eq_ignore_ascii_case(PROTOCOL)) {
        return Err(Status::bad_request(format!("a tunnel needs a switch to the protocol {PROTOCOL}")));
    }
    let certificate = request.extensions().get::<Arc<PeerCertificate>>();
    let expiry = certificate.map(|certificate| after(certificate.expiry()));
    let (tunnels, node) = (tunnels.clone(), info.name.to_string());
    let switched = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let ended = match switched.await {
            Ok(connection) => {
                tracing::info!(node, "tunnel opened");
                tunnels.serve(&node, TokioIo::new(connection), expiry).await
            }
            Err(error) => Err(std::io::Error::other(error)),
        };
        let why = ended.err().map_or_else(|| "closed".to_owned(), |error| error.to_string());
        tracing::info!(node, why, "tunnel ended");
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    Ok(response)
}

/// A time in seconds since 1970 by the clock of timers.
fn after(seconds: i64) -> Instant {
    let left = u64::try_from(seconds.saturating_sub(Timestamp::now().as_second())).unwrap_or_default();
    // A timer needs no more than a year.
    Instant::now() + Duration::from_secs(left.min(365 * 24 * 3600))
}
