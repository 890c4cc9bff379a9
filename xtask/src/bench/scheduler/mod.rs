//! `cargo xtask bench scheduler`: pods that wait behind a scheduling gate and are let go at once, on 1,000 and 5,000 nodes.
//!
//! `own` is the scheduler's own work in one process, without a server. `api` goes through a release build of `skep server`: gates are
//! removed by patches, and the binding is counted when a watch shows it. `pod_cpu` is what the server spends on a pod without a
//! gate: create, schedule, bind, event.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::report::{Goal, Report, Row, median};
use super::server::{Programs, Server};
use crate::cluster::Store;
use crate::deps::{self, Need};
use crate::progress::Step;

#[derive(clap::Args)]
pub struct Arguments {
    /// How often everything is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// How many nodes; may be repeated
    #[arg(long, default_values_t = [1_000, 5_000])]
    nodes: Vec<u32>,
    /// Only the scheduler's own work
    #[arg(long)]
    own: bool,
}

/// A workload: the template of its pods, how many there are, and the bindings a second of the scheduler's own work that are wanted.
struct Case {
    name: &'static str,
    template: &'static str,
    pods: u32,
    goal: f64,
    /// Without kubelets, no victim of a preemption ever ends: only what needs none goes through the API.
    through_api: bool,
}

const CASES: [Case; 5] = [
    Case {
        name: "plain",
        template: include_str!("plain.json"),
        pods: PODS,
        goal: 5_000.0,
        through_api: true,
    },
    Case {
        name: "affinity",
        template: include_str!("affinity.json"),
        pods: PODS,
        goal: 2_000.0,
        through_api: true,
    },
    Case {
        name: "anti-affinity",
        template: include_str!("anti-affinity.json"),
        pods: PODS,
        goal: 1_000.0,
        through_api: true,
    },
    Case {
        name: "spread",
        template: include_str!("spread.json"),
        pods: PODS,
        goal: 2_000.0,
        through_api: true,
    },
    Case {
        name: "preemption",
        template: include_str!("preemption.json"),
        pods: 1_000,
        goal: 500.0,
        through_api: false,
    },
];

const PODS: u32 = 30_000;
/// The measurement of the server's cost.
const WHOLE_PATH_PODS: u32 = 15_000;
const WHOLE_PATH_NODES: u32 = 1_000;
/// Goals: milliseconds of processor time a pod, megabytes.
const POD_CPU: f64 = 0.5;
const MEMORY: f64 = 150.0;
/// No kubelet sends heartbeats.
const SERVER: [&str; 2] = ["--node-monitor-grace-period", "24h"];

pub fn run(arguments: &Arguments) -> Result<()> {
    deps::ensure(&[Need::Build])?;
    let step = Step::new("release build");
    let programs = Programs::build(&["--package=skep-control", "--example=decisions"])?;
    step.done("built");
    let folder = crate::workspace().join("target/bench");
    let work = folder.join("scheduler");
    fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    let mut rows = Vec::new();
    for nodes in &arguments.nodes {
        for case in &CASES {
            rows.extend(measure(&programs, case, *nodes, arguments, &work)?);
        }
    }
    if !arguments.own {
        rows.extend(whole_path(&programs, arguments.rounds, &work)?);
    }
    let headline =
        format!("The scheduler decides {} plain pods a second with 1,000 nodes.", median(&rows, "own"));
    Report { name: "scheduler", headline, rows: &rows }.publish(&folder)
}

fn measure(
    programs: &Programs,
    case: &Case,
    nodes: u32,
    arguments: &Arguments,
    work: &Path,
) -> Result<Vec<Row>> {
    let template = template(case, work)?;
    let (mut own, mut api) = (Vec::new(), Vec::new());
    for round in 1..=arguments.rounds {
        let step = Step::new(format!("{}, {nodes} nodes, round {round} of {}", case.name, arguments.rounds));
        own.push(decisions(programs, nodes, case.pods, &template)?);
        if case.through_api && !arguments.own {
            api.push(through_api(programs, nodes, case.pods, &template, work)?);
        }
        step.done("measured");
    }
    let rows = [("own", &own, Some(Goal::AtLeast(case.goal))), ("api", &api, None)];
    let row = |(measure, samples, goal): (_, &Vec<f64>, Option<Goal>)| {
        let row = Row::new(measure, case.name, "1/s", samples)?.with("nodes", nodes);
        Some(with_goal(row, goal))
    };
    Ok(rows.into_iter().filter_map(row).collect())
}

fn template(case: &Case, work: &Path) -> Result<PathBuf> {
    let path = work.join(format!("{}.json", case.name));
    fs::write(&path, case.template).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// Decisions a second of the scheduler alone.
fn decisions(programs: &Programs, nodes: u32, pods: u32, template: &Path) -> Result<f64> {
    let mut command = Command::new(programs.examples.join("decisions"));
    command.args([nodes.to_string(), pods.to_string()]).arg(template);
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("decisions: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let measured: Value = serde_json::from_slice(&output.stdout).context("decisions printed no JSON")?;
    if measured["decisions"] != pods {
        bail!("not all of {pods} pods were decided: {measured}");
    }
    number(&measured, "rate")
}

/// Bindings a second from the first patch to the last binding.
fn through_api(programs: &Programs, nodes: u32, pods: u32, template: &Path, work: &Path) -> Result<f64> {
    let server = Server::start(programs, Store::Embedded, &work.join("server"), &SERVER)?;
    server.load("ready", &[])?;
    server.load("nodes", &[&format!("count={nodes}")])?;
    let (count, template) = (format!("count={pods}"), format!("template={}", template.display()));
    server.load("gated", &[&count, &template])?;
    number(&server.load("open", &[&count])?, "rate")
}

/// What the server spends on a pod, and its memory afterwards.
fn whole_path(programs: &Programs, rounds: u8, work: &Path) -> Result<Vec<Row>> {
    let template = format!("template={}", template(&CASES[0], work)?.display());
    let (mut cpu, mut memory, mut rate) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        let step = Step::new(format!("whole path, round {round} of {rounds}"));
        let server = Server::start(programs, Store::Embedded, &work.join("server"), &SERVER)?;
        server.load("ready", &[])?;
        server.load("nodes", &[&format!("count={WHOLE_PATH_NODES}")])?;
        let before = server.usage()?.1;
        let measured = server.load("schedule", &[&format!("count={WHOLE_PATH_PODS}"), &template])?;
        let (resident, after) = server.usage()?;
        cpu.push((after - before) * 1e3 / f64::from(WHOLE_PATH_PODS));
        memory.push(resident as f64 * 1024.0 / 1e6);
        rate.push(number(&measured, "rate")?);
        step.done("measured");
    }
    let rows = [
        ("pod_cpu", "ms", &cpu, Some(Goal::AtMost(POD_CPU))),
        ("rss", "MB", &memory, Some(Goal::AtMost(MEMORY))),
        ("create_and_bind", "1/s", &rate, None),
    ];
    let row = |(measure, unit, samples, goal): (_, _, &Vec<f64>, Option<Goal>)| {
        let row = Row::new(measure, "server", unit, samples)?.with("nodes", WHOLE_PATH_NODES);
        Some(with_goal(row, goal))
    };
    Ok(rows.into_iter().filter_map(row).collect())
}

fn with_goal(row: Row, goal: Option<Goal>) -> Row {
    match goal {
        Some(goal) => row.with_goal(goal),
        None => row,
    }
}

fn number(measured: &Value, name: &str) -> Result<f64> {
    measured[name].as_f64().with_context(|| format!("no {name} in {measured}"))
}
