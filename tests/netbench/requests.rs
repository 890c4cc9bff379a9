//! Requests and throughput: every way measured in turn, round by round, so that what disturbs the machine meets all.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use skep_tests::netns::Process;
use xtask::progress::Step;

use crate::client::{Kind, Sample};
use crate::cluster::{IPERF_PORT, REQUESTS};
use crate::placement::{Placement, own};
use crate::samples::Samples;
use crate::world::{Subject, Way};

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) rounds: u32,
    pub(crate) window: Duration,
    /// iperf3 counts in whole seconds.
    pub(crate) iperf_seconds: u32,
}

/// A way with its servers running.
struct Lane<'a> {
    way: &'a Way,
    server: Process,
    iperf: Option<Process>,
}

const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// In which a window is taken.
const TURNS_PER_WINDOW: u32 = 10;

/// `throughput`: which subjects iperf3 runs for.
pub(crate) fn measure(
    ways: &[Way],
    throughput: impl Fn(&Subject) -> bool,
    effort: Effort,
    samples: &mut Samples,
) -> Result<()> {
    let lanes =
        ways.iter().map(|way| Lane::open(way, throughput(&way.subject))).collect::<Result<Vec<_>>>()?;
    for round in 1..=effort.rounds {
        let step = Step::new(format!("requests, round {round} of {}", effort.rounds));
        for kind in [Kind::Rr, Kind::Crr] {
            requests(&lanes, kind, effort.window, samples)?;
        }
        for udp in [false, true] {
            for lane in lanes.iter().filter(|lane| lane.iperf.is_some()) {
                step.say(format!("iperf3, {}", lane.way.subject.name));
                lane.throughput(udp, effort.iperf_seconds, samples)?;
            }
        }
        step.done("measured");
    }
    Ok(())
}

/// Each lane's turn is short and comes often: a machine that is slow for a second is so for all of them.
fn requests(lanes: &[Lane], kind: Kind, window: Duration, samples: &mut Samples) -> Result<()> {
    let mut all = vec![Sample::default(); lanes.len()];
    for _ in 0..TURNS_PER_WINDOW {
        for (sum, lane) in all.iter_mut().zip(lanes) {
            *sum += lane.ask(kind, window / TURNS_PER_WINDOW)?;
        }
    }
    let (rate, cpu) = match kind {
        Kind::Rr => ("rr", "rr_cpu"),
        Kind::Crr => ("crr", "crr_cpu"),
    };
    for (Sample { requests, seconds, busy }, lane) in all.into_iter().zip(lanes) {
        samples.put(rate, "1/s", lane.way.subject, requests as f64 / seconds);
        samples.put(cpu, "us", lane.way.subject, busy * 1e6 / requests as f64);
    }
    Ok(())
}

impl Lane<'_> {
    fn open(way: &Way, throughput: bool) -> Result<Lane<'_>> {
        let listen = format!("{}:{}", way.listen, REQUESTS.target);
        let mut serve = way.server.command(own()?)?;
        let server = spawn(serve.args(["serve", &listen]))?;
        let iperf = match throughput {
            false => None,
            true => {
                let mut command = way.server.command("iperf3")?;
                let port = IPERF_PORT.to_string();
                Some(spawn(command.args(["--server", "--bind", &way.listen.to_string(), "--port", &port]))?)
            }
        };
        let lane = Lane { way, server, iperf };
        lane.wait()?;
        Ok(lane)
    }

    /// Until the servers answer.
    fn wait(&self) -> Result<()> {
        let start = Instant::now();
        while let Err(error) = self.ask(Kind::Crr, Duration::ZERO) {
            if start.elapsed() > READY_TIMEOUT {
                return Err(error.context(format!("{:?} does not answer", self.way.subject)));
            }
        }
        while self.iperf.is_some() && !is_listening(&self.way.server, IPERF_PORT)? {
            if start.elapsed() > READY_TIMEOUT {
                bail!("iperf3 of {:?} does not listen", self.way.subject);
            }
        }
        Ok(())
    }

    fn ask(&self, kind: Kind, window: Duration) -> Result<Sample> {
        let kind = format!("{kind:?}").to_lowercase();
        let mut command = self.way.client.command(own()?)?;
        command.args(["client", &kind, &self.way.requests.to_string()]);
        command.args(["--millis", &window.as_millis().to_string()]);
        command.args(["--server", &self.server.0.id().to_string()]);
        Ok(serde_json::from_slice(&output(&mut command)?)?)
    }

    fn throughput(&self, udp: bool, seconds: u32, samples: &mut Samples) -> Result<()> {
        let mut command = self.way.client.command("iperf3")?;
        command.args(["--client", &self.way.iperf.ip().to_string()]);
        command.args(["--port", &IPERF_PORT.to_string(), "--time", &seconds.to_string(), "--json"]);
        if udp {
            command.args(["--udp", "--bitrate", "0", "--length", "1400"]);
        }
        let output_json: Value = serde_json::from_slice(&output(&mut command)?)?;
        let end = &output_json["end"];
        let bits = match udp {
            false => end["sum_received"]["bits_per_second"].as_f64(),
            // The sum is of what was sent.
            true => end["sum"]["bits_per_second"]
                .as_f64()
                .zip(end["sum"]["lost_percent"].as_f64())
                .map(|(sent, lost)| sent * (1.0 - lost / 100.0)),
        };
        let bits =
            bits.with_context(|| format!("iperf3 of {:?} reported {output_json}", self.way.subject))?;
        let measure = if udp { "iperf_udp" } else { "iperf_tcp" };
        samples.put(measure, "Gbit/s", self.way.subject, bits / 1e9);
        Ok(())
    }
}

fn spawn(command: &mut Command) -> Result<Process> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(Process(command.spawn().with_context(|| format!("run {command:?}"))?))
}

fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        let said = [output.stderr, output.stdout].concat();
        bail!("{command:?}: {}", String::from_utf8_lossy(&said).trim());
    }
    Ok(output.stdout)
}

/// Whether a TCP socket of the namespace listens on the port (proc_net_tcp(5): state 0A).
fn is_listening(place: &Placement, port: u16) -> Result<bool> {
    let mut command = place.command("cat")?;
    let text = output(command.arg("/proc/self/net/tcp"))?;
    let ending = format!(":{port:04X}");
    let listens = |line: &str| -> Option<bool> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        Some(fields.get(1)?.ends_with(&ending) && *fields.get(3)? == "0A")
    };
    Ok(String::from_utf8_lossy(&text).lines().any(|line| listens(line) == Some(true)))
}
