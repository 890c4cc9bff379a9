//! What an idle cluster costs: memory and processor time of the server and of the agents.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::cluster::process::usage;
use xtask::example;

use crate::fixture::{NODES, shared};

const PERIOD: Duration = Duration::from_secs(30);
/// Largest resident set in MiB and share of a core in per cent.
const SERVER: (u64, f64) = (100, 1.0);
const AGENT: (u64, f64) = (60, 0.5);

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
        let (resident, to) = usage(*pid).context("a process has ended")?;
        let (memory, time) = (resident / 1024, (to - from) / PERIOD.as_secs_f64() * 100.0);
        println!("{name}: {memory} MiB, {time:.2} % of a core");
        if memory > *most_memory || time > *most_time {
            too_much.push(format!("{name}: {memory} MiB (bar {most_memory}), {time:.2} % (bar {most_time})"));
        }
    }
    cluster.kubectl.run(&["delete", "namespace", example::NAMESPACE, "--wait=false"])?;
    ensure!(too_much.is_empty(), "{}", too_much.join("; "));
    Ok(())
}
