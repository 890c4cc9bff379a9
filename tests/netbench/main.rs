//! The packet-level benchmark behind `cargo xtask bench net`: Skep beside loopback, veth, plain routing and kube-proxy's
//! rules, in one run on one core; and `cargo xtask bench scale`, see [`scale`].
//!
//! Out: a table, `net.json` and `net.svg`. Everything stands in namespaces whose names begin with `nb-`, and is gone
//! at the end. The program starts itself again for clients, servers and the agent.

mod ablation;
mod agent;
mod client;
mod cluster;
mod control;
mod forward;
mod joined;
mod new_flow;
mod placement;
mod policy;
mod programs;
mod requests;
mod rules;
mod run;
mod samples;
mod scale;
mod skep;
mod sockets;
mod source;
mod spliced;
mod targets;
mod tcp_route;
mod world;

use std::net::SocketAddr;

use clap::Parser;
use mimalloc::MiMalloc;

/// That of the `skep` binary: the agent's memory is measured.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[derive(Parser)]
enum Command {
    /// Measure everything
    Run(run::Arguments),
    /// Become a command, on the core and in the cgroup
    Place(placement::Arguments),
    /// Answer requests
    Serve { listen: SocketAddr },
    /// Make requests
    Client(client::Client),
    /// Look at what sockets do
    Sockets,
    /// Be a node's agent
    Agent(agent::Arguments),
    /// Measure a node of a large cluster
    Scale(scale::Arguments),
    /// Be the agent of a node of a large cluster
    ScaleAgent(scale::AgentArguments),
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Run(arguments) => run::run(&arguments),
        Command::Place(arguments) => placement::enter(arguments),
        Command::Serve { listen } => client::serve(listen),
        Command::Client(client) => client::measure(&client),
        Command::Sockets => sockets::run(),
        Command::Agent(arguments) => agent::run(arguments),
        Command::Scale(arguments) => scale::run(&arguments),
        Command::ScaleAgent(arguments) => scale::run_agent(arguments),
    }
}
