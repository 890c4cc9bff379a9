//! `cargo xtask bench api`: a release build of `skep server` over TLS, under load from 32 connections.
//!
//! Server and load share the machine's cores, as they did for the recorded figures of the peer.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
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
    /// The store to measure; both without
    #[arg(long, value_enum)]
    store: Option<Store>,
    /// Seconds of each load of reads and watches
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    seconds: u16,
}

/// What is measured, its unit, and its goal with the embedded store.
const MEASURES: [(&str, &str, Goal); 8] = [
    ("idle_watch", "KB", Goal::AtMost(8.0)),
    ("create", "1/s", Goal::AtLeast(8_000.0)),
    ("create_p99", "ms", Goal::AtMost(20.0)),
    ("get", "1/s", Goal::AtLeast(30_000.0)),
    ("list_5000_pods", "1/s", Goal::AtLeast(60.0)),
    ("watch_p99", "ms", Goal::AtMost(100.0)),
    ("rss", "MB", Goal::AtMost(250.0)),
    ("cold_start", "s", Goal::AtMost(1.0)),
];

/// The peer, measured on 2026-11-23 on a machine of the same kind with the same number of connections; it is not run by
/// this bench.
const PEER_NAME: &str = "kube-apiserver v1.36, etcd 3.4 (recorded)";
const PEER: [(&str, &str, f64); 4] = [
    ("create", "1/s", 2_250.0),
    ("get", "1/s", 4_500.0),
    ("list_5000_pods", "1/s", 5.9),
    ("rss", "MB", 1_091.0),
];

const WATCHERS: u32 = 1_000;

/// Time for the controllers to settle after a start.
const SETTLE: Duration = Duration::from_secs(4);

pub fn run(arguments: Arguments) -> Result<()> {
    let Arguments { rounds, store, seconds } = arguments;
    let stores = store.map_or_else(|| vec![Store::Embedded, Store::Etcd], |store| vec![store]);
    let mut needs = vec![Need::Build];
    if stores.contains(&Store::Etcd) {
        needs.push(Need::Etcd);
    }
    deps::ensure(&needs)?;
    let step = Step::new("release build");
    let programs = Programs::build(&[])?;
    step.done("built");
    let mut rows = Vec::new();
    let folder = crate::workspace().join("target/bench");
    for store in stores {
        let subject = format!("{store:?}").to_lowercase();
        let mut samples: [Vec<f64>; MEASURES.len()] = Default::default();
        for round in 1..=rounds {
            let step = Step::new(format!("{subject}, round {round} of {rounds}"));
            let measured = measure(&programs, store, &folder.join("api"), seconds, &step)
                .with_context(|| format!("measure {subject}"))?;
            step.done("measured");
            samples.iter_mut().zip(measured).for_each(|(all, one)| all.push(one));
        }
        for ((measure, unit, goal), samples) in MEASURES.into_iter().zip(&samples) {
            let row = Row::new(measure, &subject, unit, samples);
            rows.extend(row.map(|row| if store == Store::Embedded { row.with_goal(goal) } else { row }));
        }
    }
    rows.extend(
        PEER.iter().filter_map(|(measure, unit, value)| Row::new(measure, PEER_NAME, unit, &[*value])),
    );
    let headline = format!(
        "{} creates and {} gets a second over TLS with fsync; a change reaches 1,000 watchers within {} ms (p99).",
        median(&rows, "create"),
        median(&rows, "get"),
        median(&rows, "watch_p99")
    );
    Report { name: "api", headline, rows: &rows }.publish(&folder)
}

/// One round: values in the order of [`MEASURES`].
fn measure(
    programs: &Programs,
    store: Store,
    folder: &Path,
    seconds: u16,
    step: &Step,
) -> Result<[f64; MEASURES.len()]> {
    let mut server = Server::start(programs, store, folder, &[])?;
    let load = |server: &Server, command: &str, words: &[&str]| -> Result<Value> {
        step.say(command);
        server.load(command, words)
    };
    let seconds = format!("seconds={seconds}");
    load(&server, "ready", &[])?;
    load(&server, "create", &["count=100"])?;
    let without = server.resident()?;
    load(&server, "watch", &["seconds=2", &format!("watchers={WATCHERS}"), "rate=1"])?;
    let idle = server.resident()?.saturating_sub(without);
    let created = load(&server, "create", &["count=20000"])?;
    load(&server, "pods", &["count=5000"])?;
    let got = load(&server, "get", &[&seconds, "count=20000"])?;
    let listed = load(&server, "list", &[&seconds])?;
    let watched = load(&server, "watch", &[&seconds, &format!("watchers={WATCHERS}"), "rate=200"])?;
    let resident = server.resident()?;
    step.say("cold start");
    server.stop()?;
    let start = Instant::now();
    server.restart()?;
    load(&server, "ready", &[])?;
    let cold = start.elapsed();
    // The controllers read everything again after a start: the larger figure counts.
    step.say("settling");
    std::thread::sleep(SETTLE);
    let resident = resident.max(server.resident()?);
    Ok([
        idle as f64 * 1024.0 / 1e3 / f64::from(WATCHERS),
        number(&created, "rate")?,
        number(&created, "p99")?,
        number(&got, "rate")?,
        number(&listed, "rate")?,
        number(&watched, "p99")?,
        resident as f64 * 1024.0 / 1e6,
        cold.as_secs_f64(),
    ])
}

fn number(measured: &Value, name: &str) -> Result<f64> {
    measured[name].as_f64().with_context(|| format!("no {name} in {measured}"))
}
