//! A route's policy on one request: what is decided before its endpoint is chosen, and the questions that others must answer first.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION,
    SET_COOKIE, TRANSFER_ENCODING, USER_AGENT, WWW_AUTHENTICATE,
};
use http::uri::PathAndQuery;
use http::{Method, Response, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::Shared;
use super::endpoint_body::EndpointBody;
use super::exchange::{self, Terms};
use super::request_body::RequestBody;
use super::send_error::SendError;
use super::snapshot::{Cluster, Snapshot};
use super::upstream::Lease;
use crate::client_check::CheckedClient;
use crate::config::{Protocol, Route};
use crate::counters::RouteCounters;
use crate::outgoing::Outgoing;
use crate::policy::{
    Admitted, BasicAuth, ErrorPages, ExternalAuth, Introduction, Key, Policy, Preference, Values,
};

const X_CODE: HeaderName = HeaderName::from_static("x-code");
const X_FORMAT: HeaderName = HeaderName::from_static("x-format");
const X_ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
const X_ORIGINAL_URL: HeaderName = HeaderName::from_static("x-original-url");
const X_ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_AUTH_REQUEST_REDIRECT: HeaderName = HeaderName::from_static("x-auth-request-redirect");
/// Statuses of responses that carry the cookies of an authentication; others only if the route says so.
const COOKIE_STATUSES: [u16; 10] = [200, 201, 204, 206, 301, 302, 303, 304, 307, 308];

/// Why a policy refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    Address,
    Rate,
    /// The service that authenticates does not answer as it should.
    Authentication,
}

/// What becomes of a request.
pub(super) enum Verdict {
    /// The gateway answers.
    Own(StatusCode, HeaderMap),
    On(Box<Prepared>),
}

/// What is known of a request that goes on.
pub(super) struct Prepared {
    route: Arc<RouteCounters>,
    pub(super) policy: Arc<Policy>,
    pub(super) preference: Preference,
    pub(super) admitted: Option<Admitted>,
    is_canary: bool,
    /// What the endpoint learns of the client's certificate.
    pub(super) introduction: Option<Introduction>,
    /// Of copies.
    pub(super) mirror_host: Option<HeaderValue>,
    pub(super) must_authenticate: bool,
    question: Option<Question>,
    error_pages: Option<(Arc<Cluster>, ErrorRequest)>,
    user_agent: Option<HeaderValue>,
    /// Of the authentication, for the client.
    cookies: Vec<HeaderValue>,
}

/// To the service that authenticates.
struct Question {
    cluster: Arc<Cluster>,
    host: HeaderValue,
    path: PathAndQuery,
    headers: HeaderMap,
    sign_in: Option<HeaderValue>,
    /// Under which the answer is kept.
    cache_key: Option<Key>,
}

struct ErrorRequest {
    format: Option<HeaderValue>,
    uri: Option<HeaderValue>,
}

/// Decides what needs no other server.
pub(super) fn prepare(
    policy: &Arc<Policy>,
    route: &Route,
    snapshot: &Snapshot,
    client: Option<&CheckedClient>,
    values: &Values<'_>,
    now_ms: u64,
) -> Result<Verdict, Denied> {
    // Clients have certificates over TLS only, to which others are sent if the route says so.
    let is_sent_to_tls = policy.https_port.is_some() && !values.is_tls;
    let clients = policy.clients.as_ref().filter(|_| !is_sent_to_tls);
    let introduction = match clients.map(|clients| clients.admit(client, values)).transpose() {
        Ok(introduction) => introduction,
        Err((status, headers)) => return Ok(Verdict::Own(status, headers)),
    };
    if let Some((status, location)) = redirect(policy, values) {
        let headers = HeaderValue::from_str(&location).map(|value| HeaderMap::from_iter([(LOCATION, value)]));
        return Ok(Verdict::Own(status, headers.unwrap_or_default()));
    }
    let is_in_range = policy.ranges.admit(values.client);
    let has_authentication = policy.basic.is_some() || policy.external.is_some();
    let may_authenticate = policy.any_satisfies && has_authentication;
    if !is_in_range && !may_authenticate {
        return Err(Denied::Address);
    }
    let admitted = policy.rate.as_ref().map(|rate| rate.admit(values.client, now_ms).ok_or(Denied::Rate));
    let must_authenticate = has_authentication && !(policy.any_satisfies && is_in_range);
    let external = policy.external.as_ref().filter(|_| must_authenticate);
    let error_pages = policy.errors.as_ref().and_then(|pages| {
        let uri = HeaderValue::from_str(&request_uri(values)).ok();
        let request = ErrorRequest { format: values.headers.get(ACCEPT).cloned(), uri };
        Some((snapshot.cluster(pages.backend)?, request))
    });
    let preference = policy.balance.preference(values, since_1970());
    let mirror_host = policy.mirror_host.as_ref().map(|host| host.fill(values));
    Ok(Verdict::On(Box::new(Prepared {
        preference,
        admitted: admitted.transpose()?,
        is_canary: takes_canary(policy, route, snapshot, preference, values),
        introduction,
        mirror_host: mirror_host.and_then(|host| HeaderValue::from_str(&host).ok()),
        must_authenticate,
        question: external.map(|external| question(external, snapshot, values)).transpose()?,
        error_pages,
        user_agent: values.headers.get(USER_AGENT).cloned(),
        cookies: Vec::new(),
        route: route.counters.clone(),
        policy: policy.clone(),
    })))
}

