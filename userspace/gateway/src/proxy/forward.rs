//! The way of one request: target, route, endpoint, response.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::activity::InProgress;
use super::connection::Client;
use super::endpoint_body::EndpointBody;
use super::exchange::{self, Record, Terms};
use super::policy::{self, Denied, Prepared, Verdict};
use super::request_body::{BodyError, BodyState, RequestBody};
use super::response_body::ResponseBody;
use super::send_error::SendError;
use super::snapshot::{Cluster, Snapshot};
use super::upstream::Lease;
use super::{Gateway, Shared};
use super::{acme, mirror, switched};
use crate::config::{Listener, Protocol, Route};
use crate::filters::{Cors, Filters, Rewrite};
use crate::headers;
use crate::outgoing::Outgoing;
use crate::policy::Values;
use crate::routing::{Target, TargetError};

const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// Of a body that is read whole, so that the route can send it again.
const MAX_REPEATED_BYTES: usize = 64 << 10;
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
    #[error("all endpoints have as many requests as they may have")]
    Busy,
    /// The configuration has no backend for the request.
    #[error("no backend")]
    NoBackend(StatusCode),
    #[error("the client's address is not allowed")]
    Forbidden,
    #[error("the client sends too many requests")]
    TooMany,
    #[error("the authentication does not answer")]
    Authentication,
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
            Refusal::NoEndpoint | Refusal::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::NoBackend(status) => *status,
            Refusal::Forbidden => StatusCode::FORBIDDEN,
            Refusal::TooMany => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Authentication => StatusCode::INTERNAL_SERVER_ERROR,
            Refusal::ResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
            Refusal::BadGateway => StatusCode::BAD_GATEWAY,
        }
    }

    fn of_body(error: &BodyError) -> Refusal {
        match error {
            BodyError::TooLarge => Refusal::TooLarge,
            BodyError::Timeout | BodyError::Http(_) | BodyError::Endpoint(_) | BodyError::Behind => {
                Refusal::BodyTimeout
            }
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
            SendError::Busy => Refusal::Busy,
            SendError::Connect(_)
            | SendError::ConnectTimeout
            | SendError::Handshake(_)
            | SendError::NotHttp2
            | SendError::Http1(_)
            | SendError::Http2(_)
            | SendError::Host => Refusal::BadGateway,
        }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Address => Refusal::Forbidden,
            Denied::Rate => Refusal::TooMany,
            Denied::Authentication => Refusal::Authentication,
        }
    }
}

/// What becomes of a request.
enum Decision {
    /// The gateway answers: a redirect, or whether another origin is allowed.
    Own(StatusCode, HeaderMap),
    /// What validates the host for ACME.
    Challenge(Arc<str>),
    Onward(Box<Onward>),
}

/// Where a request goes.
struct Onward {
    route: Arc<Route>,
    /// The backend of the route that was drawn.
    drawn: usize,
    cluster: Arc<Cluster>,
    protocol: Protocol,
    outgoing: Outgoing,
    switch: Option<HeaderValue>,
    /// An origin whose pages may read the response.
    origin: Option<HeaderValue>,
    mirrors: Vec<Arc<Cluster>>,
    policy: Option<Box<Prepared>>,
}

/// Answers a request. Its future is moved several times for each request of HTTP/2, so what is rare in it is boxed.
pub(super) async fn answer(
    gateway: Gateway,
    client: Arc<Client>,
    mut request: Request<Incoming>,
    mut open: InProgress,
) -> Result<Response<ResponseBody>, Infallible> {
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
    let decided = match has_two_lengths {
        true => Err(Refusal::TwoLengths),
        false => decide(&shared, &client, &mut head, &mut record),
    };
    let answered = match decided {
        Ok(Decision::Own(status, headers)) => Ok(Answered::Own(status, headers, Bytes::new())),
        Ok(Decision::Challenge(text)) => {
            Ok(Answered::Own(StatusCode::OK, HeaderMap::new(), Bytes::copy_from_slice(text.as_bytes())))
        }
        Ok(Decision::Onward(onward)) => go_on(&shared, onward, body, switched, &state).await,
        Err(refusal) => Err(refusal),
    };
    open.answered();
    let mut response = match answered {
        Ok(Answered::Endpoint(response, lease, onward)) => {
            record.answered(response.status().as_u16(), Some(lease.upstream.address));
            let (mut head, body) = response.into_parts();
            let is_switch = head.status == StatusCode::SWITCHING_PROTOCOLS;
            headers::to_client(&mut head.headers, version, is_switch);
            onward.filter_response(head.status, lease.upstream.id, &mut head.headers);
            let policy = onward.policy.as_ref().map(|policy| &policy.policy);
            let own = policy.and_then(|policy| policy.stream_timeout);
            let timeout = own.unwrap_or(shared.limits.stream_timeout);
            let body = ResponseBody::endpoint(body, lease, timeout, Some(record), open);
            Response::from_parts(head, body.paced(policy.and_then(|policy| policy.pace)))
        }
        Ok(Answered::Own(status, headers, text)) => own_response(status, headers, text, record, open),
        Err(refusal) => refuse(&refusal, record, open),
    };
    if closes {
        response.headers_mut().insert(CONNECTION, CLOSE);
    }
    Ok(response)
}

