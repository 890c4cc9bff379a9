//! What is to be reached, and the ratios that say whether it is.

use xtask::bench::report::{Bar, Row};

use crate::samples::{Samples, row};
use crate::world::Subject;

/// Figures that are compared as they are.
const BARS: [(&str, &str, Option<u32>, Bar); 10] = [
    ("prog_ns", "tc_pod_egress", None, Bar::AtMost(80.0)),
    ("prog_ns", "tc_pod_ingress", None, Bar::AtMost(80.0)),
    ("prog_ns", "tc_node_ingress", None, Bar::AtMost(80.0)),
    ("prog_ns", "tc_node_egress", None, Bar::AtMost(80.0)),
    ("prog_ns", "xdp_node", None, Bar::AtMost(120.0)),
    ("prog_ns", "xdp_node_v6", None, Bar::AtMost(120.0)),
    ("program_all", "skep", Some(10_000), Bar::AtMost(300.0)),
    ("program_all", "skep", Some(100_000), Bar::AtMost(3_000.0)),
    ("endpoint_change_p99", "skep", Some(10_000), Bar::AtMost(5.0)),
    ("agent_rss", "skep", Some(10_000), Bar::AtMost(60.0)),
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
const USUAL: u32 = 10_000;
const GUARDED: Subject = skep(USUAL, Some(true));
const MOST: Subject = skep(100_000, Some(true));
const FEWEST: Subject = skep(1, Some(true));
const NFTABLES: Subject = Subject { name: "nftables", services: Some(USUAL), policy: None };

const RATIOS: [Ratio; 8] = [
    Ratio { name: "crr/routed", measure: "crr", of: GUARDED, over: plain("routed"), least: 1.08 },
    Ratio { name: "crr/loopback", measure: "crr", of: GUARDED, over: plain("loopback"), least: 0.93 },
    Ratio { name: "rr/routed", measure: "rr", of: GUARDED, over: plain("routed"), least: 1.10 },
    Ratio { name: "rr/loopback", measure: "rr", of: GUARDED, over: plain("loopback"), least: 0.95 },
    Ratio { name: "crr/1 service", measure: "crr", of: MOST, over: FEWEST, least: 0.98 },
    Ratio { name: "rr/1 service", measure: "rr", of: MOST, over: FEWEST, least: 0.98 },
    Ratio { name: "iperf_tcp/routed", measure: "iperf_tcp", of: GUARDED, over: plain("routed"), least: 1.0 },
    Ratio {
        name: "nodeport_pps/nftables",
        measure: "nodeport_pps",
        of: skep(USUAL, None),
        over: NFTABLES,
        least: 3.0,
    },
];

/// All rows: figures, then ratios; those that are to reach something say so.
pub(crate) fn rows(samples: &Samples) -> Vec<Row> {
    let mut rows: Vec<Row> = samples.rows().into_iter().map(with_bar).collect();
    rows.extend(RATIOS.iter().filter_map(|ratio| {
        let (of, over) = (samples.of(ratio.measure, &ratio.of)?, samples.of(ratio.measure, &ratio.over)?);
        let values: Vec<f64> = of.iter().zip(over).map(|(of, over)| of / over).collect();
        Some(row((ratio.name, "x"), &ratio.of, &values)?.to_reach(Bar::AtLeast(ratio.least)))
    }));
    rows
}

fn with_bar(row: Row) -> Row {
    let bar = BARS.iter().find(|(measure, subject, services, _)| {
        let asked = row.conditions.get("services").and_then(|value| value.as_u64());
        *measure == row.measure && *subject == row.subject && services.map(u64::from) == asked
    });
    match bar {
        Some((.., bar)) => row.to_reach(*bar),
        None => row,
    }
}
