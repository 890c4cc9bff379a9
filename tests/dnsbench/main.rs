//! The benchmark behind `cargo xtask bench dns`: a node's DNS beside dnsmasq, with dnsperf as the load, in one run on one machine.
//!
//! Out: a table, `dns.json` and `dns.svg`. The program starts itself again as the server that is measured.

mod load;
mod names;
mod run;
mod serve;
mod writes;

use clap::Parser;

#[derive(Parser)]
enum Command {
    /// Measure everything
    Run(run::Arguments),
    /// Answer at an address until the input ends
    Serve(serve::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Run(arguments) => run::run(&arguments),
        Command::Serve(arguments) => serve::run(&arguments),
    }
}