fn own_response(
    status: StatusCode,
    headers: HeaderMap,
    text: Bytes,
    mut record: Record,
    open: InProgress,
) -> Response<ResponseBody> {
    record.answered(status.as_u16(), None);
    let mut response = Response::new(ResponseBody::text(text, Some(record), open));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

enum Answered {
    Own(StatusCode, HeaderMap, Bytes),
    Endpoint(Response<EndpointBody>, Lease, Box<Onward>),
}

impl Onward {
    fn filter_response(&self, status: StatusCode, endpoint: u64, headers: &mut HeaderMap) {
        if let Some(policy) = &self.policy {
            policy.respond(status, &self.cluster, endpoint, headers);
        }
        if let Some(drawn) = self.route.backends.get(self.drawn) {
            drawn.filters.response.apply(headers);
        }
        self.route.filters.response.apply(headers);
        if let (Some(cors), Some(origin)) = (&self.route.cors, &self.origin) {
            cors.add(origin, headers);
        }
    }
}

/// The backend that was drawn, as its index, its filters, and where the request goes.
fn draw<'r>(
    snapshot: &Snapshot,
    port: u16,
    route: &'r Route,
    policy: Option<&Prepared>,
) -> Result<(usize, &'r Filters, Arc<Cluster>), Refusal> {
    let no_backend = Refusal::NoBackend(route.unserved.unwrap_or(StatusCode::SERVICE_UNAVAILABLE));
    let preference = policy.map(|policy| policy.preference).unwrap_or_default();
    let (at, drawn) = snapshot.draw(route, preference).ok_or(no_backend)?;
    let canary = policy.and_then(|policy| policy.canary());
    let backend = canary.or(drawn.backend).ok_or(Refusal::NoBackend(StatusCode::INTERNAL_SERVER_ERROR))?;
    let cluster = snapshot.cluster_by(port, backend).ok_or(Refusal::NoEndpoint)?;
    let fallback = route.policy.as_ref().and_then(|policy| policy.fallback).filter(|_| cluster.is_empty());
    let fallback = fallback.and_then(|fallback| snapshot.cluster_by(port, fallback));
    let cluster = fallback.unwrap_or(cluster);
    Ok((at, &drawn.filters, cluster))
}

