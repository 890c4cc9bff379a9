//! `cargo xtask soak`: Services change a hundred times a second, wrong Nodes come and go, and agents of two nodes are killed under 2,000
//! open connections and 100 silent ones; in the second half with an overlay.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::binaries::{self, Profile};
use crate::build_ebpf;
use crate::deps::{self, Need};

#[derive(clap::Args)]
pub struct Arguments {
    /// How long
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    minutes: u32,
    /// With a build of the profile dev and a fifth of the load
    #[arg(long)]
    dev: bool,
}

pub fn run(arguments: Arguments) -> Result<()> {
    deps::require_root("soak")?;
    deps::ensure(&[Need::Build])?;
    build_ebpf::run()?;
    binaries::build(if arguments.dev { Profile::Dev } else { Profile::Release })?;
    // The program is in the tests package, which depends on this crate.
    let folder = binaries::cargo_build(Profile::Dev, &["--package=skep-tests", "--bin=soak"])?;
    let mut command = Command::new(folder.join("soak"));
    command.arg(arguments.minutes.to_string()).args(arguments.dev.then_some("dev"));
    let status = command.status().context("run soak")?;
    if !status.success() {
        bail!("connections broke, or the stage could not be set");
    }
    Ok(())
}
