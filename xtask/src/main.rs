//! `cargo xtask`: builds, runs and tests Skep; one file a command.

mod build_ebpf;

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, run and test Skep")]
enum Command {
    /// Build the BPF programs that the binary embeds
    BuildEbpf,
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::BuildEbpf => build_ebpf::run(),
    }
}
