//! `cargo xtask bench net`: builds the packet-level benchmark with optimisation and runs it; `tests/netbench` is it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::binaries::{self, Profile};
use crate::deps::{self, Need};
use crate::progress::Step;

#[derive(clap::Args)]
pub struct Arguments {
    /// Passed on, such as --quick, --rounds 9 or --only requests; see --help behind --
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    netbench: Vec<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    deps::require_root("bench net")?;
    deps::ensure(&[Need::Build, Need::Net])?;
    start("run", &arguments.netbench)
}

/// Builds `tests/netbench` and runs a command of it.
pub(super) fn start(name: &str, arguments: &[String]) -> Result<()> {
    let step = Step::new("release build");
    let program = build()?;
    step.done("built");
    let folder = crate::workspace().join("target/bench");
    let mut command = Command::new(program);
    command.arg(name).arg("--folder").arg(folder).args(arguments);
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!("the benchmark failed: {status}");
    }
    Ok(())
}

fn build() -> Result<PathBuf> {
    crate::build_ebpf::run()?;
    let folder = binaries::cargo_build(Profile::Release, &["--package=skep-tests", "--bin=netbench"])?;
    Ok(folder.join("netbench"))
}
