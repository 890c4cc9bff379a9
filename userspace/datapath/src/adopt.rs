//! Adoption of the pins of an agent with another ABI version.
//!
//! In: the folder that it left. Out: that folder under this version's name, with its links, so that programs are replaced
//! and never attached twice, and with the maps that mean the same in both versions.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use skep_abi::{ABI_VERSION, MAPS};

use crate::error::DatapathError;
use crate::{convert, pins};

/// Takes over the folder of the highest other version, unless this version has a folder. The running programs keep their maps
/// until each program is replaced.
pub(crate) fn adopt(bpffs: &Path) -> Result<(), DatapathError> {
    if !pins::folder(bpffs).exists()
        && let Some((version, other)) = newest(bpffs)?
    {
        take_over(bpffs, version, &other)?;
    }
    convert::remove_converted(&pins::maps(bpffs))
}

/// Renames the folder to this version's.
fn take_over(bpffs: &Path, version: u32, other: &Path) -> Result<(), DatapathError> {
    tracing::info!(from = version, to = ABI_VERSION, "adopting the pins of another ABI version");
    // In this order: after an interruption an agent of either version can start from the folder.
    for (name, since) in MAPS {
        if !(since..=ABI_VERSION).contains(&version) {
            remove(other, name)?;
        }
    }
    convert::convert(&other.join("maps"), version)?;
    fs::rename(other, pins::folder(bpffs)).map_err(DatapathError::file("rename", other))
}

/// The folder of the highest version.
fn newest(bpffs: &Path) -> Result<Option<(u32, PathBuf)>, DatapathError> {
    let entries = match fs::read_dir(bpffs) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        entries => entries.map_err(DatapathError::file("list", bpffs))?,
    };
    let versions = entries.flatten().filter_map(|entry| {
        let version = entry.file_name().to_str()?.strip_prefix('v')?.parse().ok()?;
        Some((version, entry.path()))
    });
    Ok(versions.max())
}

/// Unpins a map of the version whose folder is given, and what belongs to it.
fn remove(folder: &Path, name: &str) -> Result<(), DatapathError> {
    let maps = folder.join("maps");
    if name == "VERDICTS" {
        pins::remove_folder(&maps.join("verdicts"))?;
    }
    pins::remove(&maps.join(name))
}