/// Finds the route, and turns the head to the endpoint's.
fn decide(
    shared: &Shared,
    client: &Client,
    head: &mut Parts,
    record: &mut Record,
) -> Result<Decision, Refusal> {
    let snapshot = shared.snapshot.load();
    let listener = snapshot.listeners.get(&client.port).ok_or(Refusal::NoRoute)?;
    let target = Target::read(head)?;
    if !client.is_tls
        && let Some(text) = acme::answer(&snapshot, &target, head)
    {
        return Ok(Decision::Challenge(text));
    }
    check_server(listener, client, &target.host)?;
    let routes = listener.hosts.find(&target.host).next().ok_or(Refusal::NoRoute)?;
    let route = routes.find(&target.head(head)).map_err(|_| Refusal::NoRoute)?.clone();
    record.routed(&route.counters);
    let policy = match prepare(shared, &snapshot, (client, listener.public_port), &route, &target, head)? {
        Some(Verdict::Own(status, headers)) => return Ok(Decision::Own(status, headers)),
        Some(Verdict::On(mut prepared)) => {
            record.policy(&mut prepared);
            Some(prepared)
        }
        None => None,
    };
    check_length(shared, route.policy.as_deref(), head)?;
    if let Some(own) = own_answer(&route, client, listener.public_port, &target, head) {
        return Ok(own);
    }
    let (drawn, filters, cluster) = draw(&snapshot, client.port, &route, policy.as_deref())?;
    let is_grpc = headers::is_grpc(head.version, &head.headers);
    let protocol = if is_grpc { Protocol::H2c } else { cluster.backend.protocol };
    let rewrites = [&route.filters.rewrite, &filters.rewrite];
    let path = outgoing_path(&target, head, &route, rewrites)?;
    let forwarded =
        client.forwarded(listener.public_port, target.authority).map_err(|_| Refusal::BadGateway)?;
    let host = match rewrites.iter().rev().find_map(|rewrite| rewrite.host.as_deref()) {
        Some(host) => HeaderValue::from_str(host).map_err(|_| Refusal::BadGateway)?,
        None => forwarded.authority().clone(),
    };
    let switch = headers::switch_of(head.version, &head.headers).filter(|_| protocol == Protocol::Http1);
    let origin = route.cors.as_ref().and_then(|cors| cors.allowed(&head.headers));
    headers::to_endpoint(&mut head.headers, protocol, switch.clone());
    if let Some(introduction) = policy.as_ref().and_then(|policy| policy.introduction.as_ref()) {
        introduction.apply(&mut head.headers);
    }
    let (method, headers) = (head.method.clone(), std::mem::take(&mut head.headers));
    let mut outgoing = Outgoing { method, host, path, headers, forwarded: Some(forwarded), is_grpc };
    for changes in [&route.filters.request, &filters.request].into_iter().filter(|some| !some.is_empty()) {
        changes.apply(outgoing.whole_headers());
    }
    let mirrors = mirror::draw(&snapshot, client.port, &route.mirrors);
    let onward = Onward { route, drawn, cluster, protocol, outgoing, switch, origin, mirrors, policy };
    Ok(Decision::Onward(Box::new(onward)))
}

/// What the route's policy says of a request. `client`: with the port that it connected to.
fn prepare(
    shared: &Shared,
    snapshot: &Snapshot,
    (client, port): (&Client, u16),
    route: &Route,
    target: &Target<'_>,
    head: &Parts,
) -> Result<Option<Verdict>, Denied> {
    let Some(policy) = &route.policy else { return Ok(None) };
    let values = Values {
        method: &head.method,
        is_tls: client.is_tls,
        client: client.peer.ip(),
        port,
        host: &target.host,
        authority: target.authority,
        path: &target.path.sent,
        query: target.query,
        headers: &head.headers,
    };
    policy::prepare(policy, route, snapshot, client.checked.as_ref(), &values, shared.now_ms()).map(Some)
}

/// A redirect, or the answer to a preflight.
fn own_answer(
    route: &Route,
    client: &Client,
    port: u16,
    target: &Target<'_>,
    head: &Parts,
) -> Option<Decision> {
    if let Some(cors) = route.cors.as_ref().filter(|_| Cors::is_preflight(&head.method, &head.headers)) {
        return Some(Decision::Own(StatusCode::NO_CONTENT, cors.preflight(&head.headers)));
    }
    let redirect = route.redirect.as_ref()?;
    let location = redirect.location(client.is_tls, &target.host, port, &target.path.matched, target.query);
    let mut headers = HeaderMap::new();
    headers.insert(LOCATION, HeaderValue::from_str(&location).ok()?);
    route.filters.response.apply(&mut headers);
    Some(Decision::Own(redirect.status, headers))
}

/// A connection that was opened for one name serves only names of the same server, and a client that was not checked as the host's server
/// wants it has to connect again.
fn check_server(listener: &Listener, client: &Client, host: &str) -> Result<(), Refusal> {
    let Some(servers) = &listener.tls else { return Ok(()) };
    if servers.checks_clients {
        let wanted = servers.find(host).and_then(|server| server.clients.as_ref());
        if wanted.is_some_and(|wanted| client.checked.as_ref().is_none_or(|checked| checked.check != *wanted))
        {
            return Err(Refusal::Misdirected);
        }
    }
    let Some(name) = &client.server_name else { return Ok(()) };
    let of = |name| servers.find(name).map(Arc::as_ptr);
    match **name == *host || of(name) == of(host) {
        true => Ok(()),
        false => Err(Refusal::Misdirected),
    }
}

/// A body that says how large it is does not begin.
fn check_length(
    shared: &Shared,
    policy: Option<&crate::policy::Policy>,
    head: &Parts,
) -> Result<(), Refusal> {
    let length =
        head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let own = policy.and_then(|policy| policy.max_body_bytes);
    match (length, own.or(shared.limits.max_body_bytes)) {
        (Some(length), Some(max)) if length > max => Err(Refusal::TooLarge),
        _ => Ok(()),
    }
}

