//! The cost of an idle cluster: memory and processor time of the server and of the agents.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::cluster::process::usage;
use xtask::example;

use crate::fixture::{NODES, shared};

const PERIOD: Duration = Duration::from_secs(30);
/// Most private memory in MiB and share of a core in per cent. Tests run unoptimised code, whose text alone is larger than
/// the bars for memory and shared by all processes; what the processes themselves take is the same in every profile. It
/// takes several times the time of a release build, which `cargo xtask bench idle` holds to a third of these bars.
const SERVER: (u64, f64) = (100, 3.0);
const AGENT: (u64, f64) = (60, 1.5);

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
    std::thread::sleep(PERIOD);
    let mut too_much = Vec::new();
    for ((name, pid, (most_memory, most_time)), before) in processes.iter().zip(before) {
        let (_, from) = before.context("a process has ended")?;
        let (_, to) = usage(*pid).context("a process has ended")?;
        let memory = private(*pid)? / 1024;
        let time = (to - from) / PERIOD.as_secs_f64() * 100.0;
        println!("{name}: {memory} MiB, {time:.2} % of a core");
        if memory > *most_memory || time > *most_time {
            too_much.push(format!("{name}: {memory} MiB (bar {most_memory}), {time:.2} % (bar {most_time})"));
        }
    }
    cluster.kubectl.run(&["delete", "namespace", example::NAMESPACE, "--wait=false"])?;
    ensure!(too_much.is_empty(), "{}", too_much.join("; "));
    Ok(())
}

/// Anonymous resident memory in KiB (proc(5), RssAnon).
fn private(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("a process has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    line.trim().trim_end_matches(" kB").parse().context("RssAnon is no number")
}
