//! The way of one request: target, route, endpoint, response.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::activity::InProgress;
use super::body::{BodyState, RequestBody, ResponseBody};
use super::connection::Client;
use super::exchange::{self, Record};
use super::snapshot::Cluster;
use super::switched;
use super::upstream::{Lease, SendError};
use super::{Gateway, Shared};
use crate::config::{Listener, Protocol};
use crate::headers::{self, Origin};
use crate::routing::{Target, TargetError};

const CLOSE: HeaderValue = HeaderValue::from_static("close");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Why the gateway itself answers.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Target(#[from] TargetError),
    /// RFC 9112, 6.1.
    #[error("the body has a length and is chunked")]
    TwoLengths,
    /// RFC 9110, 15.5.20.
    #[error("the connection is for another host")]
    Misdirected,
    #[error("no route")]
    NoRoute,
    #[error("the body is too large")]
    TooLarge,
    #[error("the body does not come")]
    BodyTimeout,
    #[error("no endpoint")]
    NoEndpoint,
    #[error("the endpoint does not answer in time")]
    ResponseTimeout,
    #[error("the endpoint does not answer")]
    BadGateway,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Refusal::Target(TargetError::Method) => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::Target(_) | Refusal::TwoLengths => StatusCode::BAD_REQUEST,
            Refusal::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Refusal::NoRoute => StatusCode::NOT_FOUND,
            Refusal::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Refusal::NoEndpoint => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::ResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
            Refusal::BadGateway => StatusCode::BAD_GATEWAY,
        }
    }

    fn of(error: &SendError, body: &BodyState) -> Refusal {
        if body.too_large.load(Ordering::Relaxed) {
            return Refusal::TooLarge;
        }
        if body.timed_out.load(Ordering::Relaxed) {
            return Refusal::BodyTimeout;
        }
        match error {
            SendError::ResponseTimeout => Refusal::ResponseTimeout,
            SendError::NoEndpoint => Refusal::NoEndpoint,
            SendError::Connect(_) | SendError::ConnectTimeout | SendError::Http(_) => Refusal::BadGateway,
        }
    }
}

/// Where a request goes.
struct Onward {
    cluster: Arc<Cluster>,
    protocol: Protocol,
    uri: Uri,
    switch: Option<HeaderValue>,
}

