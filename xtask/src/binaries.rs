//! Builds what a cluster runs.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cluster::Binaries;

/// `skep` and `skep-cni` in the profile that everything else is built in too: a fresh clone compiles each crate once.
pub fn build() -> Result<Binaries> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(crate::workspace()).args(["build", "--package=skep", "--package=skep-cni", "--bins"]);
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!("building skep failed: {status}");
    }
    built()
}

/// Those that were built before.
pub fn built() -> Result<Binaries> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(Into::into);
    let folder = target.unwrap_or_else(|| crate::workspace().join("target")).join("debug");
    let skep = folder.join("skep");
    if !skep.exists() || !folder.join("skep-cni").exists() {
        bail!(
            "{} is not built; run `cargo xtask test`, or `cargo build -p skep -p skep-cni`",
            skep.display()
        );
    }
    Ok(Binaries { skep, plugins: folder })
}
