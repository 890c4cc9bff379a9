//! The audit log: requester, request, time and response of each request, in the detail that the policy asks for.
//!
//! It surrounds the rest of the server: an event is written before the request is handled and after its response.

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
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use serde_json::Value;
use skep_api::Status;

use crate::body;
use crate::identity::Identity;
use crate::negotiate::respond_status;

pub use log::LogOptions;
pub use policy::AuditPolicy;

use crate::request_info::RequestInfo;
use crate::reverse_proxy::Forwarded;
use event::Event;
use log::Log;
use policy::{Level, Stage};

/// An audit policy and the log of its events.
#[derive(Clone)]
pub struct Audit {
    policy: Arc<AuditPolicy>,
    log: Log,
}

impl Audit {
    /// Opens the log.
    pub fn new(policy: AuditPolicy, options: LogOptions) -> std::io::Result<Audit> {
        Ok(Audit { policy: Arc::new(policy), log: Log::open(options)? })
    }

    /// Events that could not be written.
    pub(crate) fn lost(&self) -> u64 {
        self.log.lost()
    }

    async fn record(&self, event: &Event, stage: Stage) {
        if let Some(line) = event.line(stage) {
            self.log.write(line).await;
        }
    }
}

/// Handles a request by `next`, and records its events.
pub(crate) async fn around<F: Future<Output = Response>>(
    audit: &Audit,
    info: &RequestInfo<'_>,
    requester: Result<Arc<Identity>, Status>,
    mut request: Request,
    next: impl FnOnce(Request, Result<Arc<Identity>, Status>) -> F,
) -> Response {
    let unknown = Identity::default();
    let user = requester.as_ref().map_or(&unknown, |requester| &**requester);
    let scope = audit.policy.evaluate(user, info);
    if scope.level == Level::None {
        return next(request, requester).await;
    }
    let level = scope.level;
    let whole = level == Level::RequestResponse;
    let mut event = Event::new(&request, user, info, scope);
    audit.record(&event, Stage::RequestReceived).await;
    let needs_body = level >= Level::Request || info.verb == "create";
    if needs_body && has_body(info) {
        request = match with_body(request, &mut event).await {
            Ok(request) => request,
            Err(status) => return complete_response(audit, event, respond_status(&status), false).await,
        };
    }
    if whole {
        // The event needs the body uncompressed.
        request.headers_mut().remove(ACCEPT_ENCODING);
    }
    let response = next(request, requester).await;
    if info.verb == "watch" && response.status().is_success() {
        return watch_response(audit.clone(), event, response).await;
    }
    complete_response(audit, event, response, whole && !is_stream(info)).await
}

/// As upstream's --audit-log-truncate-max-event-size: a larger object is left out of its event.
const MAX_RESPONSE_BYTES: u64 = 10 << 20;

/// The audit annotations of admission, in the extensions of the response.
#[derive(Clone)]
pub(crate) struct Annotations(pub(crate) BTreeMap<String, String>);

/// Whether the request's body is an object or the options of an operation on one.
fn has_body(info: &RequestInfo<'_>) -> bool {
    let writes = matches!(&*info.verb, "create" | "update" | "patch" | "delete" | "deletecollection");
    writes && !info.resource.is_empty() && !is_stream(info)
}

