//! `cargo xtask demo`: demonstrations on the running cluster.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::up::node_ports;
use crate::binaries::Profile;
use crate::cluster::kubectl::{condition, text};
use crate::cluster::layout::Layout;
use crate::cluster::{Cluster, Options};
use crate::progress::Step;
use crate::{binaries, deps, example};

#[derive(clap::Subcommand)]
pub enum Demo {
    /// Cut a node off, and report when its pods run elsewhere and the service answers
    Failover {
        /// Number of the node, counted from 1
        #[arg(long, default_value_t = 3)]
        node: u8,
    },
}

/// The minimum that the server accepts.
const NODE_GRACE_SECONDS: u16 = 5;

pub fn run(layout: Layout, demo: Demo) -> Result<()> {
    deps::require_root("demo")?;
    let kubectl = deps::kubectl(&layout.state.join("tools"))?;
    let cluster = Cluster::new(layout, binaries::build(Profile::Dev)?, kubectl);
    let options = cluster.options()?;
    match demo {
        Demo::Failover { node } => failover(&cluster, &options, node),
    }
}

/// Heals the uplink and the server's settings, whatever happened before.
struct Restore<'a> {
    cluster: &'a Cluster,
    options: &'a Options,
    node: u8,
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        for result in [self.cluster.set_uplink(self.node, true), self.cluster.start_server(self.options)] {
            if let Err(error) = result {
                eprintln!("restore: {error:#}");
            }
        }
    }
}

fn failover(cluster: &Cluster, options: &Options, node: u8) -> Result<()> {
    if !(1..=options.nodes).contains(&node) || options.nodes < 2 {
        bail!("there is no node {node} to cut off and another to go on with");
    }
    let name = cluster.layout.node(node).name;
    let step = Step::new("before");
    cluster.start_server(&Options { node_grace: NODE_GRACE_SECONDS, ..options.clone() })?;
    cluster.wait_for_nodes(options.nodes, |_| ())?;
    example::wait_ready(&cluster.kubectl, |_, _| ())?;
    step.done(format!("all replicas ready; {name} is cut off next"));
    let restore = Restore { cluster, options, node };
    let cut = Instant::now();
    cluster.set_uplink(node, false)?;
    let step = Step::new("node noticed");
    let noticed = cluster.kubectl.wait(&["nodes"], Duration::from_secs(30), |nodes| {
        let lost = nodes.iter().find(|object| text(object, "/metadata/name") == name)?;
        (!condition(lost, "Ready")).then(|| cut.elapsed())
    })?;
    step.done(format!("{:.1} s after the cut", noticed.as_secs_f64()));
    let step = Step::of("replicas elsewhere", example::REPLICAS as u64);
    let elsewhere = replicas_elsewhere(cluster, &name, |ready| step.at(ready))?;
    let elsewhere = elsewhere.duration_since(cut);
    step.done(format!("all ready {:.1} s after the cut", elsewhere.as_secs_f64()));
    let step = Step::new("service answers");
    let others: Vec<_> = node_ports(cluster, options.nodes)
        .into_iter()
        .enumerate()
        .filter_map(|(at, address)| (at + 1 != usize::from(node)).then_some(address))
        .collect();
    for address in others.iter().cycle().take(100) {
        example::http_get(*address, Duration::from_secs(2)).with_context(|| format!("ask {address}"))?;
    }
    step.done("100 of 100 requests through the other nodes");
    drop(restore);
    let step = Step::new("node back");
    let healed = Instant::now();
    cluster.wait_for_nodes(options.nodes, |_| ())?;
    step.done(format!("Ready {:.1} s after the cable", healed.elapsed().as_secs_f64()));
    Ok(())
}

/// When every replica was ready on a node that is not the lost one.
fn replicas_elsewhere(cluster: &Cluster, lost: &str, mut each: impl FnMut(usize)) -> Result<Instant> {
    let args = ["pods", "--namespace=example", "--selector=app in (web, api)"];
    cluster.kubectl.wait(&args, Duration::from_secs(60), |pods| {
        let elsewhere =
            pods.iter().filter(|pod| condition(pod, "Ready") && text(pod, "/spec/nodeName") != lost);
        let ready = elsewhere.count();
        each(ready);
        (ready == example::REPLICAS).then(Instant::now)
    })
}
