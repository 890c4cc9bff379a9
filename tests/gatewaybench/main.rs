//! The benchmark behind `cargo xtask bench gateway`: the data plane beside nginx and haproxy, with wrk and h2load as the load, in one
//! run on one machine.
//!
//! Out: a table, `gateway.json` and `gateway.svg`. The program starts itself again as the gateway that is measured.

mod changes;
mod load;
mod objects;
mod process;
mod run;
mod serve;
mod servers;

use clap::Parser;
use mimalloc::MiMalloc;

/// That of the `skep` binary, which has this gateway.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[derive(Parser)]
enum Command {
    /// Measure everything
    Run(run::Arguments),
    /// Serve Ingresses at two ports until the input ends
    Serve(serve::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Run(arguments) => run::run(&arguments),
        Command::Serve(arguments) => serve::run(&arguments),
    }
}
