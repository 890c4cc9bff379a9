//! `cargo xtask bench dns`: builds the benchmark of a node's DNS with optimisation and runs it; `tests/dnsbench` is it.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::binaries::{self, Profile};
use crate::deps::{self, Need};
use crate::progress::Step;

#[derive(clap::Args)]
pub struct Arguments {
    /// Passed on, such as --quick or --rounds 9; see --help behind --
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    dnsbench: Vec<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    deps::ensure(&[Need::Build, Need::Dns])?;
    let step = Step::new("release build");
    // The network agent, whose informers are measured, embeds the programs.
    crate::build_ebpf::run()?;
    let folder = binaries::cargo_build(Profile::Release, &["--package=skep-tests", "--bin=dnsbench"])?;
    step.done("built");
    let mut command = Command::new(folder.join("dnsbench"));
    command.arg("run").arg("--folder").arg(crate::workspace().join("target/bench")).args(&arguments.dnsbench);
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!("the benchmark failed: {status}");
    }
    Ok(())
}
