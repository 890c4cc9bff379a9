//! `/metrics` under upstream's names: requests and their times, what is stored and watched, the process; and
//! `/metrics/slis`: what the health checks found.

mod process;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode};
use http_body::{Frame, SizeHint};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use skep_api::KindRef;

use crate::Inner;
use crate::cache::Counts;
use crate::negotiate::text;
use crate::object::prefix;
use crate::request_info::RequestInfo;
use crate::route::{Target, verb};

/// What a request is for, as upstream labels it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Asked {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: &'static str,
    component: &'static str,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    code: u16,
    #[prometheus(flatten)]
    asked: Asked,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Inflight {
    request_kind: &'static str,
}

/// A health check, and what it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Check {
    name: &'static str,
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Checked {
    status: &'static str,
    #[prometheus(flatten)]
    check: Check,
}

/// Upstream's, in seconds.
const BUCKETS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];

type Times = Family<Asked, Histogram, fn() -> Histogram>;

pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    times: Times,
    long_running: Family<Asked, Gauge>,
    inflight: Family<Inflight, Gauge>,
    slis: Registry,
    health: Family<Check, Gauge>,
    checks: Family<Checked, Counter>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let (mut registry, mut slis) = (Registry::default(), Registry::default());
        let times: Times = Family::new_with_constructor(|| Histogram::new(BUCKETS));
        let (requests, long_running, inflight) = (Family::default(), Family::default(), Family::default());
        let (health, checks) = (Family::default(), Family::default());
        registry.register(
            "apiserver_request",
            "Requests, by what they are for and how they ended",
            requests.clone(),
        );
        let help = "Seconds until the answer began, without watches and what else stays open";
        registry.register("apiserver_request_duration_seconds", help, times.clone());
        // Nothing here waits in a line before it is served, so both are the same.
        registry.register("apiserver_request_sli_duration_seconds", help, times.clone());
        registry.register(
            "apiserver_longrunning_requests",
            "Watches and streams that are open",
            long_running.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests that are being answered",
            inflight.clone(),
        );
        slis.register(
            "kubernetes_healthcheck",
            "Whether a check passed when it was last asked for",
            health.clone(),
        );
        slis.register("kubernetes_healthchecks", "Results of checks", checks.clone());
        Metrics { registry, requests, times, long_running, inflight, slis, health, checks }
    }
}

impl Asked {
    /// A path that is no resource of this server's.
    pub(crate) fn path(method: &Method) -> Asked {
        Asked {
            verb: method_name(method),
            group: "",
            version: "",
            resource: "",
            subresource: "",
            scope: "",
            component: "apiserver",
        }
    }

    /// A resource that another server has. Its names are not ours to keep, and could be any number.
    pub(crate) fn remote(info: &RequestInfo<'_>) -> Asked {
        let verb = match info.verb {
            "create" => "POST",
            "update" => "PUT",
            "patch" => "PATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            "list" => "LIST",
            "watch" => "WATCH",
            _ => "GET",
        };
        Asked { verb, component: "aggregator", ..Asked::path(&Method::GET) }
    }

