//! `/metrics` under upstream's names: requests and durations, objects and watches, the process; and `/metrics/slis`: the
//! results of health checks.

mod family;
mod process;
mod tunnels;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode};
use http_body::{Frame, SizeHint};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use skep_api::KindRef;
use skep_api::kinds::Name;

use crate::authorizers::AuthorizationMetrics;
use crate::cache::{Caches, Counts};
use crate::dial::Dialer;
use crate::fairness::FairnessMetrics;
use crate::negotiate::text;
use crate::object::prefix;
use crate::request_info::{RequestInfo, Target};
use crate::watched_file::ReloadMetrics;
use family::family;

/// Upstream's labels of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    verb: &'static str,
    group: KindLabel,
    version: KindLabel,
    resource: KindLabel,
    subresource: &'static str,
    scope: &'static str,
    component: &'static str,
}

/// A kind's group, version or resource as the value of a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct KindLabel(Name);

impl EncodeLabelValue for KindLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        EncodeLabelValue::encode(&self.0.as_str(), encoder)
    }
}

/// The labels of a request and its response code.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResponseLabels {
    code: u16,
    #[prometheus(flatten)]
    labels: RequestLabels,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Inflight {
    request_kind: &'static str,
}

/// A health check and its endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Check {
    name: &'static str,
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckResult {
    status: &'static str,
    #[prometheus(flatten)]
    check: Check,
}

/// Upper bounds in seconds, as upstream's.
const DURATION_BUCKETS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];

type Durations = Family<RequestLabels, Histogram, fn() -> Histogram>;

pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<ResponseLabels, Counter>,
    durations: Durations,
    long_running: Family<RequestLabels, Gauge>,
    inflight: Family<Inflight, Gauge>,
    panics: Counter,
    slis: Registry,
    health: Family<Check, Gauge>,
    checks: Family<CheckResult, Counter>,
    pub(crate) fairness: FairnessMetrics,
    pub(crate) authorization: AuthorizationMetrics,
    /// Of the authentication configuration.
    pub(crate) authentication: ReloadMetrics,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let (mut registry, mut slis) = (Registry::default(), Registry::default());
        let durations: Durations = Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS));
        let (requests, long_running, inflight) = (Family::default(), Family::default(), Family::default());
        let (health, checks) = (Family::default(), Family::default());
        let fairness = FairnessMetrics::register(&mut registry);
        let authorization = AuthorizationMetrics::register(&mut registry);
        let authentication =
            ReloadMetrics::register(&mut registry, "apiserver_authentication_config_controller");
        registry.register(
            "apiserver_request",
            "Requests by resource, verb and response code",
            requests.clone(),
        );
        let help = "Seconds until the response began, without watches and other long requests";
        registry.register("apiserver_request_duration_seconds", help, durations.clone());
        // Time in a queue is part of both. It is zero unless the server is overloaded.
        registry.register("apiserver_request_sli_duration_seconds", help, durations.clone());
        registry.register(
            "apiserver_longrunning_requests",
            "Watches and streams that are open",
            long_running.clone(),
        );
        registry.register("apiserver_current_inflight_requests", "Requests in progress", inflight.clone());
        let panics = Counter::default();
        registry.register("apiserver_request_panics", "Requests whose handling panicked", panics.clone());
        slis.register("kubernetes_healthcheck", "Whether the check passed at its last run", health.clone());
        slis.register("kubernetes_healthchecks", "Results of checks", checks.clone());
        Metrics {
            registry,
            requests,
            durations,
            long_running,
            inflight,
            panics,
            slis,
            health,
            checks,
            fairness,
            authorization,
            authentication,
        }
    }
}

impl RequestLabels {
    /// A path that is not a resource of this server.
    pub(crate) fn path(method: &Method) -> RequestLabels {
        RequestLabels {
            verb: method_name(method),
            group: KindLabel(Name::Static("")),
            version: KindLabel(Name::Static("")),
            resource: KindLabel(Name::Static("")),
            subresource: "",
            scope: "",
            component: "apiserver",
        }
    }

