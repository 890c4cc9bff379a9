//! The way of one request: identify the user, parse the request, authorise it, answer it.

use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use futures::FutureExt as _;
use http::Method;
use skep_api::{Kind, Reason, Status, flow_log};

use crate::admission::Notes;
use crate::aggregate;
use crate::audit;
use crate::authn::{self, Credential};
use crate::authz::SUPERUSERS;
use crate::body::{self, PROTOBUF, media_type};
use crate::call::Call;
use crate::connections::Connection;
use crate::deadline;
use crate::fairness::{Flow, Permit};
use crate::handlers;
use crate::identity::{AUTHENTICATED, Identity};
use crate::metrics::{InProgress, Metrics, RequestLabels};
use crate::negotiate::{add_warnings, respond_status};
use crate::query::Query;
use crate::request_info::{RequestInfo, Target};
use crate::resource_metrics;
use crate::state::Inner;
use crate::subresources;
use crate::write_options::APPLY_MEDIA_TYPE;
use crate::yaml_answer::Form;

/// A request, with all that is found out once and used by several parts.
struct Received<'a> {
    server: &'a Arc<Inner>,
    info: &'a RequestInfo<'a>,
    query: Query,
    at: Instant,
    /// The user who sent it, not the one whom he impersonates.
    requester: Result<Arc<Identity>, Status>,
    request: Request,
}

/// Answers a request; audits it if the server has an audit policy.
pub(crate) async fn handle(server: Arc<Inner>, request: Request) -> Response {
    let (at, uri) = (Instant::now(), request.uri().clone());
    let query = Query::parse(&uri);
    let info = RequestInfo::parse(request.method(), uri.path(), query.is_true("watch"));
    let credential = authn::requester(&server, &request);
    let requester = match credential {
        Credential::Known(requester) => requester,
        // On the heap: most requests need no other server.
        Credential::Token(token) => Box::pin(authn::by_token(&server, &token)).await,
    };
    if let (Ok(requester), Some(connection)) = (&requester, request.extensions().get::<Arc<Connection>>()) {
        admit(requester, connection);
    }
    let (server, info) = (&server, &info);
    let next = |request, requester| {
        let received = Received { server, info, query, at, requester, request };
        survive(&server.metrics, serve(received))
    };
    match &server.config.audit {
        Some(audit) => audit::around(audit, info, requester, request, next).await,
        None => next(request, requester).await,
    }
}

/// Answers 500 for a request whose handling panics: other requests, and the server, go on.
///
/// No async fn: that would hold `answer` twice, as its argument and as what it awaits.
fn survive(metrics: &Metrics, answer: impl Future<Output = Response>) -> impl Future<Output = Response> {
    AssertUnwindSafe(answer).catch_unwind().map(|answered| {
        answered.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            tracing::error!(panic = text, "handling of a request failed: panic");
            metrics.record_panic();
            respond_status(&Status::internal(
                "This request caused apiserver to panic. Look in the logs for details.",
            ))
        })
    })
}

/// A connection whose client is known is kept when there are too many of unknown clients.
fn admit(requester: &Identity, connection: &Connection) {
    if !connection.is_known() && requester.groups.iter().any(|group| group == AUTHENTICATED) {
        connection.authenticated(requester.groups.iter().any(|group| group == SUPERUSERS));
    }
}

/// Answers, adds warnings and annotations, and counts.
async fn serve(received: Received<'_>) -> Response {
    let (server, at) = (received.server, received.at);
    let form = Form::of(received.request.headers());
    let (notes, mut seen) = (Arc::new(Notes::default()), Seen::default());
    let mut response = match in_time(received, &notes, &mut seen).await {
        Ok(response) => response,
        Err(status) => respond_status(&status),
    };
    response = form.of_answer(response).await;
    let (warnings, annotations) = notes.take();
    add_warnings(response.headers_mut(), &warnings);
    if !annotations.is_empty() {
        response.extensions_mut().insert(audit::Annotations(annotations));
    }
    if let Some(flow) = seen.flow {
        flow.add_headers(response.headers_mut());
    }
    match seen.counted {
        Some((labels, open)) => server.metrics.record(labels, at.elapsed(), open, response),
        None => response,
    }
}