/// Answers a request.
pub(super) async fn answer(
    gateway: Gateway,
    client: Arc<Client>,
    mut request: Request<Incoming>,
    mut open: InProgress,
) -> Response<ResponseBody> {
    let shared = gateway.0.clone();
    let switched = request.headers().contains_key(UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let (mut head, body) = request.into_parts();
    let version = head.version;
    // What follows a body that is chunked is never taken for a request: another length may have been given (RFC 9112, 6.1).
    let closes = version == Version::HTTP_11 && head.headers.contains_key(TRANSFER_ENCODING);
    let line = shared.access_log.as_ref().and_then(|log| log.sample(client.peer.ip(), &head));
    let mut record = Record::new(&gateway, line);
    let limits = &shared.limits;
    let (body, state) = RequestBody::new(body, limits.max_body_bytes, limits.body_timeout, open.activity());
    let has_two_lengths = closes && open.has_length;
    let routed = match has_two_lengths {
        true => Err(Refusal::TwoLengths),
        false => route(&shared, &client, &mut head, &mut record),
    };
    let answered = match routed {
        Ok(onward) => send(&shared, onward, head, body, switched, &state).await,
        Err(refusal) => Err(refusal),
    };
    open.answered();
    let mut response = match answered {
        Ok((response, lease)) => {
            record.answered(response.status().as_u16(), Some(lease.upstream.address));
            let (mut head, body) = response.into_parts();
            let is_switch = head.status == StatusCode::SWITCHING_PROTOCOLS;
            headers::to_client(&mut head.headers, version, is_switch);
            let timeout = shared.limits.stream_timeout;
            Response::from_parts(head, ResponseBody::endpoint(body, lease, timeout, Some(record), open))
        }
        Err(refusal) => refuse(&refusal, record, open),
    };
    if closes {
        response.headers_mut().insert(CONNECTION, CLOSE);
    }
    response
}

/// Finds the route, and turns the head to the endpoint's.
fn route(shared: &Shared, client: &Client, head: &mut Parts, record: &mut Record) -> Result<Onward, Refusal> {
    let snapshot = shared.snapshot.load();
    let listener = snapshot.listeners.get(&client.port).ok_or(Refusal::NoRoute)?;
    let target = Target::read(head)?;
    check_certificate(listener, client, &target.host)?;
    let route = listener.routes.find(&target.head(head)).map_err(|_| Refusal::NoRoute)?.clone();
    record.routed(&route.counters);
    check_length(shared, head)?;
    let cluster = snapshot.cluster(&route).ok_or(Refusal::NoEndpoint)?;
    let is_grpc = headers::is_grpc(head.version, &head.headers);
    let protocol = if is_grpc { Protocol::H2c } else { cluster.backend.protocol };
    let path = path_and_query(&target)?;
    let authority = target.authority.to_owned();
    let switch = headers::switch_of(head.version, &head.headers).filter(|_| protocol == Protocol::Http1);
    let origin = Origin {
        client: client.peer.ip(),
        port: client.local_port,
        is_tls: client.is_tls,
        authority: &authority,
    };
    headers::to_endpoint(&mut head.headers, &origin, protocol, switch.clone());
    let uri = uri(protocol, &authority, path)?;
    Ok(Onward { cluster, protocol, uri, switch })
}

/// A connection that was opened for one name serves only names with the same certificate.
fn check_certificate(listener: &Listener, client: &Client, host: &str) -> Result<(), Refusal> {
    let (Some(certificates), Some(name)) = (&listener.certificates, &client.server_name) else {
        return Ok(());
    };
    let of = |name| certificates.find(name).next().map(Arc::as_ptr);
    match **name == *host || of(name) == of(host) {
        true => Ok(()),
        false => Err(Refusal::Misdirected),
    }
}

/// A body that says how large it is does not begin.
fn check_length(shared: &Shared, head: &Parts) -> Result<(), Refusal> {
    let length =
        head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match (length, shared.limits.max_body_bytes) {
        (Some(length), Some(max)) if length > max => Err(Refusal::TooLarge),
        _ => Ok(()),
    }
}

fn path_and_query(target: &Target<'_>) -> Result<PathAndQuery, Refusal> {
    let parsed = match target.query {
        Some(query) => PathAndQuery::try_from(format!("{}?{query}", target.path.sent)),
        None => PathAndQuery::try_from(&*target.path.sent),
    };
    parsed.map_err(|_| Refusal::BadGateway)
}

/// HTTP/1.1 has the host in a header, HTTP/2 in the target.
fn uri(protocol: Protocol, authority: &str, path: PathAndQuery) -> Result<Uri, Refusal> {
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(path);
    if protocol == Protocol::H2c {
        parts.scheme = Some(Scheme::HTTP);
        let authority = if authority.is_empty() { "localhost" } else { authority };
        parts.authority = Some(Authority::try_from(authority).map_err(|_| Refusal::BadGateway)?);
    }
    Uri::from_parts(parts).map_err(|_| Refusal::BadGateway)
}

async fn send(
    shared: &Arc<Shared>,
    onward: Onward,
    head: Parts,
    body: RequestBody,
    client: Option<OnUpgrade>,
    state: &BodyState,
) -> Result<(Response<Incoming>, Lease), Refusal> {
    let Onward { cluster, protocol, uri, switch } = onward;
    let mut request = Request::new(body);
    *request.method_mut() = head.method;
    *request.uri_mut() = uri;
    *request.headers_mut() = head.headers;
    if protocol == Protocol::H2c {
        *request.version_mut() = Version::HTTP_2;
    }
    let sent = exchange::send(shared, &cluster, protocol, request).await;
    let (mut response, lease) = sent.map_err(|error| Refusal::of(&error, state))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // An endpoint that switches without being asked would speak past the gateway.
        let (Some(client), Some(_)) = (client, switch) else { return Err(Refusal::BadGateway) };
        let endpoint = hyper::upgrade::on(&mut response);
        tokio::spawn(switched::pipe(client, endpoint, lease.share(), shared.limits.switched_timeout));
    }
    Ok((response, lease))
}

fn refuse(refusal: &Refusal, mut record: Record, open: InProgress) -> Response<ResponseBody> {
    let status = refusal.status();
    record.answered(status.as_u16(), None);
    record.failed(refusal);
    let text = status.canonical_reason().unwrap_or_default();
    let mut response = Response::new(ResponseBody::text(text, Some(record), open));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    if matches!(refusal, Refusal::Target(_) | Refusal::TwoLengths | Refusal::TooLarge | Refusal::BodyTimeout)
    {
        response.headers_mut().insert(CONNECTION, CLOSE);
    }
    response
}
