//! The spare segment: a file of zeros that the next one begins as.
//!
//! A file that grows has its inode synced besides, with every sync.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use super::segment_name;

/// Written between two syncs.
pub(super) const PIECE: usize = 256 << 10;

pub(super) fn name(beside: &Path) -> OsString {
    segment_name(beside, "spare")
}

/// Leaves one ready, unless the disk has no room for it.
pub(in super::super) fn leave(beside: &Path, bytes: usize) {
    // It has its name once it is whole: the log may take it at any time.
    let unfinished = segment_name(beside, "unfinished");
    let write = || {
        let mut spare = File::create(&unfinished)?;
        let zeros = vec![0; PIECE];
        for from in (0..bytes).step_by(PIECE) {
            spare.write_all(&zeros[..PIECE.min(bytes - from)])?;
            spare.sync_all()?;
        }
        fs::rename(&unfinished, name(beside))
    };
    if let Err(error) = write() {
        tracing::debug!(%error, "no spare part of the log");
        let _ = fs::remove_file(&unfinished);
    }
}

/// Whether there was one.
pub(in super::super) fn remove(beside: &Path) -> bool {
    fs::remove_file(name(beside)).is_ok()
}
