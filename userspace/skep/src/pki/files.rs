//! Key files: written atomically and durably, readable by their owner only.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::error::PkiError;

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> PkiError {
    let path = path.to_owned();
    move |source| PkiError::File { operation, path, source }
}

/// Creates a folder with mode 0700.
pub(super) fn create_folder(folder: &Path) -> Result<(), PkiError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed("create", folder))
}

/// The text of a file; `None` if it does not exist.
pub(super) fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// The certificates of a PEM text, each as PEM.
pub(crate) fn certificates(pem: &str) -> Vec<String> {
    let blocks = pem.split_inclusive("-----END CERTIFICATE-----");
    let from =
        |block: &str| block.find("-----BEGIN CERTIFICATE-----").map(|at| format!("{}\n", &block[at..]));
    blocks.filter_map(from).collect()
}

/// Replaces a file durably by one with mode 0600.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(failed("write", path))
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
