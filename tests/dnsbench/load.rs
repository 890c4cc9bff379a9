//! dnsperf as the load. In: an address, a file of questions, a rate. Out: answers a second and the time that each took.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The core of the load; servers have the last one.
const CORE: &str = "0";
const CLIENTS: &str = "8";

/// Questions at a rate: the time of each in milliseconds, sorted. A lost question is an error.
pub(crate) fn at_rate(to: SocketAddr, questions: &Path, seconds: u32, rate: u32) -> Result<Vec<f64>> {
    let said = dnsperf(to, questions, seconds, &["-v", "-Q", &rate.to_string()])?;
    let lost = summary(&said, "Queries lost:")?;
    ensure!(lost == 0.0, "{lost} questions were lost at {rate} a second");
    // `> NOERROR name type seconds`, with -v.
    let answers = said.lines().filter(|line| line.starts_with("> NOERROR "));
    let times = answers.filter_map(|line| line.split_whitespace().last()?.parse::<f64>().ok());
    let mut times: Vec<f64> = times.map(|seconds| seconds * 1e3).collect();
    times.sort_by(f64::total_cmp);
    ensure!(!times.is_empty(), "dnsperf got no answers:\n{said}");
    Ok(times)
}

/// Answers a second, with 100 questions under way.
pub(crate) fn at_most(to: SocketAddr, questions: &Path, seconds: u32) -> Result<f64> {
    summary(&dnsperf(to, questions, seconds, &[])?, "Queries per second:")
}

/// The value below which that share of the sorted values is.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or_default()
}

fn dnsperf(to: SocketAddr, questions: &Path, seconds: u32, more: &[&str]) -> Result<String> {
    let (ip, port, seconds) = (to.ip().to_string(), to.port().to_string(), seconds.to_string());
    let mut command = Command::new("taskset");
    command.args([
        "-c", CORE, "dnsperf", "-s", &ip, "-p", &port, "-l", &seconds, "-c", CLIENTS, "-T", "1", "-d",
    ]);
    let output = command.arg(questions).args(more).output().context("run dnsperf (Debian: dnsperf)")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "dnsperf: {}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

fn summary(said: &str, label: &str) -> Result<f64> {
    let line = said.lines().find_map(|line| line.trim().strip_prefix(label));
    let value = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    value.with_context(|| format!("no {label:?} in what dnsperf says:\n{said}"))
}
