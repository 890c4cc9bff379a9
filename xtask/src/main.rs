//! `cargo xtask`: builds, runs and tests Skep; one file a command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::cluster::layout::{Layout, USUAL};
use xtask::commands::{demo, diff, down, fuzz, lint, soak, test, up};
use xtask::{bench, build_ebpf, gen_api};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, run and test Skep")]
struct Arguments {
    /// Which cluster of this machine: its nodes are in 10.N.0.0/24
    #[arg(long = "cluster", global = true, default_value_t = USUAL, value_name = "N",
          value_parser = clap::value_parser!(u8).range(32..96))]
    number: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the BPF programs that the binary embeds
    BuildEbpf,
    /// Renew the schema facts of userspace/api from public data
    GenApi(gen_api::Arguments),
    /// Start a cluster on this machine, with an example application in it
    Up(up::Arguments),
    /// Take the cluster away; nothing of it stays
    Down,
    /// Demonstrate a property of the running cluster
    #[command(subcommand)]
    Demo(demo::Demo),
    /// Measure, and compare with the goals
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Change services and kill agents under 2,000 open connections, and count those that break
    Soak(soak::Arguments),
    /// Feed each parser of foreign bytes with what a fuzzer finds
    Fuzz(fuzz::Arguments),
    /// Compare what Skep and another Kubernetes API server answer to the same manifests
    Diff(diff::Arguments),
    /// Check the architecture and formatting, and run clippy
    Lint(lint::Arguments),
    /// Run every test, the cluster's included
    Test(test::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let layout = Layout::development(&xtask::workspace(), arguments.number);
    let done = match arguments.command {
        Command::BuildEbpf => build_ebpf::run(),
        Command::GenApi(arguments) => gen_api::run(arguments),
        Command::Up(arguments) => up::run(layout, arguments),
        Command::Down => down::run(&layout),
        Command::Demo(demo) => demo::run(layout, demo),
        Command::Bench(bench) => bench::run(bench),
        Command::Soak(arguments) => soak::run(arguments),
        Command::Fuzz(arguments) => fuzz::run(arguments),
        Command::Diff(_) => diff::run(),
        Command::Lint(arguments) => lint::run(&arguments),
        Command::Test(arguments) => test::run(arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
