//! Churn on two nodes: Services and EndpointSlices change all the time, wrong Nodes come and go, agents are restarted and killed,
//! while connections stay open that must not break, others are tried that policy refuses,
//! and names are asked for.
//!
//! In: how long, how many connections, how many changes a second. Out: what was done, and every connection that broke.
//! Server and agent are real processes; pods are namespaces with interfaces by the CNI plugin's own code.

mod changes;
mod options;
mod questions;
mod report;
mod traffic;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

pub use options::Options;
pub use report::Report;
use traffic::Traffic;
use world::World;

/// Fails when the stage cannot be set; what breaks on it is in the report.
pub fn run(options: &Options) -> Result<Report> {
    traffic::allow_files((options.connections + options.silent) * 2 + 512)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut world = World::new(options, &runtime)?;
    let stop = Arc::new(AtomicBool::new(false));
    let traffic = Traffic::start(&world, options, &runtime, &stop)?;
    let questions = questions::start(&world, options.questions_per_second, &runtime, &stop)?;
    let changes = changes::start(&world, options.changes_per_second, &runtime, &stop)?;
    let mut report = Report::default();
    let end = Instant::now() + options.duration;
    let mut next = Instant::now() + options.agent_life;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
        if Instant::now() >= next {
            let by_force = report.restarts > report.kills;
            world.restart_agent(by_force)?;
            *if by_force { &mut report.kills } else { &mut report.restarts } += 1;
            next += options.agent_life;
        }
    }
    stop.store(true, Ordering::Release);
    (report.changes, report.wrong_nodes) = runtime.block_on(changes.count())?;
    // The agent that came last has caught up when what is made now is served.
    let caught_up = world.serves_a_new_service(&runtime);
    traffic.finish(&runtime, &mut report)?;
    questions.finish(&runtime, &mut report)?;
    caught_up.context("after the churn")?;
    ensure!(
        report.requests > 0 && report.changes > 0 && report.questions > 0,
        "nothing happened: {report:?}"
    );
    Ok(report)
}
