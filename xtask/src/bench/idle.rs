//! `cargo xtask bench idle`: what a release build of server and agents costs while nothing happens: three nodes, the
//! example application, no requests.

use std::time::Duration;

use anyhow::{Context, Result};

use super::report::{Goal, Report, Row, median};
use crate::binaries::{self, Profile};
use crate::cluster::layout::Layout;
use crate::cluster::process::usage;
use crate::cluster::{Cluster, Options, tear_down};
use crate::deps::{self, Need};
use crate::progress::Step;
use crate::{build_ebpf, example};

#[derive(clap::Args)]
pub struct Arguments {
    /// How often it is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..))]
    seconds: u16,
}

/// Goals: resident memory in MB, processor time in per cent of a core.
const SERVER: (f64, f64) = (100.0, 1.0);
const AGENT: (f64, f64) = (60.0, 0.5);
/// Time for informers, leases and probes to settle.
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

pub fn run(arguments: Arguments) -> Result<()> {
    let Arguments { rounds, seconds } = arguments;
    deps::require_root("bench idle")?;
    deps::ensure(&[Need::Build, Need::Run])?;
    let layout = Layout::named("skepidle", &crate::workspace().join("target/skep-idle"), 91);
    tear_down(&layout)?;
    let _down = Down(layout.clone());
    let kubectl = deps::kubectl(&layout.state.join("tools"))?;
    let step = Step::new("release build");
    build_ebpf::run()?;
    let cluster = Cluster::new(layout, binaries::build(Profile::Release)?, kubectl);
    step.done("built");
    let options = Options::default();
    cluster.start_server(&options)?;
    for index in 1..=options.nodes {
        cluster.start_node(index)?;
    }
    cluster.wait_for_nodes(options.nodes, |_| ())?;
    example::deploy(&cluster.kubectl)?;
    std::thread::sleep(SETTLE);
    let rows = measure(&cluster, options.nodes, rounds, Duration::from_secs(seconds.into()))?;
    let headline = format!(
        "Idle, three nodes: the server takes {} MB and {} % of a core.",
        median(&rows, "rss"),
        median(&rows, "cpu")
    );
    Report { name: "idle", headline, rows: &rows }.publish(&crate::workspace().join("target/bench"))
}

fn measure(cluster: &Cluster, nodes: u8, rounds: u8, period: Duration) -> Result<Vec<Row>> {
    let mut processes = vec![("server".to_owned(), cluster.server_pid(), SERVER)];
    processes.extend((1..=nodes).map(|index| (format!("agent {index}"), cluster.agent_pid(index), AGENT)));
    let mut samples: Vec<(Vec<f64>, Vec<f64>)> = vec![Default::default(); processes.len()];
    for round in 1..=rounds {
        let step = Step::new(format!("round {round} of {rounds}"));
        let look = || processes.iter().map(|(_, pid, _)| pid.and_then(usage)).collect::<Option<Vec<_>>>();
        let before = look().context("a process has ended")?;
        std::thread::sleep(period);
        let after = look().context("a process has ended")?;
        for ((memory, time), ((_, from), (resident, to))) in
            samples.iter_mut().zip(before.into_iter().zip(after))
        {
            memory.push(resident as f64 * 1024.0 / 1e6);
            time.push((to - from) / period.as_secs_f64() * 100.0);
        }
        step.done("measured");
    }
    let rows =
        processes.iter().zip(&samples).flat_map(|((name, _, (most_memory, most_time)), (memory, time))| {
            let memory =
                Row::new("rss", name, "MB", memory).map(|row| row.with_goal(Goal::AtMost(*most_memory)));
            let time =
                Row::new("cpu", name, "% of a core", time).map(|row| row.with_goal(Goal::AtMost(*most_time)));
            [memory, time]
        });
    Ok(rows.flatten().collect())
}