/// What is known of a request, whatever becomes of it.
#[derive(Default)]
struct Seen {
    /// The metrics' labels of the request, counted as open.
    counted: Option<(RequestLabels, InProgress)>,
    /// By which it was admitted or refused.
    flow: Option<Arc<Flow>>,
}

/// Answers within the time that the request has.
async fn in_time(received: Received<'_>, notes: &Arc<Notes>, seen: &mut Seen) -> Result<Response, Status> {
    let limit = deadline::limit(received.info, &received.query)?;
    let answer = pin!(answer(received, notes, seen));
    match limit {
        Some(limit) => {
            let answered = tokio::time::timeout(limit, answer).await;
            answered.unwrap_or_else(|_| Err(deadline::exceeded()))
        }
        None => answer.await,
    }
}

/// The seats of a request, once it has them. Streams hold none, but a watch needs them to begin.
async fn seats(
    server: &Inner,
    identity: &Identity,
    info: &RequestInfo<'_>,
    query: &Query,
    seen: &mut Seen,
) -> Result<Option<Permit>, Status> {
    if info.is_long_running() && info.verb != "watch" {
        return Ok(None);
    }
    let attributes = info.attributes(identity);
    let Some(flow) = server.fairness.flow_of(&attributes) else { return Ok(None) };
    let lists = info.verb == "list" || info.verb == "watch" && query.is_true("sendInitialEvents");
    let width = if lists { flow.list_width(listed(server, info, query)) } else { 1 };
    let flow = seen.flow.insert(flow);
    server.fairness.admit(flow, &attributes, width).await.map(Some)
}

/// About how many objects a list reads: with a selector all, else at most its limit.
fn listed(server: &Inner, info: &RequestInfo<'_>, query: &Query) -> usize {
    let caches = &server.storage.caches;
    let kind = caches.registry().find(&info.group, &info.version, &info.resource);
    let objects = kind.and_then(|kind| caches.of(&kind)).map_or(0, |resource| resource.len());
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
    let selects = query.get("labelSelector").is_some() || query.get("fieldSelector").is_some();
    limit.filter(|_| !selects).map_or(objects, |limit: usize| limit.min(objects))
}

async fn answer(received: Received<'_>, notes: &Arc<Notes>, seen: &mut Seen) -> Result<Response, Status> {
    let Received { server, info, query, requester, mut request, .. } = received;
    let caches = &server.storage.caches;
    let identity = authn::impersonated(caches, request.headers(), info, requester?).await?;
    let _permit = seats(server, &identity, info, &query, seen).await?;
    let mut begin = |labels: RequestLabels| {
        let open = server.metrics.begin(&labels);
        seen.counted = Some((labels, open));
    };
    if info.group == skep_tunnel::GROUP {
        begin(RequestLabels::path(request.method()));
        caches.authorizer().check(&info.attributes(&identity)).await?;
        return handlers::tunnel::handle(server.dialer.tunnels(), &identity, info, request);
    }
    if info.group == flow_log::GROUP {
        begin(RequestLabels::path(request.method()));
        caches.authorizer().check(&info.attributes(&identity)).await?;
        return boxed(|| handlers::flows::handle(server, info, request)).await;
    }
    if let Some(backend) = server.aggregator.backend_of(info) {
        begin(RequestLabels::remote(info));
        caches.authorizer().check(&info.attributes(&identity)).await?;
        return boxed(|| {
            aggregate::handle((&server.aggregator.dialer, caches), &identity, &backend, request)
        })
        .await;
    }
    let Some(target) = Target::of(&caches.registry(), info) else {
        begin(RequestLabels::path(request.method()));
        let info = info.without_resource(request.method());
        caches.authorizer().check(&info.attributes(&identity)).await?;
        let (parts, _) = request.into_parts();
        let request = Request::from_parts(parts, ());
        let handle = || handlers::non_resource::handle(server, &identity, &info, &query, &request);
        return boxed(handle).await;
    };
    let applying = media_type(request.headers()) == APPLY_MEDIA_TYPE;
    begin(RequestLabels::resource(request.method(), &target, &info.verb, applying));
    let (method, headers) = (request.method().clone(), std::mem::take(request.headers_mut()));
    let call = Call { identity, target, method, headers, query, notes: notes.clone() };
    caches.authorizer().check(&call.attributes(&info.verb)).await?;
    if let Some(custom) = &call.target.kind.custom {
        custom.version.warning.iter().for_each(|warning| call.notes.warn(warning.clone()));
    }
    dispatch(server, call, &info.verb, request).await
}