/// Whether the canary gets the request. A session goes on where it began if the canary is so.
fn takes_canary(
    policy: &Policy,
    route: &Route,
    snapshot: &Snapshot,
    preference: Preference,
    values: &Values<'_>,
) -> bool {
    let Some(canary) = &policy.canary else { return false };
    if let (true, Preference::Endpoint(id)) = (canary.keeps_sessions, preference) {
        let has = |backend| snapshot.cluster(backend).is_some_and(|cluster| cluster.has(id));
        if route.backends.iter().filter_map(|backend| backend.backend).any(has) {
            return false;
        }
        if has(canary.backend) {
            return true;
        }
    }
    canary.takes(values.headers, |total| rand::random_range(0..total))
}

fn redirect(policy: &Policy, values: &Values<'_>) -> Option<(StatusCode, String)> {
    if let Some(redirect) = &policy.redirect {
        return Some((redirect.status, redirect.to.fill(values)));
    }
    let port = policy.https_port.filter(|_| !values.is_tls)?;
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let location = format!("https://{}{port}{}", values.host, request_uri(values));
    Some((StatusCode::PERMANENT_REDIRECT, location))
}

fn request_uri(values: &Values<'_>) -> String {
    match values.query {
        Some(query) => format!("{}?{query}", values.path),
        None => values.path.to_owned(),
    }
}

fn question(external: &ExternalAuth, snapshot: &Snapshot, values: &Values<'_>) -> Result<Question, Denied> {
    let cluster = snapshot.cluster(external.backend).ok_or(Denied::Authentication)?;
    let path = PathAndQuery::try_from(external.path.fill(values)).map_err(|_| Denied::Authentication)?;
    let host = HeaderValue::from_str(&external.host).map_err(|_| Denied::Authentication)?;
    let scheme = if values.is_tls { "https" } else { "http" };
    let url = format!("{scheme}://{}{}", values.authority, request_uri(values));
    let mut headers = values.headers.clone();
    // Its body stays here.
    for name in [CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING, HOST] {
        headers.remove(name);
    }
    crate::headers::remove_hop_by_hop(&mut headers);
    let back = external.request_redirect.as_ref().map(|redirect| redirect.fill(values));
    let client = values.client.to_canonical().to_string();
    for (name, text) in [
        (X_ORIGINAL_URL, &*url),
        (X_ORIGINAL_METHOD, values.method.as_str()),
        (X_REAL_IP, &client),
        (X_FORWARDED_FOR, &client),
        (X_AUTH_REQUEST_REDIRECT, &back.unwrap_or_else(|| request_uri(values))),
    ] {
        drop(HeaderValue::from_str(text).map(|value| headers.insert(name, value)));
    }
    let sign_in = external.sign_in.as_ref().and_then(|sign_in| {
        let mut location = sign_in.fill(values);
        let parameter = &external.sign_in_parameter;
        if !location.contains(&format!("{parameter}=")) {
            let mark = if location.contains('?') { '&' } else { '?' };
            location.push_str(&format!("{mark}{parameter}={}", utf8_percent_encode(&url, NON_ALPHANUMERIC)));
        }
        HeaderValue::from_str(&location).ok()
    });
    for (name, value) in &external.request_headers {
        headers.insert(name, value.clone());
    }
    let cache_key = external.cache.as_ref().map(|cache| cache.key(values));
    Ok(Question { cluster, host, path, headers, sign_in, cache_key })
}

impl Prepared {
    /// Where the request goes instead of the backend that was drawn.
    pub(super) fn canary(&self) -> Option<usize> {
        self.policy.canary.as_ref().filter(|_| self.is_canary).map(|canary| canary.backend)
    }

    /// What it says about attempts.
    pub(super) fn terms(&self) -> Terms {
        Terms {
            preference: self.preference,
            connect: self.policy.connect_timeout,
            response: self.policy.response_timeout,
            repeats_only_idempotent: self.policy.repeats_only_idempotent,
            repeats_within: self.policy.repeats_within,
            ..Terms::default()
        }
    }

