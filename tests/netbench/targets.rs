//! The goals, and the ratios that are compared with them.

use xtask::bench::report::{Goal, Row, median};

use crate::samples::{Samples, row};
use crate::world::Subject;

/// Figures that are compared as they are.
const GOALS: [(&str, &str, Option<u32>, Goal); 13] = [
    ("prog_ns", "tc_pod_egress", None, Goal::AtMost(80.0)),
    ("prog_ns", "tc_pod_ingress", None, Goal::AtMost(80.0)),
    ("prog_ns", "tc_node_ingress", None, Goal::AtMost(80.0)),
    ("prog_ns", "tc_node_egress", None, Goal::AtMost(80.0)),
    ("prog_ns", "xdp_node", None, Goal::AtMost(80.0)),
    ("prog_ns", "xdp_node_v6", None, Goal::AtMost(110.0)),
    ("new_flow_ns", "tc_pod_egress", None, Goal::AtMost(350.0)),
    ("policy_networks", "skep", None, Goal::AtMost(100.0)),
    ("policy_networks_memory", "skep", None, Goal::AtMost(5.0)),
    ("program_all", "skep", Some(10_000), Goal::AtMost(300.0)),
    ("program_all", "skep", Some(100_000), Goal::AtMost(3_000.0)),
    ("endpoint_change_p99", "skep", Some(10_000), Goal::AtMost(5.0)),
    ("agent_rss", "skep", Some(10_000), Goal::AtMost(60.0)),
];

/// A measure of one subject over that of another, in the same round.
struct Ratio {
    name: &'static str,
    measure: &'static str,
    of: Subject,
    over: Subject,
    least: f64,
}

const fn skep(services: u32, policy: Option<bool>) -> Subject {
    Subject { name: "skep", services: Some(services), policy }
}

const fn plain(name: &'static str) -> Subject {
    Subject { name, services: None, policy: None }
}

/// The number of services at which the ratios are looked at.
const USUAL_SERVICES: u32 = 10_000;
const SKEP_USUAL: Subject = skep(USUAL_SERVICES, Some(true));
const SKEP_MOST_SERVICES: Subject = skep(100_000, Some(true));
const SKEP_ONE_SERVICE: Subject = skep(1, Some(true));
const NFTABLES: Subject = Subject { name: "nftables", services: Some(USUAL_SERVICES), policy: None };

const RATIOS: [Ratio; 11] = [
    Ratio { name: "crr/routed", measure: "crr", of: SKEP_USUAL, over: plain("routed"), least: 1.08 },
    Ratio { name: "crr/loopback", measure: "crr", of: SKEP_USUAL, over: plain("loopback"), least: 0.93 },
    Ratio { name: "rr/routed", measure: "rr", of: SKEP_USUAL, over: plain("routed"), least: 1.10 },
    Ratio { name: "rr/loopback", measure: "rr", of: SKEP_USUAL, over: plain("loopback"), least: 0.95 },
    Ratio {
        name: "rr, spliced/loopback",
        measure: "rr",
        of: plain("spliced"),
        over: plain("loopback"),
        least: 1.6,
    },
    Ratio {
        name: "crr/1 service",
        measure: "crr",
        of: SKEP_MOST_SERVICES,
        over: SKEP_ONE_SERVICE,
        least: 0.98,
    },
    Ratio {
        name: "rr/1 service",
        measure: "rr",
        of: SKEP_MOST_SERVICES,
        over: SKEP_ONE_SERVICE,
        least: 0.98,
    },
    Ratio {
        name: "rr, tcp_route/pod",
        measure: "rr",
        of: plain("tcp_route"),
        over: plain("pod"),
        least: 0.95,
    },
    Ratio {
        name: "crr, tcp_route/pod",
        measure: "crr",
        of: plain("tcp_route"),
        over: plain("pod"),
        least: 0.95,
    },
    Ratio {
        name: "iperf_tcp/routed",
        measure: "iperf_tcp",
        of: SKEP_USUAL,
        over: plain("routed"),
        least: 1.15,
    },
    Ratio {
        name: "nodeport_pps/nftables",
        measure: "nodeport_pps",
        of: skep(USUAL_SERVICES, None),
        over: NFTABLES,
        least: 6.0,
    },
];

/// All rows: figures, then ratios, with their goals.
pub(crate) fn rows(samples: &Samples) -> Vec<Row> {
    let mut rows: Vec<Row> = samples.rows().into_iter().map(with_goal).collect();
    rows.extend(RATIOS.iter().filter_map(|ratio| {
        let (of, over) = (samples.of(ratio.measure, &ratio.of)?, samples.of(ratio.measure, &ratio.over)?);
        let values: Vec<f64> = of.iter().zip(over).map(|(of, over)| of / over).collect();
        Some(row((ratio.name, "x"), &ratio.of, &values)?.with_goal(Goal::AtLeast(ratio.least)))
    }));
    rows
}

fn with_goal(row: Row) -> Row {
    let goal = GOALS.iter().find(|(measure, subject, services, _)| {
        let asked = row.conditions.get("services").and_then(|value| value.as_u64());
        *measure == row.measure && *subject == row.subject && services.map(u64::from) == asked
    });
    match goal {
        Some((.., goal)) => row.with_goal(*goal),
        None => row,
    }
}

/// The answer in one sentence: a pod that calls a ClusterIP, with policy and 10,000 services.
pub(crate) fn headline(rows: &[Row]) -> String {
    format!(
        "Pod to ClusterIP, 10,000 services, policy on: {} of loopback's requests, {} of its connections; \
         node port: {} times nftables.",
        median(rows, "rr/loopback"),
        median(rows, "crr/loopback"),
        median(rows, "nodeport_pps/nftables")
    )
}
