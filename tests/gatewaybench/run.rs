//! One run: all gateways in front of the same endpoint, loaded in turns; then changes through the API.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use skep_tests::api_server::Authority;
use xtask::bench::report::{Goal, Report, Row, median};
use xtask::progress::Step;

use crate::servers::{self, Pem, Server};
use crate::{changes, load, objects, process};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only see that everything can be measured: few routes, one round, short windows
    #[arg(long)]
    quick: bool,
    /// How often everything is measured
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Only a part of it
    #[arg(long)]
    only: Option<Part>,
    /// Where the report goes
    #[arg(long)]
    folder: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The data plane beside others
    Load,
    /// Changes through the API
    Changes,
}

/// Goals: megabytes with all routes and with one, milliseconds from a write to its route.
const MEMORY: f64 = 40.0;
const IDLE_MEMORY: f64 = 15.0;
const WRITE: f64 = 10.0;

struct Scale {
    routes: usize,
    rounds: u32,
    seconds: u32,
    /// Requests a second at which times are measured.
    rate: u32,
    new: usize,
    changes: usize,
}

/// What is measured of a gateway in each round.
const MEASURES: [(&str, &str); 5] = [
    ("requests", "1/s"),
    ("requests_per_core", "1/s"),
    ("p99", "ms"),
    ("handshakes", "1/s"),
    ("http_2", "1/s"),
];

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let scale = match arguments.quick {
        true => Scale { routes: 50, rounds: 1, seconds: 1, rate: 160, new: 3, changes: 50 },
        false => Scale { routes: 5_000, rounds: 3, seconds: 3, rate: 4_000, new: 50, changes: 10_000 },
    };
    let scale = Scale { rounds: arguments.rounds.unwrap_or(scale.rounds), ..scale };
    let folder = tempfile::tempdir()?;
    let endpoint = servers::endpoint(folder.path())?;
    let mut rows = Vec::new();
    if arguments.only != Some(Part::Changes) {
        rows.extend(beside_others(folder.path(), &endpoint, &scale)?);
    }
    if arguments.only != Some(Part::Load) {
        rows.extend(changed(&endpoint, &scale)?);
    }
    let headline = format!(
        "{} requests a second on one core, {} of nginx; a new route answers {} ms after its write.",
        median(&rows, "requests"),
        median(&rows, "requests_ratio"),
        median(&rows, "write_to_route"),
    );
    Report { name: "gateway", headline, rows: &rows }.publish(&arguments.folder)
}

fn beside_others(folder: &Path, endpoint: &Server, scale: &Scale) -> Result<Vec<Row>> {
    let step = Step::new(format!("gateways with 1 and {} routes, and their peers", scale.routes));
    let pem = pem(folder)?;
    let upstream = endpoint.http;
    let servers = [
        servers::skep("skep", 1, upstream, &pem)?,
        servers::nginx_gateway(folder, upstream, &pem)?,
        servers::haproxy(folder, upstream, &pem)?,
    ];
    let many = servers::skep("skep_many", scale.routes, upstream, &pem)?;
    step.done("answer");
    let mut samples: Vec<[Vec<f64>; MEASURES.len()]> = servers.iter().map(|_| Default::default()).collect();
    let mut of_many = Vec::new();
    for round in 1..=scale.rounds {
        let step = Step::new(format!("round {round} of {}", scale.rounds));
        for (server, samples) in servers.iter().zip(&mut samples) {
            let outcome = measure(server, scale, folder).with_context(|| server.name.to_owned())?;
            samples.iter_mut().zip(outcome).for_each(|(samples, outcome)| samples.push(outcome));
            if server.name == "skep" {
                of_many.push(load::keep_alive(many.http, &objects::host(0), scale.seconds)?.per_second);
            }
        }
        step.done("loaded");
    }
    let mut rows = Vec::new();
    for (at, (measure, unit)) in MEASURES.into_iter().enumerate() {
        for (server, samples) in servers.iter().zip(&samples) {
            rows.extend(Row::new(measure, server.name, unit, &samples[at]));
        }
    }
    rows.extend(ratios(&samples, &of_many, scale));
    rows.extend(memory(&servers, &many, scale)?);
    Ok(rows)
}

