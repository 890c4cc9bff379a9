//! Counters, in Prometheus' text format. PURE.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Upper bounds of the latency histogram, in microseconds.
const BOUNDS_US: [u64; 12] =
    [500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000, 30_000_000];
/// Of status codes: 1xx to 5xx.
const CLASSES: usize = 5;

/// The requests of a route. They survive changes of it.
#[derive(Debug, Default)]
pub struct RouteCounters {
    /// KIND/NAMESPACE/NAME of the object that describes the route.
    pub name: Box<str>,
    responses: [AtomicU64; CLASSES],
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl RouteCounters {
    pub fn new(name: impl Into<Box<str>>) -> RouteCounters {
        RouteCounters { name: name.into(), ..RouteCounters::default() }
    }

    /// `took`: from the request's head to the response's end.
    pub(crate) fn answered(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).clamp(1, CLASSES) - 1;
        add(&self.responses[class]);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.iter().position(|bound| took <= *bound).unwrap_or(BOUNDS_US.len());
        add(&self.buckets[bucket]);
        self.sum_us.fetch_add(took, Ordering::Relaxed);
    }

    fn write_responses(&self, out: &mut String) -> fmt::Result {
        for (class, counter) in self.responses.iter().enumerate().filter(|(_, counter)| load(counter) > 0) {
            let (route, class) = (&self.name, class + 1);
            writeln!(
                out,
                "skep_gateway_requests_total{{route=\"{route}\",code=\"{class}xx\"}} {}",
                load(counter)
            )?;
        }
        Ok(())
    }

    fn write_latency(&self, out: &mut String) -> fmt::Result {
        const NAME: &str = "skep_gateway_request_duration_seconds";
        let (route, mut total) = (&self.name, 0);
        if self.buckets.iter().all(|bucket| load(bucket) == 0) {
            return Ok(());
        }
        for (at, bucket) in self.buckets.iter().enumerate() {
            total += load(bucket);
            match BOUNDS_US.get(at) {
                Some(bound) => {
                    let bound = *bound as f64 / 1e6;
                    writeln!(out, "{NAME}_bucket{{route=\"{route}\",le=\"{bound}\"}} {total}")?;
                }
                None => writeln!(out, "{NAME}_bucket{{route=\"{route}\",le=\"+Inf\"}} {total}")?,
            }
        }
        let sum = load(&self.sum_us) as f64 / 1e6;
        writeln!(out, "{NAME}_sum{{route=\"{route}\"}} {sum}\n{NAME}_count{{route=\"{route}\"}} {total}")
    }
}

/// The data plane's own.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Requests without a route, and those that are refused.
    pub(crate) unrouted: RouteCounters,
    pub(crate) open_connections: AtomicUsize,
    pub(crate) connections: AtomicU64,
    pub(crate) refused_connections: AtomicU64,
    pub(crate) failed_handshakes: AtomicU64,
    /// Connections ended for what their client did: slow heads, streams that are reset.
    pub(crate) abuses: AtomicU64,
    pub(crate) upstream_failures: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) ejections: AtomicU64,
    pub(crate) configurations: AtomicU64,
    pub(crate) unlogged: AtomicU64,
}

impl Counters {
    pub(crate) fn write(&self, routes: &[Arc<RouteCounters>], out: &mut String) {
        // Writing to a string does not fail.
        let _ = self.try_write(routes, out);
    }

    fn try_write(&self, routes: &[Arc<RouteCounters>], out: &mut String) -> fmt::Result {
        let name = "skep_gateway_requests_total";
        writeln!(out, "# HELP {name} Responses by route and class of their code\n# TYPE {name} counter")?;
        routes.iter().try_for_each(|route| route.write_responses(out))?;
        self.unrouted.write_responses(out)?;
        let name = "skep_gateway_request_duration_seconds";
        writeln!(
            out,
            "# HELP {name} Time from a request to the end of its response\n# TYPE {name} histogram"
        )?;
        routes.iter().try_for_each(|route| route.write_latency(out))?;
        let name = "skep_gateway_open_connections";
        let open = self.open_connections.load(Ordering::Relaxed);
        writeln!(out, "# HELP {name} Connections of clients\n# TYPE {name} gauge\n{name} {open}")?;
        for (name, help, counter) in [
            ("connections_total", "Connections that clients opened", &self.connections),
            ("refused_connections_total", "Connections over a limit", &self.refused_connections),
            ("failed_handshakes_total", "TLS handshakes that failed", &self.failed_handshakes),
            ("abuses_total", "Connections ended for slow heads or for streams that were reset", &self.abuses),
            ("upstream_failures_total", "Requests that an endpoint did not answer", &self.upstream_failures),
            ("retries_total", "Requests that were sent once more", &self.retries),
            ("ejections_total", "Endpoints that got no requests for a time", &self.ejections),
            ("configurations_total", "Configurations that were applied", &self.configurations),
            ("unlogged_requests_total", "Lines that the access log could not take", &self.unlogged),
        ] {
            let name = format!("skep_gateway_{name}");
            writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {}", load(counter))?;
        }
        Ok(())
    }
}

pub(crate) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_counted_by_class_and_by_time() {
        let route = Arc::new(RouteCounters::new("ingress/ns/web"));
        route.answered(204, Duration::from_millis(3));
        route.answered(200, Duration::from_secs(60));
        route.answered(503, Duration::ZERO);
        let mut out = String::new();
        Counters::default().write(&[route], &mut out);
        for line in [
            "skep_gateway_requests_total{route=\"ingress/ns/web\",code=\"2xx\"} 2",
            "skep_gateway_requests_total{route=\"ingress/ns/web\",code=\"5xx\"} 1",
            "skep_gateway_request_duration_seconds_bucket{route=\"ingress/ns/web\",le=\"0.005\"} 2",
            "skep_gateway_request_duration_seconds_bucket{route=\"ingress/ns/web\",le=\"+Inf\"} 3",
            "skep_gateway_request_duration_seconds_count{route=\"ingress/ns/web\"} 3",
            "skep_gateway_retries_total 0",
        ] {
            assert!(out.lines().any(|found| found == line), "{line} in {out}");
        }
    }
}
