//! The errors of backups.

use std::io;

use crate::StoreError;

/// Why a backup was not written, or cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("the file is not a backup")]
    Foreign,
    #[error("the backup ends early, after {entries} entries: it was never complete, or was cut")]
    Truncated { entries: u64 },
    #[error("the backup is damaged: the checksum of the part at byte {at} is wrong")]
    Damaged { at: u64 },
    #[error("the backup is damaged: the checksum of the whole file is wrong")]
    WrongDigest,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("a part of {0} bytes is too large for a backup")]
    TooLarge(usize),
}