async fn dispatch(server: &Inner, call: Call, verb: &str, request: Request) -> Result<Response, Status> {
    let target = &call.target;
    // Custom resources have no protobuf form. Delete options may still be sent in it.
    let writes = matches!(call.method, Method::POST | Method::PUT);
    if writes && target.kind.custom.is_some() && media_type(&call.headers) == PROTOBUF {
        return Err(Status::unsupported_media_type("application/json, application/yaml"));
    }
    if !target.subresource.is_empty() && target.subresource != "status" {
        return boxed(|| subresource(server, call, request)).await;
    }
    let of_status = target.subresource == "status" && matches!(verb, "get" | "update" | "patch");
    if !of_status && !target.kind.verbs.contains(&verb) {
        return Err(not_allowed(&target.kind, verb));
    }
    if resource_metrics::serves(&target.kind) {
        return boxed(|| resource_metrics::handle(server, call)).await;
    }
    match verb {
        "watch" => handlers::watch::handle(&server.storage, call).await,
        "list" => handlers::list::handle(&server.storage, call).await,
        "get" => handlers::get::handle(&server.storage, call).await,
        verb => write(server, call, verb, request).await,
    }
}

/// A subresource reads its body itself; streams and proxied requests never end up on a thread of their own.
async fn subresource(server: &Inner, call: Call, request: Request) -> Result<Response, Status> {
    if subresources::is_proxied(&call.target.subresource) {
        return subresources::handle(server, call, request).await;
    }
    let (parts, body) = request.into_parts();
    let bytes = body::read(body).await?;
    let size = bytes.len().max(present_size(server, &call.target));
    let request = Request::from_parts(parts, Body::from(bytes));
    server.large_work.run(size, boxed(|| subresources::handle(server, call, request))).await
}

async fn write(server: &Inner, call: Call, verb: &str, request: Request) -> Result<Response, Status> {
    let bytes = body::read(request.into_body()).await?;
    let size = bytes.len().max(present_size(server, &call.target));
    server.large_work.run(size, boxed(|| write_body(server, call, verb, bytes))).await
}

async fn write_body(server: &Inner, call: Call, verb: &str, bytes: Bytes) -> Result<Response, Status> {
    match verb {
        "create" => handlers::create::handle(server, call, bytes).await,
        "update" => handlers::update::handle(&server.writer, call, bytes).await,
        "patch" => handlers::patch::handle(&server.writer, call, bytes).await,
        "delete" => handlers::delete::handle(&server.writer, call, bytes).await,
        "deletecollection" => handlers::delete::handle_collection(&server.writer, call, bytes).await,
        _ => Err(Status::method_not_supported(&call.target.kind, verb)),
    }
}

/// Makes a future on the heap: one that is large and rare. A future within another adds to its size, and futures are moved
/// on their way to the task that runs them.
#[inline(never)]
fn boxed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::pin(make())
}

/// Bytes of the object that a request is about; 0 if there is none.
fn present_size(server: &Inner, target: &Target) -> usize {
    let object = server.storage.caches.get_or_404(&target.kind, &target.namespace, &target.name);
    object.map_or(0, |object| object.bytes.len())
}

/// The error for a verb that the kind does not have, or lost with its definition.
fn not_allowed(kind: &Kind, verb: &str) -> Status {
    let terminating = kind.custom.as_ref().is_some_and(|custom| custom.definition.terminating);
    if terminating && verb == "create" {
        let why = "create not allowed while custom resource definition is terminating";
        return Status::new(Reason::MethodNotAllowed, why);
    }
    Status::method_not_supported(kind, verb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_answered_with_500() {
        let metrics = Metrics::default();
        let answer = survive(&metrics, async { panic!("number {}", 7) }).await;
        assert_eq!(answer.status(), 500);
        let sound = survive(&metrics, async { Response::default() }).await;
        assert_eq!(sound.status(), 200);
        assert_eq!(metrics.panics(), 1);
    }
}
