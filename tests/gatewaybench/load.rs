//! wrk and h2load as the load. In: an address, a host, for how long. Out: requests a second, and the time that each took.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The core of the load and of the endpoint; gateways have the last one.
pub(crate) const CORE: &str = "0";
const CONNECTIONS: &str = "64";
/// Connections of requests at a rate.
const RATE_CONNECTIONS: u32 = 16;

/// What wrk saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) requests: f64,
    pub(crate) per_second: f64,
    /// Responses other than 2xx and 3xx, and timeouts.
    pub(crate) failed: f64,
    /// Connections that failed or ended.
    pub(crate) broken: f64,
}

/// Requests of HTTP/1.1, as many as possible on connections that are kept.
pub(crate) fn keep_alive(to: SocketAddr, host: &str, seconds: u32) -> Result<Outcome> {
    wrk(to, host, seconds, "http", &[])
}

/// A TLS handshake for each request.
pub(crate) fn handshakes(to: SocketAddr, host: &str, seconds: u32) -> Result<Outcome> {
    wrk(to, host, seconds, "https", &["-H", "Connection: close"])
}

fn wrk(to: SocketAddr, host: &str, seconds: u32, scheme: &str, more: &[&str]) -> Result<Outcome> {
    let url = format!("{scheme}://{host}:{}/", to.port());
    let mut command = Command::new("taskset");
    command.args(["-c", CORE, "wrk", "-t", "1", "-c", CONNECTIONS, "-d", &seconds.to_string()]);
    command.args(more).arg(url);
    let output = command.output().context("run wrk (Debian: wrk)")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "wrk: {said}{}", String::from_utf8_lossy(&output.stderr));
    let errors = said.lines().find_map(|line| line.trim().strip_prefix("Socket errors:")).unwrap_or_default();
    let error = |name: &str| {
        let at = errors.split(',').find_map(|part| part.trim().strip_prefix(name));
        at.and_then(|count| count.trim().parse::<f64>().ok()).unwrap_or_default()
    };
    let statuses = value(&said, "Non-2xx or 3xx responses:").unwrap_or_default();
    Ok(Outcome {
        requests: said
            .lines()
            .find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok())
            .with_context(|| format!("wrk counted nothing:\n{said}"))?,
        per_second: value(&said, "Requests/sec:").with_context(|| format!("no rate from wrk:\n{said}"))?,
        failed: statuses + error("timeout"),
        broken: error("connect") + error("read") + error("write"),
    })
}

/// Requests of HTTP/1.1 at a rate: the time of each in milliseconds, sorted.
pub(crate) fn at_rate(
    to: SocketAddr,
    host: &str,
    seconds: u32,
    rate: u32,
    folder: &Path,
) -> Result<Vec<f64>> {
    let log = folder.join("h2load.log");
    // It appends.
    let _ = std::fs::remove_file(&log);
    let each = rate / RATE_CONNECTIONS;
    let connections = RATE_CONNECTIONS.to_string();
    let mut command = Command::new("taskset");
    command.args(["-c", CORE, "h2load", "--h1", "-t1", "-c", &connections, "-m1"]);
    command.args(["--rps", &each.to_string(), "-n", &(each * RATE_CONNECTIONS * seconds).to_string()]);
    command.arg("--log-file").arg(&log).arg(format!("http://{host}:{}/", to.port()));
    let output = command.output().context("run h2load (Debian: nghttp2-client)")?;
    ensure!(output.status.success(), "h2load: {}", String::from_utf8_lossy(&output.stderr));
    // Start in microseconds, status, microseconds until the response.
    let text = std::fs::read_to_string(&log).context("read h2load's log")?;
    let mut times = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, status, took] = fields[..] else { continue };
        ensure!(status == "200", "a response with status {status}");
        times.push(took.parse::<f64>()? / 1e3);
    }
    ensure!(!times.is_empty(), "h2load got no response");
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Requests a second of HTTP/2 over TLS.
pub(crate) fn http_2(to: SocketAddr, host: &str, seconds: u32) -> Result<f64> {
    let mut command = Command::new("taskset");
    command.args(["-c", CORE, "h2load", "-t1", "-c16", "-m16", "-D", &seconds.to_string()]);
    command.arg(format!("https://{host}:{}/", to.port()));
    let output = command.output().context("run h2load (Debian: nghttp2-client)")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = said.lines().find_map(|line| line.strip_prefix("finished in ")).unwrap_or_default();
    let rate = line.split(", ").find_map(|part| part.strip_suffix(" req/s")?.parse::<f64>().ok());
    let failed = said.lines().find(|line| line.starts_with("requests:")).unwrap_or_default();
    ensure!(failed.contains(" 0 failed"), "h2load: {failed}");
    rate.with_context(|| format!("no rate from h2load:\n{said}"))
}

/// The value below which that share of the sorted values is.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or_default()
}

fn value(said: &str, label: &str) -> Option<f64> {
    let line = said.lines().find_map(|line| line.trim().strip_prefix(label))?;
    line.split_whitespace().next()?.parse().ok()
}
