//! `cargo xtask lint`: formatting and clippy, as the tests demand them.

use std::process::Command;

use anyhow::{Context, Result, bail};

pub fn run() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--all-targets", "--", "--deny=warnings"])
}

/// Runs cargo at the top of the tree.
pub(crate) fn cargo(args: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).current_dir(crate::workspace()).args(args).status();
    let status = status.with_context(|| format!("run cargo {}", args.join(" ")))?;
    if !status.success() {
        bail!("cargo {} failed: {status}", args.join(" "));
    }
    Ok(())
}
