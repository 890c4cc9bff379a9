//! Builds what a cluster runs, and what is measured.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cluster::Binaries;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Shared with the tests, so that a fresh clone compiles each crate once.
    Dev,
    /// What users run, and what is measured.
    Release,
}

/// `skep` and `skep-cni`.
pub fn build(profile: Profile) -> Result<Binaries> {
    cargo_build(profile, &["--package=skep", "--package=skep-cni", "--bins"])?;
    built(profile)
}

/// The binaries of an earlier build.
pub fn built(profile: Profile) -> Result<Binaries> {
    let folder = folder(profile);
    let skep = folder.join("skep");
    if !skep.exists() || !folder.join("skep-cni").exists() {
        bail!(
            "{} is not built; run `cargo xtask test`, or `cargo build -p skep -p skep-cni`",
            skep.display()
        );
    }
    Ok(Binaries { skep, plugins: folder })
}

/// Runs `cargo build` with the arguments; returns the output folder.
pub fn cargo_build(profile: Profile, words: &[&str]) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(crate::workspace()).arg("build").args(words);
    if profile == Profile::Release {
        command.arg("--release");
    }
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(folder(profile))
}

fn folder(profile: Profile) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let name = match profile {
        Profile::Dev => "debug",
        Profile::Release => "release",
    };
    target.unwrap_or_else(|| crate::workspace().join("target")).join(name)
}
