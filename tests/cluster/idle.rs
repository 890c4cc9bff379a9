//! The cost of an idle cluster: memory of the server and of the agents, requests, and no loop that does not wait.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::cluster::kubectl::Kubectl;
use xtask::cluster::process::usage;
use xtask::example;

use crate::fixture::{NODES, shared};

const PERIOD: Duration = Duration::from_secs(30);
/// Most private memory in MiB. Tests run unoptimised code, whose text alone is larger than the bars and shared by all processes;
/// what the processes themselves take is the same in every profile.
const SERVER: u64 = 100;
const AGENT: u64 = 60;
/// Most share of a core in per cent. An idle process takes 1 to 4 here, by machine and load, and a loop that does not wait takes a whole
/// core. `cargo xtask bench idle` measures the share itself.
const MOST_TIME: f64 = 25.0;
/// Most requests in the period: a Lease every 2 s for each of three agents, the server's own Leases, and watches that begin again.
const MOST_REQUESTS: u64 = 100;

#[test]
fn an_idle_cluster_costs_little() -> Result<()> {
    let shared = shared()?;
    let cluster = &shared.cluster;
    example::deploy(&cluster.kubectl)?;
    // Informers, leases and probes settle.
    std::thread::sleep(Duration::from_secs(5));
    let mut processes = vec![("server".to_owned(), cluster.server_pid().context("no server")?, SERVER)];
    for index in 1..=NODES {
        let pid = cluster.agent_pid(index).context("no agent")?;
        processes.push((format!("agent {index}"), pid, AGENT));
    }
    let before: Vec<_> = processes.iter().map(|(_, pid, _)| usage(*pid)).collect();
    let requests = requests(&cluster.kubectl)?;
    std::thread::sleep(PERIOD);
    let requests = self::requests(&cluster.kubectl)? - requests;
    println!("{requests} requests");
    let mut too_much = Vec::new();
    if requests > MOST_REQUESTS {
        too_much.push(format!("{requests} requests (bar {MOST_REQUESTS})"));
    }
    for ((name, pid, most_memory), before) in processes.iter().zip(before) {
        let (_, from) = before.context("a process has ended")?;
        let (_, to) = usage(*pid).context("a process has ended")?;
        let memory = private(*pid)? / 1024;
        let time = (to - from) / PERIOD.as_secs_f64() * 100.0;
        println!("{name}: {memory} MiB, {time:.2} % of a core");
        if memory > *most_memory || time > MOST_TIME {
            too_much.push(format!("{name}: {memory} MiB (bar {most_memory}), {time:.2} % (bar {MOST_TIME})"));
        }
    }
    cluster.kubectl.run(&["delete", "namespace", example::NAMESPACE, "--wait=false"])?;
    ensure!(too_much.is_empty(), "{}", too_much.join("; "));
    Ok(())
}

/// The requests that the server has answered, watches included when they end.
fn requests(kubectl: &Kubectl) -> Result<u64> {
    let metrics = kubectl.run(&["get", "--raw=/metrics"])?;
    let samples = metrics.lines().filter(|line| line.starts_with("apiserver_request_total{"));
    let counts = samples.map(|line| line.rsplit(' ').next().unwrap_or_default().parse::<u64>());
    let counts: Vec<u64> = counts.collect::<Result<_, _>>().context("a count of requests is no number")?;
    ensure!(!counts.is_empty(), "the server shows no count of requests");
    Ok(counts.iter().sum())
}

/// Anonymous resident memory in KiB (proc(5), RssAnon).
fn private(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("a process has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    line.trim().trim_end_matches(" kB").parse().context("RssAnon is no number")
}