    /// A resource of an aggregated server. Its names are not labels: their number is not bounded here.
    pub(crate) fn remote(info: &RequestInfo<'_>) -> RequestLabels {
        let verb = match &*info.verb {
            "create" => "POST",
            "update" => "PUT",
            "patch" => "PATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            "list" => "LIST",
            "watch" => "WATCH",
            _ => "GET",
        };
        RequestLabels { verb, component: "aggregator", ..RequestLabels::path(&Method::GET) }
    }

    pub(crate) fn resource(method: &Method, target: &Target, verb: &str, applying: bool) -> RequestLabels {
        let subresources = target.kind.subresources.iter();
        let subresource = subresources.copied().find(|name| *name == target.subresource).unwrap_or("");
        let verb = match verb {
            _ if STREAMS.contains(&subresource) => "CONNECT",
            "patch" if applying => "APPLY",
            "deletecollection" => "DELETECOLLECTION",
            "list" => "LIST",
            "watch" => "WATCH",
            _ => method_name(method),
        };
        let scope = match (target.name.is_empty(), target.namespace.is_empty()) {
            (false, _) => "resource",
            (true, false) => "namespace",
            (true, true) => "cluster",
        };
        let kind = &target.kind;
        let [group, version, resource] =
            [&kind.group, &kind.version, &kind.plural].map(|name| KindLabel(name.clone()));
        RequestLabels { verb, group, version, resource, subresource, scope, ..RequestLabels::path(method) }
    }

    /// Whether the client decides how long the request stays open.
    fn is_long_running(&self) -> bool {
        matches!(self.verb, "WATCH" | "CONNECT") || self.subresource == "log"
    }

    fn kind(&self) -> &'static str {
        if matches!(self.verb, "GET" | "HEAD" | "LIST") { "readOnly" } else { "mutating" }
    }
}

const STREAMS: [&str; 4] = ["exec", "attach", "portforward", "proxy"];

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

impl Metrics {
    /// Counts a request as in progress for as long as the guard lives.
    pub(crate) fn begin(&self, labels: &RequestLabels) -> InProgress {
        let gauge = match labels.is_long_running() {
            true => self.long_running.get_or_create_owned(labels),
            false => self.inflight.get_or_create_owned(&Inflight { request_kind: labels.kind() }),
        };
        gauge.inc();
        InProgress(gauge)
    }

    /// Records a response that began. A long-running one counts as open until its body ends.
    pub(crate) fn record(
        &self,
        labels: RequestLabels,
        took: Duration,
        open: InProgress,
        response: Response,
    ) -> Response {
        let code = response.status().as_u16();
        let is_long = labels.is_long_running();
        if !is_long {
            self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        }
        self.requests.get_or_create(&ResponseLabels { code, labels }).inc();
        match is_long {
            true => response.map(|body| Body::new(CountedBody { body, _open: open })),
            false => response,
        }
    }

    pub(crate) fn record_panic(&self) {
        self.panics.inc();
    }

    #[cfg(test)]
    pub(crate) fn panics(&self) -> u64 {
        self.panics.get()
    }