    pub(crate) fn resource(method: &Method, target: &Target, watching: bool, applying: bool) -> Asked {
        let subresources = target.kind.subresources.iter();
        let subresource = subresources.copied().find(|name| *name == target.subresource).unwrap_or("");
        let verb = match verb(method, target, watching) {
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
        let (group, version, resource) = (kind.group, kind.version, kind.plural);
        Asked { verb, group, version, resource, subresource, scope, ..Asked::path(method) }
    }

    /// Whether it stays open for as long as the client likes.
    fn is_long(&self) -> bool {
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
    /// Counts a request as being answered for as long as the guard lives.
    pub(crate) fn begin(&self, asked: &Asked) -> Open {
        let gauge = match asked.is_long() {
            true => self.long_running.get_or_create_owned(asked),
            false => self.inflight.get_or_create_owned(&Inflight { request_kind: asked.kind() }),
        };
        gauge.inc();
        Open(gauge)
    }

    /// An answer has begun; one that goes on is counted as open until its end.
    pub(crate) fn answered(&self, asked: Asked, took: Duration, open: Open, response: Response) -> Response {
        let code = response.status().as_u16();
        let is_long = asked.is_long();
        if !is_long {
            self.times.get_or_create(&asked).observe(took.as_secs_f64());
        }
        self.requests.get_or_create(&Answered { code, asked }).inc();
        match is_long {
            true => response.map(|body| Body::new(Held { body, _open: open })),
            false => response,
        }
    }

    pub(crate) fn checked(&self, name: &'static str, r#type: &'static str, good: bool) {
        let check = Check { name, r#type };
        self.health.get_or_create(&check).set(i64::from(good));
        let status = if good { "success" } else { "error" };
        self.checks.get_or_create(&Checked { status, check }).inc();
    }
}

/// A request that is being answered.
pub(crate) struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A body, and what is held until its end.
struct Held {
    body: Body,
    _open: Open,
}

impl http_body::Body for Held {
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

/// The answer to `/metrics`.
pub(crate) fn answer(server: &Arc<Inner>) -> Response {
    let mut out = String::new();
    storage(server, &mut out);
    process::tell(&mut out);
    encoded(&server.metrics.registry, &mut out);
    told(out)
}

/// The answer to `/metrics/slis`.
pub(crate) fn slis(server: &Arc<Inner>) -> Response {
    let mut out = String::new();
    encoded(&server.metrics.slis, &mut out);
    told(out)
}

fn told(out: String) -> Response {
    let mut response = text(StatusCode::OK, out);
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// A registry in the older text format, where a counter's family has the name of its samples and nothing marks the end.
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

/// A family of samples: labels and value.
fn family(
    out: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    samples: impl Iterator<Item = (String, f64)>,
) {
    *out += &format!("# HELP {name} {help}.\n# TYPE {name} {kind}\n");
    samples.for_each(|(labels, value)| *out += &format!("{name}{labels} {value}\n"));
}

fn storage(server: &Arc<Inner>, out: &mut String) {
    let revision = server.caches.applied() as f64;
    let help = "The revision that the caches are at";
    family(out, "apiserver_storage_revision", "gauge", help, [(String::new(), revision)].into_iter());
    let registry = server.caches.registry();
    let mut all: BTreeMap<String, (&KindRef, Counts)> = BTreeMap::new();
    for kind in registry.iter() {
        // A kind in several versions is one resource.
        if let Some(resource) = server.caches.of(kind) {
            all.entry(prefix(kind)).or_insert_with(|| (kind, resource.counts()));
        }
    }
    let help = "Objects that are stored, by resource";
    let objects = all
        .values()
        .map(|(kind, counts)| (format!("{{resource=\"{}\"}}", kind.group_resource()), counts.objects as f64));
    family(out, "apiserver_storage_objects", "gauge", help, objects);
    let changes = "Changes that the caches heard of";
    let watchers = "Watches of a resource that are open";
    type Of = fn(&Counts) -> f64;
    let by_group: [(&str, &str, &str, Of); 3] = [
        ("apiserver_resource_objects", "gauge", help, |counts| counts.objects as f64),
        ("apiserver_watch_cache_events_received_total", "counter", changes, |counts| counts.changes as f64),
        ("apiserver_registered_watchers", "gauge", watchers, |counts| counts.watchers as f64),
    ];
    for (name, sort, help, of) in by_group {
        let samples = all.values().map(|(kind, counts)| {
            (format!("{{group=\"{}\",resource=\"{}\"}}", kind.group, kind.plural), of(counts))
        });
        family(out, name, sort, help, samples);
    }
    if let Some(audit) = &server.config.audit {
        let samples = [("{plugin=\"log\"}".to_owned(), audit.lost() as f64)].into_iter();
        family(out, "apiserver_audit_error_total", "counter", "Events that could not be written", samples);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_named_as_their_samples() {
        let metrics = Metrics::default();
        let asked = Asked::path(&Method::GET);
        let open = metrics.begin(&asked);
        drop(metrics.answered(asked, Duration::from_millis(30), open, Response::new(Body::empty())));
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