/// Subresources whose response is a stream or comes from a pod, and is not an object.
fn is_stream(info: &RequestInfo<'_>) -> bool {
    matches!(&*info.subresource, "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// Reads the body, so that both the event and the handler have it.
async fn with_body(request: Request, event: &mut Event) -> Result<Request, Status> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(body).await?;
    if let Some(value) = decoded(&parts.headers, &bytes) {
        event.set_request(value);
    }
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

/// The body as JSON, whatever its form. `None` if it cannot be read: the handler refuses it.
fn decoded(headers: &HeaderMap, bytes: &Bytes) -> Option<Value> {
    match body::media_type(headers) {
        patch if patch.contains("patch+") => {
            body::json_or_yaml(bytes).ok().or_else(|| serde_json::from_slice(bytes).ok())
        }
        _ => body::decode_optional(headers, bytes).ok().filter(|value| !value.is_null()),
    }
}

/// Records a complete response; with its body if `whole`.
async fn complete_response(audit: &Audit, mut event: Event, response: Response, whole: bool) -> Response {
    let (mut parts, body) = response.into_parts();
    let failed = parts.status.is_client_error() || parts.status.is_server_error();
    let mut object = None;
    let is_short = body.size_hint().exact().is_some_and(|length| length <= MAX_RESPONSE_BYTES);
    // Another server's answer may be without end, and is not shown upstream either.
    let is_ours = parts.extensions.get::<Forwarded>().is_none();
    let body = if (whole || failed) && is_short && is_ours {
        // The body is in memory already, so reading it cannot fail.
        let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        object = serde_json::from_slice(&bytes).ok();
        Body::from(bytes)
    } else {
        body
    };
    if let Some(Annotations(annotations)) = parts.extensions.remove() {
        event.set_annotations(annotations);
    }
    event.set_response(parts.status, object, whole);
    audit.record(&event, Stage::ResponseComplete).await;
    parts.headers.insert("audit-id", id_header(&event));
    Response::from_parts(parts, body)
}

/// Records the start of a watch, and its end when the body is dropped.
async fn watch_response(audit: Audit, mut event: Event, response: Response) -> Response {
    let (mut parts, inner) = response.into_parts();
    event.set_response(parts.status, None, false);
    audit.record(&event, Stage::ResponseStarted).await;
    parts.headers.insert("audit-id", id_header(&event));
    Response::from_parts(parts, Body::new(AuditedBody { inner, _end: End { audit, event } }))
}

fn id_header(event: &Event) -> HeaderValue {
    HeaderValue::from_str(event.id()).unwrap_or(HeaderValue::from_static(""))
}

/// A body whose end is recorded, however it comes.
struct AuditedBody {
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
            self.audit.log.try_write(line);
        }
    }
}

impl http_body::Body for AuditedBody {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;
    use http::StatusCode;
    use serde_json::json;

    use super::*;

    fn audit(folder: &Path) -> Audit {
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "RequestResponse"}],
        });
        let path = folder.join("audit.log");
        let options = LogOptions { path, max_age: 0, max_backups: 0, max_size: 0, compress: false };
        Audit::new(AuditPolicy::parse(&policy.to_string()).unwrap(), options).unwrap()
    }

    async fn answered(path: &str, response: Response) -> Response {
        let folder = tempfile::tempdir().unwrap();
        let request = Request::get(path).body(Body::empty()).unwrap();
        let info = RequestInfo::parse(&http::Method::GET, path, false);
        let requester = Ok(Arc::new(Identity::new("jane", &[])));
        around(&audit(folder.path()), &info, requester, request, |_, _| async { response }).await
    }

    /// As a server answers that wants to hurt.
    fn endless() -> Response {
        let pieces =
            futures::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 1 << 16])));
        let mut response = Response::new(Body::from_stream(pieces));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    }

    #[tokio::test]
    async fn an_endless_answer_of_another_server_is_passed_on_and_not_collected() {
        for path in ["/api/v1/namespaces/a/services/b/proxy/x", "/apis/metrics.k8s.io/v1beta1/nodes"] {
            let mut response = endless();
            response.extensions_mut().insert(Forwarded);
            let mut body = answered(path, response).await.into_body();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), 1 << 16);
            // Nor is one without a known length.
            let mut body = answered(path, endless()).await.into_body();
            assert!(body.frame().await.unwrap().is_ok());
        }
    }

    #[tokio::test]
    async fn an_answer_of_this_server_reaches_both_the_log_and_the_client() {
        let status = Status::not_found(skep_api::find("", "v1", "pods").unwrap(), "x");
        let response = answered("/api/v1/namespaces/a/pods/x", respond_status(&status)).await;
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), status.to_value());
    }
}
