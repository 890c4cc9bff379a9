//! Pins on the BPF file system: where they are, making and removing them.
//!
//! In: the folder that the node was given. Out: files below `<bpffs>/v<ABI_VERSION>`.

use std::fs;
use std::io;
use std::io::ErrorKind;
use std::path::Path;
use std::path::PathBuf;

use aya::programs::links::FdLink;
use skep_abi::ABI_VERSION;

use crate::error::DatapathError;

/// The folder of everything that this ABI version pins.
pub(crate) fn folder(bpffs: &Path) -> PathBuf {
    bpffs.join(format!("v{ABI_VERSION}"))
}

/// The folder of the pinned maps.
pub(crate) fn maps(bpffs: &Path) -> PathBuf {
    folder(bpffs).join("maps")
}

/// The folder of the pinned links.
pub(crate) fn links(bpffs: &Path) -> PathBuf {
    folder(bpffs).join("links")
}

/// Pins the link, which then outlives this process.
pub(crate) fn pin_link(link: FdLink, path: &Path) -> Result<(), DatapathError> {
    link.pin(path).map(drop).map_err(|source| DatapathError::Pin { path: path.to_owned(), source })
}

/// Removes a pin, or the empty folder that stands for one; idempotent.
pub(crate) fn remove(path: &Path) -> Result<(), DatapathError> {
    let removed = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
    ignore_absent(removed).map_err(DatapathError::file("remove", path))
}

/// Removes a folder of pins, of whatever ABI version; idempotent. Links that no process holds detach.
pub(crate) fn remove_folder(path: &Path) -> Result<(), DatapathError> {
    ignore_absent(fs::remove_dir_all(path)).map_err(DatapathError::file("remove", path))
}

fn ignore_absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
