//! What an agent of another ABI version left: its links are taken over, so that programs are replaced and never doubled,
//! and so are the maps that mean the same in this version.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use skep_abi::{ABI_VERSION, MAPS};

use crate::error::DatapathError;
use crate::pins;

/// Makes another version's folder this one's, unless there is one of this version. The programs that run go on with the
/// maps they have until each is replaced.
pub(crate) fn adopt(bpffs: &Path) -> Result<(), DatapathError> {
    let own = pins::folder(bpffs);
    if own.exists() {
        return Ok(());
    }
    let Some((version, other)) = newest(bpffs)? else { return Ok(()) };
    tracing::info!(from = version, to = ABI_VERSION, "taking over from an agent of another version");
    // In this order: what is interrupted leaves a folder that either version's agent starts from.
    for (name, since) in MAPS {
        if !(since..=ABI_VERSION).contains(&version) {
            remove(&other, name)?;
        }
    }
    fs::rename(&other, &own).map_err(DatapathError::file("rename", &other))
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
