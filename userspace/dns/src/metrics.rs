//! Counters of a node's DNS, in Prometheus' text format.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

/// Upper bounds of the latency histogram, in microseconds.
const BOUNDS_US: [u64; 12] =
    [25, 50, 100, 200, 300, 500, 1_000, 5_000, 20_000, 100_000, 1_000_000, 5_000_000];
/// Types that are counted by name; others are `other`.
const TYPES: [RecordType; 9] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::SRV,
    RecordType::PTR,
    RecordType::TXT,
    RecordType::CNAME,
    RecordType::NS,
    RecordType::SOA,
    RecordType::HTTPS,
];
/// Response codes that are counted by name; others are `other`.
const CODES: [(ResponseCode, &str); 5] = [
    (ResponseCode::NoError, "NOERROR"),
    (ResponseCode::NXDomain, "NXDOMAIN"),
    (ResponseCode::ServFail, "SERVFAIL"),
    (ResponseCode::FormErr, "FORMERR"),
    (ResponseCode::Refused, "REFUSED"),
];

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// By type, then by code.
    responses: [[AtomicU64; CODES.len() + 1]; TYPES.len() + 1],
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
    ignored: AtomicU64,
    cache_hits: AtomicU64,
    cache_misses: AtomicU64,
    upstream_failures: AtomicU64,
    overloads: AtomicU64,
    drops: AtomicU64,
}

impl Metrics {
    pub(crate) fn answered(&self, kind: RecordType, code: ResponseCode, took: Duration) {
        let kind = TYPES.iter().position(|known| *known == kind).unwrap_or(TYPES.len());
        let code = CODES.iter().position(|(known, _)| *known == code).unwrap_or(CODES.len());
        add(&self.responses[kind][code]);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.iter().position(|bound| took <= *bound).unwrap_or(BOUNDS_US.len());
        add(&self.buckets[bucket]);
        self.sum_us.fetch_add(took, Ordering::Relaxed);
    }

    pub(crate) fn ignored(&self) {
        add(&self.ignored);
    }

    pub(crate) fn cache_hit(&self) {
        add(&self.cache_hits);
    }

    pub(crate) fn cache_miss(&self) {
        add(&self.cache_misses);
    }

    pub(crate) fn upstream_failed(&self) {
        add(&self.upstream_failures);
    }

    pub(crate) fn overloaded(&self) {
        add(&self.overloads);
    }

    pub(crate) fn dropped(&self) {
        add(&self.drops);
    }

    /// `cache`: bytes and answers.
    pub(crate) fn write(&self, cache: (usize, usize), out: &mut String) {
        // Writing to a string does not fail.
        let _ = self.try_write(cache, out);
    }

    fn try_write(&self, cache: (usize, usize), out: &mut String) -> std::fmt::Result {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let name = "skep_dns_responses_total";
        writeln!(
            out,
            "# HELP {name} Answers by type of the question and response code\n# TYPE {name} counter"
        )?;
        for (kind, row) in self.responses.iter().enumerate() {
            let kind = TYPES.get(kind).map_or("other".to_owned(), ToString::to_string);
            for (code, counter) in row.iter().enumerate().filter(|(_, counter)| load(counter) > 0) {
                let code = CODES.get(code).map_or("other", |(_, name)| name);
                writeln!(out, "{name}{{type=\"{kind}\",rcode=\"{code}\"}} {}", load(counter))?;
            }
        }
        let name = "skep_dns_response_duration_seconds";
        writeln!(out, "# HELP {name} Time from a question to its answer\n# TYPE {name} histogram")?;
        let mut total = 0;
        for (bucket, counter) in self.buckets.iter().enumerate() {
            total += load(counter);
            match BOUNDS_US.get(bucket) {
                Some(bound) => writeln!(out, "{name}_bucket{{le=\"{}\"}} {total}", seconds(*bound))?,
                None => writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {total}")?,
            }
        }
        writeln!(out, "{name}_sum {}\n{name}_count {total}", seconds(load(&self.sum_us)))?;
        let counters = [
            ("skep_dns_ignored_packets_total", "Packets that are no questions", &self.ignored),
            (
                "skep_dns_cache_hits_total",
                "Questions about other zones that the cache answered",
                &self.cache_hits,
            ),
            (
                "skep_dns_cache_misses_total",
                "Questions about other zones that it did not",
                &self.cache_misses,
            ),
            (
                "skep_dns_upstream_failures_total",
                "Questions that an upstream did not answer",
                &self.upstream_failures,
            ),
            ("skep_dns_overloads_total", "Questions not asked: too many were open", &self.overloads),
            ("skep_dns_dropped_packets_total", "Packets of clients that had too many waiting", &self.drops),
        ];
        for (name, help, counter) in counters {
            writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {}", load(counter))?;
        }
        let gauges = [
            ("skep_dns_cache_bytes", "Bytes of cached answers", cache.0),
            ("skep_dns_cache_answers", "Cached answers", cache.1),
        ];
        for (name, help, value) in gauges {
            writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}")?;
        }
        Ok(())
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}
