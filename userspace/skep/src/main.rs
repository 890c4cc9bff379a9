//! The `skep` binary: commands and wiring only.

mod advertise;
mod cluster_keys;
mod commands;
mod controllers;
mod credentials;
mod join;
mod kubeconfig;
mod pki;
mod tunnel;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use mimalloc::MiMalloc;
use tracing_subscriber::EnvFilter;

use commands::{agent, backup, certs, flows, hold_sockets, ingress, restore, secrets, server, token};

/// Every request allocates many small objects; measured with `cargo xtask bench api`.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Kubernetes-API orchestrator whose network is eBPF
#[derive(Parser)]
#[command(name = "skep", version)]
enum Command {
    /// Run the control plane: API server, store, controllers and scheduler
    Server(Box<server::Server>),
    /// Run a node
    Agent(Box<agent::Agent>),
    /// Show flows that opened and packets that were dropped, with the policy rule that decided
    Flows(flows::Flows),
    /// Show packets that were dropped, with the reason
    Drops(flows::Drops),
    /// Look at Ingresses before they move here
    #[command(subcommand)]
    Ingress(ingress::Command),
    /// Write the store and the keys of a server into one file, while it runs or not
    Backup(backup::Backup),
    /// Make the data directory of a server from a backup
    Restore(restore::Restore),
    /// Show the certificates, and rotate CAs and the key of tokens
    #[command(subcommand)]
    Certs(certs::Certs),
    /// Manage the keys that encrypt Secrets at rest
    #[command(subcommand)]
    Secrets(secrets::Secrets),
    /// Manage the tokens with which machines join
    #[command(subcommand)]
    Token(token::Token),
    /// Keep the sockets of an agent's DNS while the agent is replaced
    #[command(hide = true)]
    HoldSockets(hold_sockets::HoldSockets),
}

fn main() -> ExitCode {
    let command = Command::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skep: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Of a worker thread. A nested object is handled by recursion, a hundred levels deep at most; a debug build needs 3 MiB.
const STACK_BYTES: usize = 8 << 20;

fn run(command: Command) -> Result<()> {
    // Two threads: one serves while the other waits for a disk.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).thread_stack_size(STACK_BYTES).enable_all().build();
    runtime.context("start the runtime")?.block_on(async {
        match command {
            Command::Server(server) => server::run(*server).await,
            Command::Agent(agent) => agent::run(*agent).await,
            Command::Flows(arguments) => flows::flows(arguments).await,
            Command::Drops(arguments) => flows::drops(arguments).await,
            Command::Ingress(command) => ingress::run(command).await,
            Command::Backup(backup) => backup::run(backup).await,
            Command::Restore(restore) => restore::run(restore).await,
            Command::Certs(certs) => certs::run(certs),
            Command::Secrets(secrets) => secrets::run(secrets),
            Command::Token(token) => token::run(token).await,
            Command::HoldSockets(arguments) => hold_sockets::run(&arguments),
        }
    })
}
