//! One run: both servers with the same names, asked in turns; then writes.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use xtask::bench::report::{Goal, Report, Row, median};
use xtask::progress::Step;

use crate::{load, names, serve, writes};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only see that everything can be measured: few services, one round, short windows
    #[arg(long)]
    quick: bool,
    /// How often everything is measured
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Where the report goes
    #[arg(long)]
    folder: PathBuf,
}

/// Questions a second at which the time of answers is measured.
const RATE: u32 = 5_000;
/// Goals: milliseconds of 99 of 100 answers, megabytes, milliseconds from a write to its answer.
const P99: f64 = 0.3;
const MEMORY: f64 = 15.0;
const WRITE: f64 = 50.0;
const START_TIMEOUT: Duration = Duration::from_secs(60);

struct Scale {
    services: u32,
    rounds: u32,
    seconds: u32,
    rate: u32,
    writes: u32,
}

/// A server's process on its core, ended on drop.
struct Server {
    child: Child,
    name: &'static str,
    addr: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let scale = match arguments.quick {
        true => Scale { services: 100, rounds: 1, seconds: 1, rate: 200, writes: 3 },
        false => Scale { services: 10_000, rounds: 5, seconds: 5, rate: RATE, writes: 50 },
    };
    let scale = Scale { rounds: arguments.rounds.unwrap_or(scale.rounds), ..scale };
    let folder = tempfile::tempdir()?;
    let (hosts, questions) = (folder.path().join("hosts"), folder.path().join("questions"));
    std::fs::write(&hosts, names::hosts(scale.services))?;
    std::fs::write(&questions, names::questions(scale.services))?;
    let step = Step::new(format!("two servers with {} names", scale.services));
    let (skep, index_bytes) = start_skep(scale.services)?;
    let servers = [skep, start_dnsmasq(&hosts)?];
    step.done("answer");
    let mut rows = ask_in_turns(&servers, &questions, &scale)?;
    rows.extend(memory(&servers, index_bytes, scale.services)?);
    drop(servers);
    let step = Step::new(format!("{} writes", scale.writes));
    let times = writes::measure(free_addr()?, scale.services, scale.writes)?;
    step.done("answered");
    let row = Row::new("write_to_answer", "skep", "ms", &times);
    rows.extend(row.map(|row| row.with("services", scale.services).with_goal(Goal::AtMost(WRITE))));
    let headline = format!(
        "A name of the cluster takes {} ms (99 % within {} ms) at {} questions a second, of {} at most.",
        median(&rows, "p50"),
        median(&rows, "p99"),
        scale.rate,
        median(&rows, "most")
    );
    Report { name: "dns", headline, rows: &rows }.publish(&arguments.folder)
}

fn ask_in_turns(servers: &[Server], questions: &Path, scale: &Scale) -> Result<Vec<Row>> {
    let mut samples: Vec<[Vec<f64>; 3]> = servers.iter().map(|_| Default::default()).collect();
    for round in 1..=scale.rounds {
        let step = Step::new(format!("round {round} of {}", scale.rounds));
        for (server, [p50, p99, most]) in servers.iter().zip(&mut samples) {
            let times = load::at_rate(server.addr, questions, scale.seconds, scale.rate)
                .with_context(|| server.name.to_owned())?;
            p50.push(load::quantile(&times, 0.5));
            p99.push(load::quantile(&times, 0.99));
            most.push(load::at_most(server.addr, questions, scale.seconds)?);
        }
        step.done("asked");
    }
    let mut rows = Vec::new();
    for (at, (measure, unit)) in [("p50", "ms"), ("p99", "ms"), ("most", "1/s")].into_iter().enumerate() {
        for (server, samples) in servers.iter().zip(&samples) {
            let Some(row) = Row::new(measure, server.name, unit, &samples[at]) else { continue };
            let row = row.with("services", scale.services);
            let is_goal = measure == "p99" && server.name == "skep";
            rows.push(if is_goal { row.with_goal(Goal::AtMost(P99)) } else { row });
        }
    }
    Ok(rows)
}

/// Of the whole processes after the load, and of Skep's index alone.
fn memory(servers: &[Server], index_bytes: u64, services: u32) -> Result<Vec<Row>> {
    let index = Row::new("index_memory", "skep", "MB", &[index_bytes as f64 / 1e6]);
    let mut rows: Vec<Row> = index.map(|row| row.with_goal(Goal::AtMost(MEMORY))).into_iter().collect();
    for server in servers {
        let resident = serve::resident(server.child.id())? as f64 / 1e6;
        rows.extend(Row::new("rss", server.name, "MB", &[resident]));
    }
    Ok(rows.into_iter().map(|row| row.with("services", services)).collect())
}

/// Runs it on the last core.
fn pinned(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut command = Command::new("taskset");
    command.args(["-c", &(cores - 1).to_string()]).arg(program).stdin(Stdio::piped());
    command
}

fn start_skep(services: u32) -> Result<(Server, u64)> {
    let addr = free_addr()?;
    let mut command = pinned(std::env::current_exe()?);
    command.args(["serve", "--listen", &addr.to_string(), "--services", &services.to_string()]);
    let mut child = command.stdout(Stdio::piped()).spawn().context("start the server")?;
    let output = child.stdout.take().context("no output")?;
    let server = Server { child, name: "skep", addr };
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let bytes = line.trim().parse().context("the server said no size")?;
    until_it_answers(&server)?;
    Ok((server, bytes))
}

fn start_dnsmasq(hosts: &Path) -> Result<Server> {
    let addr = free_addr()?;
    let mut command = pinned("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--no-poll",
        "--bind-interfaces",
        "--pid-file",
    ]);
    command.args([
        "--conf-file=/dev/null",
        "--user=root",
        "--cache-size=10000",
        "--listen-address=127.0.0.1",
    ]);
    command.arg(format!("--port={}", addr.port())).arg(format!("--addn-hosts={}", hosts.display()));
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let server =
        Server { child: child.context("start dnsmasq (Debian: dnsmasq-base)")?, name: "dnsmasq", addr };
    until_it_answers(&server)?;
    Ok(server)
}

fn until_it_answers(server: &Server) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    socket.connect(server.addr)?;
    let mut question = Message::new(1, MessageType::Query, OpCode::Query);
    let name = format!("app-0.{}.svc.{}.", names::namespace(0), names::DOMAIN);
    question.add_query(Query::query(Name::from_ascii(name)?, RecordType::A));
    let (packet, begun) = (question.to_vec()?, Instant::now());
    let mut buffer = [0; 2048];
    loop {
        // Nothing listens yet, or no answer came: it is asked again.
        let received = socket.send(&packet).and_then(|_| socket.recv(&mut buffer));
        if let Some(answer) = received.ok().and_then(|length| Message::from_vec(buffer.get(..length)?).ok())
            && !answer.answers.is_empty()
        {
            return Ok(());
        }
        ensure!(begun.elapsed() < START_TIMEOUT, "{} does not answer", server.name);
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A port of loopback that is free.
fn free_addr() -> Result<SocketAddr> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