fn outgoing_path(
    target: &Target<'_>,
    head: &Parts,
    route: &Route,
    rewrites: [&Rewrite; 2],
) -> Result<PathAndQuery, Refusal> {
    match route.policy.as_ref().and_then(|policy| policy.rewrite.as_ref()) {
        Some(captures) => {
            let (path, query) = captures.apply(&target.path.matched, target.query);
            join(&path, query.as_deref())
        }
        None => path_and_query(target, head, rewrites),
    }
}

fn path_and_query(
    target: &Target<'_>,
    head: &Parts,
    rewrites: [&Rewrite; 2],
) -> Result<PathAndQuery, Refusal> {
    // Usually it goes on as it came.
    if let Some(came) = head.uri.path_and_query()
        && came.path() == target.path.sent
        && rewrites.iter().all(|rewrite| rewrite.path.is_none())
    {
        return Ok(came.clone());
    }
    let mut path = Cow::Borrowed(&*target.path.sent);
    let mut rewrites = rewrites.iter().filter_map(|rewrite| rewrite.path.as_ref());
    if let Some(first) = rewrites.next() {
        let once = first.apply(&target.path.matched);
        path = Cow::Owned(rewrites.fold(once, |path, rewrite| rewrite.apply(&path)));
    }
    join(&path, target.query)
}

fn join(path: &str, query: Option<&str>) -> Result<PathAndQuery, Refusal> {
    let parsed = match query {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    parsed.map_err(|_| Refusal::BadGateway)
}

/// Authenticates the client, and sends the request.
async fn go_on(
    shared: &Arc<Shared>,
    mut onward: Box<Onward>,
    mut body: RequestBody,
    switched: Option<OnUpgrade>,
    state: &BodyState,
) -> Result<Answered, Refusal> {
    if let Some(mut policy) = onward.policy.take() {
        let own = match policy.must_authenticate {
            true => Box::pin(policy.authenticate(shared, onward.outgoing.whole_headers())).await?,
            false => None,
        };
        if let Some((status, headers)) = own {
            return Ok(Answered::Own(status, headers, Bytes::new()));
        }
        if let Some(max) = policy.policy.max_body_bytes {
            body.limit(max);
        }
        if let Some(timeout) = policy.policy.body_timeout {
            body.wait(timeout);
        }
        onward.policy = Some(policy);
    }
    let sent = send(shared, &mut onward, body, switched, state).await;
    let status = match &sent {
        Ok((response, _)) => response.status(),
        Err(refusal) => refusal.status(),
    };
    let page = match &onward.policy {
        Some(policy) if policy.has_page(status) => Box::pin(policy.error_page(shared, status)).await,
        Some(_) | None => None,
    };
    let (response, lease) = match page {
        Some(page) => page,
        None => sent?,
    };
    Ok(Answered::Endpoint(response, lease, onward))
}

async fn send(
    shared: &Arc<Shared>,
    onward: &mut Onward,
    mut body: RequestBody,
    client: Option<OnUpgrade>,
    state: &BodyState,
) -> Result<(Response<EndpointBody>, Lease), Refusal> {
    let Onward { route, cluster, protocol, outgoing, switch, mirrors, .. } = onward;
    if route.retry.is_some() {
        let whole = body.whole(MAX_REPEATED_BYTES).await;
        body = whole.map_err(|error| Refusal::of_body(&error))?;
    }
    let mirror_host = onward.policy.as_ref().and_then(|policy| policy.mirror_host.as_ref());
    for mirror in mirrors {
        mirror::send(shared, (&route.counters, mirror.clone()), outgoing, mirror_host, &mut body);
    }
    let terms = Terms {
        timeouts: route.timeouts,
        retry: route.retry.clone(),
        ..onward.policy.as_ref().map(|policy| policy.terms()).unwrap_or_default()
    };
    let sent = exchange::send(shared, cluster, *protocol, outgoing, body, (&route.counters, &terms)).await;
    let (mut response, lease) = sent.map_err(|error| Refusal::of(&error, state))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // An endpoint that switches without being asked would speak past the gateway.
        let (Some(client), Some(_)) = (client, switch) else { return Err(Refusal::BadGateway) };
        let endpoint = response.body_mut().switch().ok_or(Refusal::BadGateway)?;
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
