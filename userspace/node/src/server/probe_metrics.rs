//! /metrics/probes: the results and durations of probes, under the kubelet's names.

use http::Response;

use super::answer::{Body, exposition};
use super::exposition::{Exposition, number};
use crate::probe_counts::{BUCKETS, CountedProbe, ProbeCount, ProbeCounts};

const RESULTS: &str = "prober_probe_total";
const RESULTS_HELP: &str =
    "Cumulative number of a liveness, readiness or startup probe for a container by result.";
const DURATIONS: &str = "prober_probe_duration_seconds";
const DURATIONS_HELP: &str = "Duration in seconds for a probe response.";

pub(super) fn serve(counts: &ProbeCounts) -> Response<Body> {
    exposition(write(&counts.all()))
}

/// PURE. The metrics in Prometheus' text format.
fn write(all: &[(CountedProbe, ProbeCount)]) -> String {
    let mut out = Exposition::default();
    out.family(DURATIONS, "histogram", DURATIONS_HELP);
    for (key, count) in all.iter().filter(|(_, count)| count.passed > 0) {
        let CountedProbe { namespace, pod, uid: _, container, kind } = key;
        let base = [
            ("container", container.as_str()),
            ("namespace", namespace),
            ("pod", pod),
            ("probe_type", kind.name()),
        ];
        let sample = |name: &str, bound: &str, value: f64, out: &mut Exposition| {
            let [a, b, c, d] = base;
            out.sample(&format!("{DURATIONS}{name}"), &[a, b, c, d, ("le", bound)], value, None);
        };
        for (bound, value) in BUCKETS.iter().zip(count.buckets) {
            sample("_bucket", &bound.to_string(), number(value), &mut out);
        }
        sample("_bucket", "+Inf", number(count.passed), &mut out);
        out.sample(&format!("{DURATIONS}_sum"), &base, count.total.as_secs_f64(), None);
        out.sample(&format!("{DURATIONS}_count"), &base, number(count.passed), None);
    }
    out.family(RESULTS, "counter", RESULTS_HELP);
    for (key, count) in all {
        let CountedProbe { namespace, pod, uid, container, kind } = key;
        for (result, value) in [("failed", count.failed), ("successful", count.passed)] {
            if value > 0 {
                let labels = [
                    ("container", container.as_str()),
                    ("namespace", namespace),
                    ("pod", pod),
                    ("pod_uid", uid),
                    ("probe_type", kind.name()),
                    ("result", result),
                ];
                out.sample(RESULTS, &labels, number(value), None);
            }
        }
    }
    out.finish()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plan::ProbeKind;

    #[test]
    fn a_probe_has_its_results_and_the_durations_of_those_that_passed() {
        let counts = ProbeCounts::default();
        let key = CountedProbe {
            namespace: "ns".to_owned(),
            pod: "web".to_owned(),
            uid: "u".to_owned(),
            container: "main".to_owned(),
            kind: ProbeKind::Readiness,
        };
        counts.record(key.clone(), false, Duration::from_secs(1));
        let text = write(&counts.all());
        let labels = r#"container="main",namespace="ns",pod="web""#;
        let of_result = |result: &str| {
            format!(
                r#"prober_probe_total{{{labels},pod_uid="u",probe_type="Readiness",result="{result}"}} 1"#
            )
        };
        assert!(text.lines().any(|line| line == of_result("failed")), "{text}");
        assert!(!text.contains("_bucket{"), "{text}");
        counts.record(key, true, Duration::from_millis(250));
        let text = write(&counts.all());
        for line in [
            of_result("successful"),
            format!(r#"{DURATIONS}_bucket{{{labels},probe_type="Readiness",le="0.1"}} 0"#),
            format!(r#"{DURATIONS}_bucket{{{labels},probe_type="Readiness",le="0.25"}} 1"#),
            format!(r#"{DURATIONS}_bucket{{{labels},probe_type="Readiness",le="+Inf"}} 1"#),
            format!(r#"{DURATIONS}_sum{{{labels},probe_type="Readiness"}} 0.25"#),
            format!(r#"{DURATIONS}_count{{{labels},probe_type="Readiness"}} 1"#),
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
    }
}
