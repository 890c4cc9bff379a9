//! `cargo xtask diff`: sends manifests to Skep and to another Kubernetes API server, and prints what is answered differently.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::binaries::{self, Profile};

/// What the program in the tests package takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// Address of the reference server, such as one of `kubectl proxy`
    #[arg(long, value_name = "URL")]
    pub oracle: Option<String>,
    /// Kubeconfig of the reference server
    #[arg(long, value_name = "FILE", conflicts_with = "oracle")]
    pub kubeconfig: Option<PathBuf>,
    /// Kubeconfig of a running Skep; without it a scratch server starts in the process
    #[arg(long, value_name = "FILE")]
    pub skep: Option<PathBuf>,
    /// Write the objects in fresh namespaces, in place of dry runs
    #[arg(long)]
    pub real: bool,
    /// Objects under way at once
    #[arg(long, default_value_t = 4)]
    pub workers: usize,
    /// Write every difference to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Record what the reference answers to the cases in tests/api/fidelity
    #[arg(long)]
    pub record: bool,
    /// Files and folders with manifests
    #[arg(value_name = "FOLDER", required_unless_present = "record")]
    pub folders: Vec<PathBuf>,
}

/// The program reads the same command line.
pub fn run() -> Result<()> {
    let words = std::env::args_os().skip_while(|word| word != "diff").skip(1);
    let folder = binaries::cargo_build(Profile::Dev, &["--package=skep-tests", "--bin=fidelity"])?;
    let mut command = Command::new(folder.join("fidelity"));
    let status = command.args(words).status().with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!("the servers differ, or could not be compared");
    }
    Ok(())
}