/// One gateway, as [`MEASURES`] has it.
fn measure(server: &Server, scale: &Scale, folder: &Path) -> Result<[f64; MEASURES.len()]> {
    let host = objects::host(0);
    let before = process::processor_time(server.pid())?;
    let outcome = load::keep_alive(server.http, &host, scale.seconds)?;
    anyhow::ensure!(outcome.failed + outcome.broken == 0.0, "requests failed: {outcome:?}");
    let spent = process::processor_time(server.pid())? - before;
    let times = load::at_rate(server.http, &host, scale.seconds, scale.rate, folder)?;
    let handshakes = load::handshakes(server.https, &host, scale.seconds)?.per_second;
    let http_2 = load::http_2(server.https, &host, scale.seconds)?;
    Ok([outcome.per_second, outcome.requests / spent, load::quantile(&times, 0.99), handshakes, http_2])
}

/// Skep's over nginx', round by round; and that with many routes over that with one.
fn ratios(samples: &[[Vec<f64>; MEASURES.len()]], of_many: &[f64], scale: &Scale) -> Vec<Row> {
    let [skep, nginx, ..] = samples else { return Vec::new() };
    let ratio = |over: &[f64], under: &[f64]| -> Vec<f64> {
        over.iter().zip(under).map(|(over, under)| over / under).collect()
    };
    let mut rows = Vec::new();
    let names = [
        ("requests_ratio", Goal::AtLeast(1.0)),
        ("requests_per_core_ratio", Goal::AtLeast(1.0)),
        ("p99_ratio", Goal::AtMost(1.0)),
        ("handshakes_ratio", Goal::AtLeast(1.0)),
        ("http_2_ratio", Goal::AtLeast(1.0)),
    ];
    for (at, (name, goal)) in names.into_iter().enumerate() {
        let row = Row::new(name, "skep", "of nginx", &ratio(&skep[at], &nginx[at]));
        rows.extend(row.map(|row| row.with_goal(goal)));
    }
    let row = Row::new("many_routes_ratio", "skep", "of 1 route", &ratio(of_many, &skep[0]));
    rows.extend(row.map(|row| row.with("routes", scale.routes).with_goal(Goal::AtLeast(0.97))));
    rows
}

/// Of whole processes before any request; of the gateway with all routes also after the load.
fn memory(servers: &[Server], many: &Server, scale: &Scale) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let (skep, _) = servers.split_first().context("no gateway")?;
    let (config, all) = many.memory.context("no size of the gateway")?;
    let (_, idle) = skep.memory.context("no size of the gateway")?;
    for (name, bytes, goal) in [
        ("routes_memory", config, None),
        ("memory", all, Some(MEMORY)),
        ("idle_memory", idle, Some(IDLE_MEMORY)),
    ] {
        let row = Row::new(name, "skep", "MB", &[bytes as f64 / 1e6]);
        let row = row.map(|row| match goal {
            Some(most) => row.with_goal(Goal::AtMost(most)),
            None => row,
        });
        let routes = if name == "idle_memory" { 1 } else { scale.routes };
        rows.extend(row.map(|row| row.with("routes", routes)));
    }
    for server in servers.iter().chain([many]) {
        let bytes = process::resident(server.pid())?;
        rows.extend(Row::new("memory_after_load", server.name, "MB", &[bytes as f64 / 1e6]));
    }
    Ok(rows)
}

fn changed(endpoint: &Server, scale: &Scale) -> Result<Vec<Row>> {
    let step = Step::new(format!("{} changes with {} routes", scale.changes, scale.routes));
    let outcome = changes::measure(endpoint.http, scale.routes, scale.new, scale.changes)?;
    step.done("changed");
    let rows = [
        Row::new("write_to_route", "skep", "ms", &outcome.write_to_route)
            .map(|row| row.with_goal(Goal::AtMost(WRITE))),
        Row::new("changes", "skep", "1/s", &[outcome.per_second]),
        Row::new("requests_while_changed", "skep", "", &[outcome.requests]),
        Row::new("failed_while_changed", "skep", "", &[outcome.failed])
            .map(|row| row.with_goal(Goal::AtMost(0.0))),
        Row::new("broken_while_changed", "skep", "", &[outcome.broken])
            .map(|row| row.with_goal(Goal::AtMost(0.0))),
    ];
    Ok(rows.into_iter().flatten().map(|row| row.with("routes", scale.routes)).collect())
}

fn pem(folder: &Path) -> Result<Pem> {
    let issued = Authority::new()?.issue_for("localhost", "bench", "localhost")?;
    let [certificate, key, both] = ["tls.crt", "tls.key", "both.pem"].map(|name| folder.join(name));
    std::fs::write(&certificate, &issued.certificate)?;
    std::fs::write(&key, &issued.key)?;
    std::fs::write(&both, format!("{}{}", issued.certificate, issued.key))?;
    Ok(Pem { certificate, key, both })
}
