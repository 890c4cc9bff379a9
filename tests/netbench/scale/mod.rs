//! `cargo xtask bench scale`: one node of a cluster of 5,000, and how long it takes to follow what changes there.
//!
//! The node's agent runs in processes of its own over a real kernel, in namespaces whose names begin with `nc-`. Only its watches are not real: the objects come from
//! [`view::View`], one by one. Out: rows in `net.json`, beside those of `bench net`, and `scale.svg`.

mod agent;
mod flows;
mod objects;
mod rows;
mod view;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use skep_tests::netns::NetNs;
use xtask::bench::report::Report;
use xtask::progress::Step;

use crate::placement::own;
use crate::skep::Machine;
use crate::world::{UPLINK, pod};
pub(crate) use agent::{Arguments as AgentArguments, run as run_agent};
use view::{OTHER_NODES, Size};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only see that everything can be measured: a small cluster, one round
    #[arg(long)]
    quick: bool,
    /// How often everything is measured
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Where the report goes
    #[arg(long)]
    folder: PathBuf,
}

/// What one process measured, by measure.
type Figures = BTreeMap<String, Vec<f64>>;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { quick, rounds, folder } = arguments;
    let rounds = rounds.unwrap_or(if *quick { 1 } else { 3 });
    let mut all = Vec::new();
    for round in 1..=rounds {
        let step = Step::new(format!("round {round} of {rounds}"));
        all.push(measure(*quick, &step)?);
        step.done("measured");
    }
    let size = Size::new(*quick);
    let rows = rows::rows(&all, &size);
    Report { name: "scale", headline: rows::headline(&rows), rows: &rows }.publish_into(folder, "net")
}

/// One round: an agent that starts and follows changes, then one that adopts what it left.
fn measure(quick: bool, step: &Step) -> Result<Figures> {
    step.say("namespaces");
    let machine = Machine::bare("nc")?;
    // The other nodes are on the link, so the agent has a route to the pods of each.
    machine.node.ip(&["addr", "add", &format!("{OTHER_NODES}/16"), "dev", UPLINK])?;
    let names = (0..Size::new(quick).local_pods).map(|number| format!("nc-p{number}"));
    let pods: Vec<NetNs> = names.map(|name| pod(&name)).collect::<Result<_>>()?;
    let state = tempfile::tempdir()?;
    let mut figures = Figures::new();
    for phase in ["follow", "restart"] {
        step.say(phase);
        let mut command = machine.node.command(own()?);
        command.args(["scale-agent", "--phase", phase]).arg("--pins").arg(machine.pins()?);
        command.arg("--cgroup").arg(machine.cgroup.path()).arg("--state").arg(state.path());
        command.args(quick.then_some("--quick"));
        command.args(pods.iter().map(NetNs::path));
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            bail!("the agent of phase {phase} failed: {}", output.status);
        }
        let more: Figures = serde_json::from_slice(&output.stdout).context("figures of the agent")?;
        figures.extend(more);
    }
    Ok(figures)
}
