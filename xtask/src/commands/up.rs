//! `cargo xtask up`: from source to a running cluster with a proven example application.

use std::net::SocketAddr;

use anyhow::{Result, bail};

use crate::binaries::Profile;
use crate::cluster::layout::Layout;
use crate::cluster::{Cluster, Options, Store, process};
use crate::deps::{self, Need};
use crate::example::{self, Proof, Spread, total};
use crate::progress::Step;
use crate::{binaries, build_ebpf};

#[derive(clap::Args)]
pub struct Arguments {
    /// How many nodes to run
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=64))]
    nodes: u8,
    /// Where the server keeps its objects
    #[arg(long, value_enum, default_value = "embedded")]
    store: Store,
    /// Seconds without a heartbeat after which a node is lost
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(5..))]
    node_grace: u16,
    /// With the release build, whose programs start and answer sooner and take longer to compile
    #[arg(long)]
    release: bool,
}

pub fn run(layout: Layout, arguments: Arguments) -> Result<()> {
    deps::require_root("up")?;
    let Arguments { nodes, store, node_grace, release } = arguments;
    let mut needs = vec![Need::Build, Need::Run];
    if store == Store::Etcd {
        needs.push(Need::Etcd);
    }
    deps::ensure(&needs)?;
    let kubectl = deps::kubectl(&layout.state.join("tools"))?;
    let binaries = build(if release { Profile::Release } else { Profile::Dev })?;
    let cluster = Cluster::new(layout, binaries, kubectl);
    start(&cluster, &Options { nodes, store, node_grace })?;
    example::deploy(&cluster.kubectl)?;
    let proof = example::prove(&cluster.kubectl, &node_ports(&cluster, nodes))?;
    print(&cluster, nodes, &proof);
    if proof.let_in > 0 {
        bail!("the policy let {} of {} requests of the pod `stranger` in", proof.let_in, proof.tried);
    }
    Ok(())
}

/// Everything that the cluster runs, from source.
fn build(profile: Profile) -> Result<crate::cluster::Binaries> {
    let step = Step::new("BPF programs");
    build_ebpf::run()?;
    step.done("built");
    let step = Step::new("skep, skep-cni");
    let binaries = binaries::build(profile)?;
    step.done("built");
    Ok(binaries)
}

/// Brings the cluster to the options: starts what is missing, ends surplus nodes.
pub fn start(cluster: &Cluster, options: &Options) -> Result<()> {
    let step = Step::new("server");
    cluster.start_server(options)?;
    step.done(format!("{} ({:?} store)", cluster.layout.server_url(), options.store).to_lowercase());
    let step = Step::of("nodes started", options.nodes.into());
    for index in 1..=options.nodes {
        step.say(cluster.layout.node(index).name);
        cluster.start_node(index)?;
        step.at(index.into());
    }
    for index in cluster.nodes_present().into_iter().filter(|index| *index > options.nodes) {
        cluster.remove_node(index)?;
    }
    step.done(format!("{}", options.nodes));
    let step = Step::of("nodes ready", options.nodes.into());
    cluster.wait_for_nodes(options.nodes, |ready| step.at(ready))?;
    step.done(format!("{}", options.nodes));
    Ok(())
}

/// The example's port on every node.
pub fn node_ports(cluster: &Cluster, nodes: u8) -> Vec<SocketAddr> {
    (1..=nodes).map(|index| SocketAddr::from((cluster.layout.node(index).addr, example::NODE_PORT))).collect()
}

fn print(cluster: &Cluster, nodes: u8, proof: &Proof) {
    let layout = &cluster.layout;
    println!();
    println!("The cluster runs: {} and {nodes} nodes", layout.server_url());
    for index in 1..=nodes {
        let node = layout.node(index);
        let memory = cluster.agent_pid(index).and_then(process::usage).map_or(0, |usage| usage.0 / 1024);
        println!("  {:<10} {:<14} agent {memory} MiB", node.name, node.addr);
    }
    let memory = cluster.server_pid().and_then(process::usage).map_or(0, |usage| usage.0 / 1024);
    println!("  {:<10} {:<14} {memory} MiB", "server", layout.server_addr());
    println!();
    print_spread("Requests from a pod to the ClusterIP of service `web`", &proof.cluster_ip);
    print_spread(
        &format!("Requests from outside to port {} of each node", example::NODE_PORT),
        &proof.node_port,
    );
    println!(
        "Network policy `web`: pod `client` let in; pod `stranger` refused in {} of {} tries",
        proof.tried - proof.let_in,
        proof.tried
    );
    println!(
        "Replica {} was deleted; {} was ready {:.1} s later",
        proof.replaced.old,
        proof.replaced.new,
        proof.replaced.took.as_secs_f64()
    );
    println!();
    println!("Look around:   export KUBECONFIG={}", layout.kubeconfig().display());
    println!("               {} get pods --all-namespaces --output=wide", cluster.kubectl.program.display());
    println!("Logs:          {}", layout.logs().display());
    println!("Take it away:  cargo xtask down");
}

fn print_spread(title: &str, spread: &Spread) {
    println!("{title}: {}", total(spread));
    let most = spread.values().copied().max().unwrap_or(1).max(1);
    for ((pod, node), count) in spread {
        println!("  {pod:<28} {node:<10} {count:>4} {}", "#".repeat(count * 30 / most));
    }
    println!();
}
