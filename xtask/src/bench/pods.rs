//! `cargo xtask bench pods`: how a node starts, runs and ends pods: one node with containerd, a release build of server and agent.
//!
//! `ready` and `gone` are measured one pod at a time, from the request to the watch event; `together` is from the first create of 60
//! pods until the last is Ready; the agent's cost is that of the same pods while nothing happens.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::report::{Goal, Report, Row, median};
use super::server::{Programs, load};
use crate::cluster::layout::Layout;
use crate::cluster::process::usage;
use crate::cluster::{Cluster, Options, tear_down};
use crate::deps::{self, Need};
use crate::progress::Step;
use crate::{binaries, image};

#[derive(clap::Args)]
pub struct Arguments {
    /// How often everything is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Pods of a round that are measured one at a time
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..))]
    pods: u16,
    /// Seconds for which the idle agent is observed
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..))]
    seconds: u16,
}

/// What is measured, its unit, and its goal.
const MEASURES: [(&str, &str, f64); 6] = [
    ("ready_p50", "ms", 700.0),
    ("ready_p99", "ms", 1_500.0),
    ("gone_p99", "ms", 1_000.0),
    ("together", "s", 25.0),
    ("agent_cpu", "% of a core", 0.5),
    ("agent_rss", "MB", 60.0),
];
const TOGETHER: &str = "count=60";
/// Time for probes and status updates to settle.
const SETTLE: Duration = Duration::from_secs(10);

/// Removes the cluster, however the bench ends.
struct Down(Layout);

impl Drop for Down {
    fn drop(&mut self) {
        if let Err(error) = tear_down(&self.0) {
            eprintln!("{error:#}");
        }
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    deps::require_root("bench pods")?;
    deps::ensure(&[Need::Build, Need::Run])?;
    let step = Step::new("release build");
    let programs = Programs::build(&[])?;
    let binaries = binaries::build(binaries::Profile::Release)?;
    step.done("built");
    let mut samples: [Vec<f64>; MEASURES.len()] = Default::default();
    for round in 1..=arguments.rounds {
        let layout = Layout::named("skeppods", &crate::workspace().join("target/skep-pods"), 93);
        tear_down(&layout)?;
        let _down = Down(layout.clone());
        let kubectl = deps::kubectl(&layout.state.join("tools"))?;
        let cluster = Cluster::new(layout.clone(), binaries.clone(), kubectl);
        let step = Step::new(format!("round {round} of {}", arguments.rounds));
        let measured = measure(&programs, &cluster, &layout, arguments)?;
        step.done("measured");
        samples.iter_mut().zip(measured).for_each(|(all, one)| all.push(one));
    }
    let row = |((measure, unit, goal), samples): ((_, _, f64), &Vec<f64>)| {
        Some(Row::new(measure, "skep", unit, samples)?.with_goal(Goal::AtMost(goal)))
    };
    let rows: Vec<Row> = MEASURES.into_iter().zip(&samples).filter_map(row).collect();
    let headline = format!(
        "A pod is Ready {} ms after its create; 60 pods on one node {} s.",
        median(&rows, "ready_p50"),
        median(&rows, "together")
    );
    Report { name: "pods", headline, rows: &rows }.publish(&crate::workspace().join("target/bench"))
}

/// One round on a new cluster: values in the order of [`MEASURES`].
fn measure(
    programs: &Programs,
    cluster: &Cluster,
    layout: &Layout,
    arguments: &Arguments,
) -> Result<[f64; MEASURES.len()]> {
    cluster.start_server(&Options { nodes: 1, ..Options::default() })?;
    cluster.start_node(1)?;
    cluster.wait_for_nodes(1, |_| ())?;
    let template = layout.state.join("pod.json");
    fs::write(&template, pod().to_string()).with_context(|| format!("write {}", template.display()))?;
    let (address, pki) = (format!("{}:6443", layout.server_addr()), layout.state.join("server/pki"));
    let template = format!("template={}", template.display());
    let run = |command: &str, count: &str| load(&programs.load, &address, &pki, command, &[count, &template]);
    // The first pod's image is unpacked.
    run("run", "count=1")?;
    let single = run("run", &format!("count={}", arguments.pods))?;
    let together = run("run-together", TOGETHER)?;
    std::thread::sleep(SETTLE);
    let agent = || cluster.agent_pid(1).and_then(usage).context("the agent has ended");
    let (_, before) = agent()?;
    let period = Duration::from_secs(arguments.seconds.into());
    std::thread::sleep(period);
    let (resident, after) = agent()?;
    let number = |value: &Value| value.as_f64().context("the load printed no such figure");
    Ok([
        number(&single["ready"]["p50"])?,
        number(&single["ready"]["p99"])?,
        number(&single["gone"]["p99"])?,
        number(&together["seconds"])?,
        (after - before) / period.as_secs_f64() * 100.0,
        resident as f64 * 1024.0 / 1e6,
    ])
}

/// A pod that does nothing.
fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "@NAME"},
        "spec": {"containers": [{
            "name": "main", "image": image::EXAMPLE, "imagePullPolicy": "IfNotPresent",
            "command": ["sleep", "86400"], "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
        }]},
    })
}
