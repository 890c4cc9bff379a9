//! `cargo xtask bench gateway`: builds the benchmark of the gateway with optimisation and runs it; `tests/gatewaybench` is it.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::binaries::{self, Profile};
use crate::deps::{self, Need};
use crate::progress::Step;

#[derive(clap::Args)]
pub struct Arguments {
    /// Passed on, such as --quick or --rounds 9; see --help behind --
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    gatewaybench: Vec<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    deps::ensure(&[Need::Build, Need::Gateway])?;
    let step = Step::new("release build");
    // The network agent, whose informers are measured, embeds the programs.
    crate::build_ebpf::run()?;
    let folder = binaries::cargo_build(Profile::Release, &["--package=skep-tests", "--bin=gatewaybench"])?;
    step.done("built");
    let mut command = Command::new(folder.join("gatewaybench"));
    command.arg("run").arg("--folder").arg(crate::workspace().join("target/bench"));
    let status =
        command.args(&arguments.gatewaybench).status().with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!("the benchmark failed: {status}");
    }
    Ok(())
}