    /// Asks who the client is; `Some` is the answer to a request that does not go on. `headers`: those for the endpoint.
    pub(super) async fn authenticate(
        &mut self,
        shared: &Shared,
        headers: &mut HeaderMap,
    ) -> Result<Option<(StatusCode, HeaderMap)>, Denied> {
        if let Some(basic) = self.policy.basic.clone()
            && !is_known(&basic, headers.get(AUTHORIZATION)).await
        {
            let challenge = HeaderMap::from_iter([(WWW_AUTHENTICATE, basic.challenge.clone())]);
            return Ok(Some((StatusCode::UNAUTHORIZED, challenge)));
        }
        let (Some(question), Some(external)) = (self.question.take(), self.policy.external.clone()) else {
            return Ok(None);
        };
        let sign_in = question.sign_in.clone();
        let (status, said) =
            question.answer(shared, &self.route, &external).await.ok_or(Denied::Authentication)?;
        match status {
            status if status.is_success() => {}
            StatusCode::UNAUTHORIZED if sign_in.is_some() => {
                let mut headers = HeaderMap::from_iter(sign_in.map(|sign_in| (LOCATION, sign_in)));
                copy(&said, &SET_COOKIE, &mut headers);
                return Ok(Some((StatusCode::FOUND, headers)));
            }
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                let mut headers = HeaderMap::new();
                copy(&said, &WWW_AUTHENTICATE, &mut headers);
                copy(&said, &SET_COOKIE, &mut headers);
                return Ok(Some((status, headers)));
            }
            _ => return Err(Denied::Authentication),
        }
        for name in &external.response_headers {
            headers.remove(name);
            copy(&said, name, headers);
        }
        self.cookies = said.get_all(SET_COOKIE).iter().cloned().collect();
        Ok(None)
    }

    /// Whether the route's backend for errors answers instead of a response with this status.
    pub(super) fn has_page(&self, status: StatusCode) -> bool {
        self.policy.errors.as_ref().is_some_and(|pages| pages.statuses.contains(&status))
    }

    /// The response of the route's backend for errors, instead of one with this status.
    pub(super) async fn error_page(
        &self,
        shared: &Shared,
        status: StatusCode,
    ) -> Option<(Response<EndpointBody>, Lease)> {
        let (ErrorPages { about, .. }, (cluster, request)) =
            self.policy.errors.as_ref().zip(self.error_pages.as_ref())?;
        let mut headers: HeaderMap = about.iter().cloned().collect();
        headers.insert(X_CODE, HeaderValue::from(status.as_u16()));
        for (name, value) in [(X_FORMAT, &request.format), (X_ORIGINAL_URI, &request.uri)] {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
        let (host, path) = (HeaderValue::from_static("localhost"), PathAndQuery::from_static("/"));
        ask(shared, cluster, &self.route, None, host, path, headers).await.ok()
    }

    /// Changes a response on its way to the client.
    pub(super) fn respond(
        &self,
        status: StatusCode,
        cluster: &Cluster,
        endpoint: u64,
        headers: &mut HeaderMap,
    ) {
        let Policy { responses, balance, external, .. } = &*self.policy;
        responses.apply(headers);
        let exists = |endpoint| cluster.has(endpoint);
        let agent = self.user_agent.as_ref();
        if let Some((name, value)) = balance.session(self.preference, endpoint, exists, agent, since_1970()) {
            headers.append(name, value);
        }
        let is_always = external.as_ref().is_some_and(|external| external.always_sets_cookies);
        if is_always || COOKIE_STATUSES.contains(&status.as_u16()) {
            for cookie in &self.cookies {
                headers.append(SET_COOKIE, cookie.clone());
            }
        }
    }
}

impl Question {
    /// What the service says, or said of a request that was like this one; `None`: it does not answer.
    async fn answer(
        self,
        shared: &Shared,
        route: &Arc<RouteCounters>,
        external: &ExternalAuth,
    ) -> Option<(StatusCode, HeaderMap)> {
        let Question { cluster, host, path, headers, cache_key, .. } = self;
        let cache = external.cache.as_ref().zip(cache_key);
        if let Some(known) = cache.as_ref().and_then(|(cache, key)| cache.get(key, shared.now_ms())) {
            return Some(known);
        }
        let answer = ask(shared, &cluster, route, external.method.clone(), host, path, headers).await;
        let (response, lease) = answer.ok()?;
        let (head, mut body) = response.into_parts();
        lease.finish(&mut body);
        if let Some((cache, key)) = cache {
            cache.put(key, head.status, &head.headers, shared.now_ms());
        }
        Some((head.status, head.headers))
    }
}

/// Hashes are slow on purpose, and hold up no other request.
async fn is_known(basic: &Arc<BasicAuth>, authorization: Option<&HeaderValue>) -> bool {
    if let Some(known) = basic.known(authorization) {
        return known;
    }
    let (basic, Some(authorization)) = (basic.clone(), authorization.cloned()) else { return false };
    tokio::task::spawn_blocking(move || basic.verify(&authorization)).await.unwrap_or_default()
}

/// Sessions outlive this process, and go on at other nodes.
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn copy(from: &HeaderMap, name: &HeaderName, to: &mut HeaderMap) {
    for value in from.get_all(name) {
        to.append(name.clone(), value.clone());
    }
}

/// A request of the gateway's own.
async fn ask(
    shared: &Shared,
    cluster: &Cluster,
    route: &Arc<RouteCounters>,
    method: Option<Method>,
    host: HeaderValue,
    path: PathAndQuery,
    headers: HeaderMap,
) -> Result<(Response<EndpointBody>, Lease), SendError> {
    let method = method.unwrap_or(Method::GET);
    let head = Outgoing { method, host, path, headers, forwarded: None, is_grpc: false };
    let terms = (route, &Terms::default());
    exchange::send(shared, cluster, Protocol::Http1, &head, RequestBody::Empty, terms).await
}
