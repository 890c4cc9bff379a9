//! A request and its response: which endpoint, once more after a failure, and what is recorded of it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{Method, Request, Response};
use http_body::Body;
use hyper::body::Incoming;

use super::access_log::Line;
use super::body::RequestBody;
use super::snapshot::Cluster;
use super::upstream::{Lease, SendError, Unanswered};
use super::{Gateway, Shared};
use crate::config::Protocol;
use crate::counters::{RouteCounters, add};

/// Endpoints that a request is sent to until one answers.
const MAX_ATTEMPTS: usize = 3;

/// Sends a request to endpoints until one answers. A request of which no endpoint received anything is sent again; another only if
/// its method is idempotent (RFC 9110, 9.2.2) and it has no body.
pub(super) async fn send(
    gateway: &Shared,
    cluster: &Cluster,
    protocol: Protocol,
    mut request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Lease), SendError> {
    let is_repeatable = is_idempotent(request.method()) && request.body().is_end_stream();
    let (mut tried, mut last): (Vec<SocketAddr>, _) = (Vec::new(), SendError::NoEndpoint);
    cluster.budget.earn();
    for attempt in 1..=MAX_ATTEMPTS {
        let now = gateway.now_ms();
        let Some(upstream) = cluster.choose(&tried, now) else { break };
        let copy = is_repeatable.then(|| copy_of(&request));
        let sent = upstream.send(request, protocol, !tried.is_empty(), &gateway.limits).await;
        let Unanswered { error, unsent } = match sent {
            Ok(answered) => {
                upstream.health.succeeded();
                return Ok(answered);
            }
            Err(unanswered) => unanswered,
        };
        if !error.is_of_request() {
            add(&gateway.counters.upstream_failures);
            if upstream.health.failed(now) {
                add(&gateway.counters.ejections);
                tracing::warn!(backend = %cluster.backend.name, endpoint = %upstream.address, %error, "endpoint failed; it gets no requests for a time");
            }
        }
        let again = match error {
            SendError::ResponseTimeout => None,
            _ => unsent.or(copy),
        };
        last = error;
        match again {
            Some(again) if attempt < MAX_ATTEMPTS && cluster.budget.spend() => request = again,
            _ => break,
        }
        add(&gateway.counters.retries);
        tried.push(upstream.address);
    }
    Err(last)
}

fn is_idempotent(method: &Method) -> bool {
    method.is_safe() || *method == Method::PUT || *method == Method::DELETE
}

fn copy_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// What is counted and logged of a request when it ends.
pub(super) struct Record {
    gateway: Gateway,
    /// `None`: the request had no route.
    route: Option<Arc<RouteCounters>>,
    began: Instant,
    status: u16,
    bytes: u64,
    line: Option<Box<Line>>,
}

impl Record {
    pub(super) fn new(gateway: &Gateway, line: Option<Box<Line>>) -> Record {
        Record { gateway: gateway.clone(), route: None, began: Instant::now(), status: 0, bytes: 0, line }
    }

    pub(super) fn routed(&mut self, route: &Arc<RouteCounters>) {
        self.route = Some(route.clone());
    }

    pub(super) fn answered(&mut self, status: u16, endpoint: Option<SocketAddr>) {
        self.status = status;
        if let Some(line) = &mut self.line {
            line.endpoint = endpoint;
        }
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    pub(super) fn failed(&mut self, error: &dyn fmt::Display) {
        if let Some(line) = &mut self.line {
            line.error = Some(error.to_string());
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // The client went away before there was a response (nginx' code for it).
        let status = if self.status == 0 { 499 } else { self.status };
        let took = self.began.elapsed();
        let shared = &self.gateway.0;
        let counters = self.route.as_deref().unwrap_or(&shared.counters.unrouted);
        counters.answered(status, took);
        if let (Some(log), Some(line)) = (&shared.access_log, self.line.take()) {
            let route = self.route.as_ref().map(|route| &*route.name);
            if !log.write(&line, route, status, self.bytes, took) {
                add(&shared.counters.unlogged);
            }
        }
    }
}
