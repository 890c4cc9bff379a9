//! A request and its response: which endpoint, once more after a failure, and what is recorded of it.

use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Response, StatusCode};
use http_body::Body;
use tokio::time::timeout;

use super::access_log::Line;
use super::endpoint_body::EndpointBody;
use super::opened::Opener;
use super::policy::Prepared;
use super::request_body::RequestBody;
use super::send_error::SendError;
use super::snapshot::Cluster;
use super::upstream::{Lease, Unanswered, Upstream, Wait};
use super::{Gateway, Shared};
use crate::config::{Protocol, Retry, Timeouts};
use crate::counters::{RouteCounters, add};
use crate::limits::Limits;
use crate::outgoing::Outgoing;
use crate::policy::{Admitted, Preference};

/// Endpoints that a request is sent to until one answers.
const MAX_ATTEMPTS: usize = 3;

/// The longest pause before an attempt.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// A limit that is off.
const NO_LIMIT: Duration = Duration::from_secs(86_400);

/// What a route says about attempts.
#[derive(Clone, Debug, Default)]
pub(super) struct Terms {
    pub(super) timeouts: Timeouts,
    pub(super) retry: Option<Retry>,
    pub(super) preference: Preference,
    /// For a connection; `None`: the gateway's own limit.
    pub(super) connect: Option<Duration>,
    /// For the head of a response, after the request was sent; `None`: the gateway's own limit.
    pub(super) response: Option<Duration>,
    pub(super) repeats_only_idempotent: bool,
    /// After this time no other endpoint is tried.
    pub(super) repeats_within: Option<Duration>,
}

impl Terms {
    fn wait<'a>(&self, limits: &Limits, opener: Opener<'a>) -> Wait<'a> {
        let own = self.timeouts.attempt.or(self.timeouts.request);
        let response = own.map(|limit| if limit.is_zero() { NO_LIMIT } else { limit });
        Wait {
            opener,
            connect: self.connect.unwrap_or(limits.connect_timeout),
            response: response.or(self.response).unwrap_or(limits.response_timeout),
            extends: own.is_none(),
        }
    }

    fn retries(&self, status: StatusCode) -> bool {
        self.retry.as_ref().is_some_and(|retry| retry.statuses.contains(&status))
    }

    async fn pause(&self, attempt: usize) {
        if let Some(Retry { backoff, .. }) = &self.retry
            && !backoff.is_zero()
        {
            let factor = u32::try_from(attempt).unwrap_or(u32::MAX);
            tokio::time::sleep(backoff.saturating_mul(factor).min(MAX_BACKOFF)).await;
        }
    }
}

/// Sends a request to endpoints until one answers, within the route's time for all attempts.
pub(super) async fn send(
    gateway: &Shared,
    cluster: &Cluster,
    protocol: Protocol,
    head: &Outgoing,
    body: RequestBody,
    (route, terms): (&Arc<RouteCounters>, &Terms),
) -> Result<(Response<EndpointBody>, Lease), SendError> {
    let mut attempts = pin!(attempts(gateway, cluster, protocol, head, body, (route, terms)));
    match terms.timeouts.request.filter(|limit| !limit.is_zero()) {
        Some(limit) => timeout(limit, attempts.as_mut()).await.unwrap_or(Err(SendError::ResponseTimeout)),
        None => attempts.await,
    }
}

/// A request of which no endpoint received anything is sent again; another only if its method is idempotent (RFC 9110, 9.2.2) and it has
/// no body, or if the route says so and the body is here as a whole.
async fn attempts(
    gateway: &Shared,
    cluster: &Cluster,
    protocol: Protocol,
    head: &Outgoing,
    mut body: RequestBody,
    (route, terms): (&Arc<RouteCounters>, &Terms),
) -> Result<(Response<EndpointBody>, Lease), SendError> {
    let retry = terms.retry.as_ref();
    let repeats_all = retry.is_some() && !terms.repeats_only_idempotent;
    let has_repeatable_body = retry.is_some() || body.is_end_stream();
    let is_repeatable = repeats_all || is_idempotent(&head.method) && has_repeatable_body;
    let max_attempts = retry.map_or(MAX_ATTEMPTS, |retry| retry.attempts.saturating_add(1));
    let repeats = terms.repeats_within.map(|limit| (Instant::now(), limit));
    let is_in_time = || repeats.is_none_or(|(began, limit)| began.elapsed() < limit);
    let may_spend = || is_in_time() && (retry.is_some() || cluster.budget.spend());
    let wait = terms.wait(&gateway.limits, Opener { opened: &gateway.opened, route });
    let at_once = cluster.backend.demand.at_once;
    let (mut tried, mut last): (Vec<SocketAddr>, _) = (Vec::new(), SendError::NoEndpoint);
    cluster.budget.earn();
    for attempt in 1..=max_attempts {
        let now = gateway.now_ms();
        let Some(upstream) = cluster.prefer(terms.preference, &tried, now) else { break };
        let copy = if is_repeatable { body.again() } else { None };
        let Unanswered { error, unsent } =
            match upstream.send(head, body, protocol, !tried.is_empty(), &wait, at_once).await {
                Ok((response, lease)) => {
                    upstream.health.succeeded();
                    match copy.filter(|_| {
                        attempt < max_attempts && is_in_time() && terms.retries(response.status())
                    }) {
                        Some(again) => body = again,
                        None => return Ok((response, lease)),
                    }
                    add(&gateway.counters.retries);
                    tried.push(upstream.address);
                    terms.pause(attempt).await;
                    continue;
                }
                Err(unanswered) => unanswered,
            };
        failed(gateway, cluster, &upstream, &error, now);
        let again = match error {
            SendError::ResponseTimeout if retry.is_none() => None,
            _ => unsent.or(copy),
        };
        last = error;
        match again {
            Some(again) if attempt < max_attempts && may_spend() => body = again,
            _ => break,
        }
        add(&gateway.counters.retries);
        tried.push(upstream.address);
        terms.pause(attempt).await;
    }
    Err(last)
}

fn failed(gateway: &Shared, cluster: &Cluster, upstream: &Upstream, error: &SendError, now_ms: u64) {
    if error.is_of_request() {
        return;
    }
    add(&gateway.counters.upstream_failures);
    if upstream.health.failed(now_ms) {
        add(&gateway.counters.ejections);
        tracing::warn!(backend = %cluster.backend.name, endpoint = %upstream.address, %error, "endpoint failed; it gets no requests for a time");
    }
}

fn is_idempotent(method: &Method) -> bool {
    method.is_safe() || *method == Method::PUT || *method == Method::DELETE
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
    /// The client has one request less at once when this one ends.
    admitted: Option<Admitted>,
}

impl Record {
    pub(super) fn new(gateway: &Gateway, line: Option<Box<Line>>) -> Record {
        Record {
            gateway: gateway.clone(),
            route: None,
            began: Instant::now(),
            status: 0,
            bytes: 0,
            line,
            admitted: None,
        }
    }

    pub(super) fn routed(&mut self, route: &Arc<RouteCounters>) {
        self.route = Some(route.clone());
    }

    /// What the route's policy says of it.
    pub(super) fn policy(&mut self, prepared: &mut Prepared) {
        self.admitted = prepared.admitted.take();
        if prepared.policy.is_unlogged {
            self.line = None;
        }
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
