//! The audit log: who asked for what, when, and what came of it, as the policy wants it told.
//!
//! It stands around everything else: a request is told of before anybody looks at it, and when its answer has been given.

mod event;
mod log;
mod policy;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::header::ACCEPT_ENCODING;
use http::{HeaderMap, HeaderValue};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use serde_json::Value;
use skep_api::Status;

use crate::authn;
use crate::identity::Identity;
use crate::negotiate::respond_status;
use crate::{Inner, body, http as serving};

pub use log::LogOptions;
pub use policy::Policy;

use crate::request_info::RequestInfo;
use event::Event;
use log::Log;
use policy::{Level, Stage};

/// A policy, and where it has events told.
#[derive(Clone)]
pub struct Audit {
    policy: Arc<Policy>,
    log: Log,
}

impl Audit {
    /// Opens the log.
    pub fn new(policy: Policy, options: LogOptions) -> std::io::Result<Audit> {
        Ok(Audit { policy: Arc::new(policy), log: Log::open(options)? })
    }

    /// Events that could not be written.
    pub(crate) fn lost(&self) -> u64 {
        self.log.lost()
    }

    async fn tell(&self, event: &Event, stage: Stage) {
        if let Some(line) = event.line(stage) {
            self.log.write(line).await;
        }
    }
}

/// Answers a request, and tells of it.
pub(crate) async fn around(audit: Audit, server: Arc<Inner>, mut request: Request) -> Response {
    let identity = authn::requester(&server, &request);
    let known = identity.clone().unwrap_or_default();
    let uri = request.uri().clone();
    let info = RequestInfo::parse(request.method(), &uri);
    let verdict = audit.policy.evaluate(&known, &info);
    if let Ok(identity) = identity {
        // It need not be found out again.
        request.extensions_mut().insert(identity);
    }
    if verdict.level == Level::None {
        return serving::unaudited(server, request).await;
    }
    let level = verdict.level;
    let whole = level == Level::RequestResponse;
    let mut event = Event::new(&request, &known, &info, verdict);
    audit.tell(&event, Stage::RequestReceived).await;
    let body_counts = level >= Level::Request || info.verb == "create";
    if body_counts && has_body(&info) {
        request = match with_body(request, &mut event).await {
            Ok(request) => request,
            Err(status) => return answered(&audit, event, respond_status(&status), false).await,
        };
    }
    if whole {
        // What is told is not compressed.
        request.headers_mut().remove(ACCEPT_ENCODING);
    }
    let watching = info.verb == "watch";
    let response = serving::unaudited(server, request).await;
    if watching && response.status().is_success() {
        return followed(audit, event, response).await;
    }
    answered(&audit, event, response, whole && !is_stream(&info)).await
}

/// What admission noted of a request, in the extensions of its answer.
#[derive(Clone)]
pub(crate) struct Annotations(pub(crate) BTreeMap<String, String>);

/// Whether a body is an object, or says what is to be done with one.
fn has_body(info: &RequestInfo<'_>) -> bool {
    let writes = matches!(info.verb, "create" | "update" | "patch" | "delete" | "deletecollection");
    writes && !info.resource.is_empty() && !is_stream(info)
}

/// Answers that have no end, or are nobody's object.
fn is_stream(info: &RequestInfo<'_>) -> bool {
    matches!(info.subresource, "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// Reads the body, so that both the event and the handler have it.
async fn with_body(request: Request, event: &mut Event) -> Result<Request, Status> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(body).await?;
    if let Some(value) = decoded(&parts.headers, &bytes) {
        event.sent(value);
    }
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

/// Bodies of every form are told as JSON; one that cannot be read is refused later, and not told.
fn decoded(headers: &HeaderMap, bytes: &Bytes) -> Option<Value> {
    match body::media_type(headers) {
        patch if patch.contains("patch+") => {
            body::json_or_yaml(bytes).ok().or_else(|| serde_json::from_slice(bytes).ok())
        }
        _ => body::decode_optional(headers, bytes).ok().filter(|value| !value.is_null()),
    }
}

/// Tells of a finished answer. `whole`: with its body.
async fn answered(audit: &Audit, mut event: Event, response: Response, whole: bool) -> Response {
    let (mut parts, body) = response.into_parts();
    let failed = parts.status.is_client_error() || parts.status.is_server_error();
    let mut told = None;
    let body = if whole || failed {
        // It is all in memory already; an error of the body cannot be.
        let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        told = serde_json::from_slice(&bytes).ok();
        Body::from(bytes)
    } else {
        body
    };
    if let Some(Annotations(annotations)) = parts.extensions.remove() {
        event.annotated(annotations);
    }
    event.answered(parts.status, told, whole);
    audit.tell(&event, Stage::ResponseComplete).await;
    parts.headers.insert("audit-id", id_header(&event));
    Response::from_parts(parts, body)
}

/// Tells of a watch when it begins, and when it ends.
async fn followed(audit: Audit, mut event: Event, response: Response) -> Response {
    let (mut parts, inner) = response.into_parts();
    event.answered(parts.status, None, false);
    audit.tell(&event, Stage::ResponseStarted).await;
    parts.headers.insert("audit-id", id_header(&event));
    Response::from_parts(parts, Body::new(Followed { inner, _end: End { audit, event } }))
}

fn id_header(event: &Event) -> HeaderValue {
    HeaderValue::from_str(event.id()).unwrap_or(HeaderValue::from_static(""))
}

/// A body whose end is told, however it comes.
struct Followed {
    inner: Body,
    _end: End,
}

struct End {
    audit: Audit,
    event: Event,
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(line) = self.event.line(Stage::ResponseComplete) {
            self.audit.log.offer(line);
        }
    }
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Identity {
    /// As events tell of users.
    fn told(&self) -> Value {
        let mut user = serde_json::json!({"username": self.user});
        if !self.groups.is_empty() {
            user["groups"] = self.groups.clone().into();
        }
        if !self.uid.is_empty() {
            user["uid"] = self.uid.as_str().into();
        }
        if !self.extra.is_empty() {
            user["extra"] = serde_json::json!(self.extra);
        }
        user
    }
}