    pub(crate) fn record_check(&self, name: &'static str, r#type: &'static str, good: bool) {
        let check = Check { name, r#type };
        self.health.get_or_create(&check).set(i64::from(good));
        let status = if good { "success" } else { "error" };
        self.checks.get_or_create(&CheckResult { status, check }).inc();
    }
}

/// A request in progress; counted down on drop.
pub(crate) struct InProgress(Gauge);

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A body that counts as open until its end.
struct CountedBody {
    body: Body,
    _open: InProgress,
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Metrics {
    /// The response to `/metrics`. `audit_errors`: audit events that could not be written, if the server audits.
    pub(crate) fn respond(
        &self,
        caches: &Caches,
        dialer: &Dialer,
        audit_errors: Option<u64>,
        neighbours: &str,
    ) -> Response {
        let mut out = neighbours.to_owned();
        storage(caches, &mut out);
        tunnels::write(&dialer.tunnels().counts(), &mut out);
        if let Some(errors) = audit_errors {
            let samples = [("{plugin=\"log\"}".to_owned(), errors as f64)].into_iter();
            let help = "Events that could not be written";
            family(&mut out, "apiserver_audit_error_total", "counter", help, samples);
        }
        process::write(&mut out);
        encoded(&self.registry, &mut out);
        response_of(out)
    }

    /// The response to `/metrics/slis`.
    pub(crate) fn respond_slis(&self) -> Response {
        let mut out = String::new();
        encoded(&self.slis, &mut out);
        response_of(out)
    }
}

fn response_of(out: String) -> Response {
    let mut response = text(StatusCode::OK, out);
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Writes a registry in the Prometheus text format 0.0.4: a counter's family has the name of its samples, without an end mark.
fn encoded(registry: &Registry, out: &mut String) {
    let mut text = String::new();
    // Writing into a string does not fail.
    let _ = encode(&mut text, registry);
    let counters: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    for line in text.lines().filter(|line| *line != "# EOF") {
        let named = line.strip_prefix("# ").and_then(|line| line.split(' ').nth(1));
        match named.filter(|name| counters.contains(name)) {
            Some(name) => out.push_str(&line.replacen(name, &format!("{name}_total"), 1)),
            None => out.push_str(line),
        }
        out.push('\n');
    }
}

fn storage(caches: &Caches, out: &mut String) {
    let revision = caches.applied() as f64;
    let help = "The revision of the caches";
    family(out, "apiserver_storage_revision", "gauge", help, [(String::new(), revision)].into_iter());
    let registry = caches.registry();
    let mut all: BTreeMap<String, (&KindRef, Counts)> = BTreeMap::new();
    for kind in registry.iter() {
        // A kind in several versions is one resource.
        if let Some(resource) = caches.of(kind) {
            all.entry(prefix(kind)).or_insert_with(|| (kind, resource.counts()));
        }
    }
    let help = "Stored objects by resource";
    let objects = all
        .values()
        .map(|(kind, counts)| (format!("{{resource=\"{}\"}}", kind.group_resource()), counts.objects as f64));
    family(out, "apiserver_storage_objects", "gauge", help, objects);
    let unreadable = all.values().filter(|(_, counts)| counts.unreadable > 0);
    let unreadable = unreadable.map(|(kind, counts)| {
        (format!("{{resource=\"{}\"}}", kind.group_resource()), counts.unreadable as f64)
    });
    let lost = "Stored objects that cannot be read and are left out of lists and watches";
    family(out, "apiserver_unreadable_objects", "gauge", lost, unreadable);
    let changes = "Changes that the caches received";
    let watchers = "Open watches of a resource";
    type Value = fn(&Counts) -> f64;
    let by_group: [(&str, &str, &str, Value); 3] = [
        ("apiserver_resource_objects", "gauge", help, |counts| counts.objects as f64),
        ("apiserver_watch_cache_events_received_total", "counter", changes, |counts| counts.changes as f64),
        ("apiserver_registered_watchers", "gauge", watchers, |counts| counts.watchers as f64),
    ];
    for (name, kind_of_metric, help, of) in by_group {
        let samples = all.values().map(|(kind, counts)| {
            (format!("{{group=\"{}\",resource=\"{}\"}}", kind.group, kind.plural), of(counts))
        });
        family(out, name, kind_of_metric, help, samples);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_named_as_their_samples() {
        let metrics = Metrics::default();
        let labels = RequestLabels::path(&Method::GET);
        let open = metrics.begin(&labels);
        drop(metrics.record(labels, Duration::from_millis(30), open, Response::new(Body::empty())));
        let mut out = String::new();
        encoded(&metrics.registry, &mut out);
        for line in [
            "# TYPE apiserver_request_total counter",
            "apiserver_request_total{code=\"200\",verb=\"GET\",group=\"\",version=\"\",resource=\"\",subresource=\"\",scope=\"\",component=\"apiserver\"} 1",
            "# TYPE apiserver_request_sli_duration_seconds histogram",
            "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 0",
        ] {
            assert!(out.lines().any(|found| found == line), "no {line} in\n{out}");
        }
        assert!(out.contains("le=\"0.05\"") && !out.contains("EOF"), "{out}");
    }
}
