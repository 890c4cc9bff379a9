//! The rows and their goals.

use xtask::bench::report::{Goal, Row, median};

use super::Figures;
use super::view::Size;

/// A figure, the part of its samples that is reported, its unit and its goal.
struct Measure {
    name: &'static str,
    figure: &'static str,
    part: f64,
    unit: &'static str,
    goal: Option<Goal>,
}

const fn measure(
    name: &'static str,
    figure: &'static str,
    part: f64,
    unit: &'static str,
    goal: f64,
) -> Measure {
    Measure { name, figure, part, unit, goal: Some(Goal::AtMost(goal)) }
}

const fn plain(name: &'static str, figure: &'static str, part: f64, unit: &'static str) -> Measure {
    Measure { name, figure, part, unit, goal: None }
}

const HALF: f64 = 0.5;
const MOST: f64 = 0.99;

const MEASURES: [Measure; 17] = [
    plain("scale_endpoint_change", "endpoint", HALF, "ms"),
    measure("scale_endpoint_change_p99", "endpoint", MOST, "ms", 5.0),
    plain("scale_cni_add", "cni_add", HALF, "ms"),
    measure("scale_cni_add_p99", "cni_add", MOST, "ms", 20.0),
    plain("scale_policy_elsewhere", "policy_elsewhere", HALF, "ms"),
    measure("scale_policy_elsewhere_p99", "policy_elsewhere", MOST, "ms", 1.0),
    plain("scale_policy_here", "policy_here", HALF, "ms"),
    measure("scale_policy_here_p99", "policy_here", MOST, "ms", 50.0),
    measure("scale_policy_networks", "networks", HALF, "ms", 100.0),
    measure("scale_policy_networks_memory", "networks_memory", HALF, "MB", 5.0),
    measure("scale_agent_rss", "resident", HALF, "MB", 150.0),
    measure("scale_map_memory", "map_memory", HALF, "MB", 100.0),
    plain("scale_first_sync", "first_sync", HALF, "ms"),
    plain("scale_restart_open", "restart_open", HALF, "ms"),
    plain("scale_restart_lists", "restart_lists", HALF, "ms"),
    measure("scale_restart", "restart", HALF, "ms", 1_000.0),
    measure("scale_restart_lost", "restart_lost", HALF, "packets", 0.0),
];

/// A sample for each round.
pub(super) fn rows(rounds: &[Figures], size: &Size) -> Vec<Row> {
    let rows = MEASURES.iter().filter_map(|measure| {
        let of_round = |figures: &Figures| {
            let mut samples = figures.get(measure.figure)?.clone();
            samples.sort_by(f64::total_cmp);
            samples.get(((samples.len().checked_sub(1)?) as f64 * measure.part).round() as usize).copied()
        };
        let values: Vec<f64> = rounds.iter().filter_map(of_round).collect();
        let row = Row::new(measure.name, "skep", measure.unit, &values)?.with("services", size.services);
        let row = row.with("pods", size.pods).with("policies", size.policies());
        Some(match measure.goal {
            Some(goal) => row.with_goal(goal),
            None => row,
        })
    });
    rows.collect()
}

/// The answer in one sentence.
pub(super) fn headline(rows: &[Row]) -> String {
    format!(
        "A node of a large cluster: an endpoint changes in {} ms, a pod is added in {} ms (99 of 100), the agent takes {} MB.",
        median(rows, "scale_endpoint_change_p99"),
        median(rows, "scale_cni_add_p99"),
        median(rows, "scale_agent_rss")
    )
}
