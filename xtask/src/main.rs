//! `cargo xtask`: builds, runs and tests Skep; one file a command.

use anyhow::Result;
use clap::Parser;
use xtask::commands::{demo, down, lint, test, up};
use xtask::{build_ebpf, gen_api};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, run and test Skep")]
enum Command {
    /// Build the BPF programs that the binary embeds
    BuildEbpf,
    /// Renew the schema facts of userspace/api from public data
    GenApi,
    /// Start a cluster on this machine, with an example application in it
    Up(up::Arguments),
    /// Take the cluster away; nothing of it stays
    Down,
    /// Show something on the running cluster
    #[command(subcommand)]
    Demo(demo::Demo),
    /// Check formatting and run clippy
    Lint,
    /// Run every test, the cluster's included
    Test(test::Arguments),
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::BuildEbpf => build_ebpf::run(),
        Command::GenApi => gen_api::run(),
        Command::Up(arguments) => up::run(arguments),
        Command::Down => down::run(),
        Command::Demo(demo) => demo::run(demo),
        Command::Lint => lint::run(),
        Command::Test(arguments) => test::run(arguments),
    }
}
