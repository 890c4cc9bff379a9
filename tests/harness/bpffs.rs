//! A folder of the machine's BPF file system, which is mounted where a machine has none yet.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Result, anyhow};
use xtask::cluster::host::mount_bpf;

const ROOT: &str = "/sys/fs/bpf";

/// The folder for `name`; the caller removes its pins.
pub fn folder(name: &str) -> Result<PathBuf> {
    static MOUNTED: OnceLock<Result<(), String>> = OnceLock::new();
    let mounted = MOUNTED.get_or_init(|| mount_bpf(Path::new(ROOT)).map_err(|error| format!("{error:#}")));
    mounted.clone().map_err(|error| anyhow!("mount a BPF file system at {ROOT}: {error}"))?;
    Ok(Path::new(ROOT).join(name))
}
