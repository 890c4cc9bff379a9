//! The spare segment: a file of zeros that becomes the next segment.
//!
//! Without it the segment grows with every append, and every sync must write the file's inode too.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use super::files::segment_name;

/// Bytes written between two syncs.
pub(super) const PIECE_BYTES: usize = 256 << 10;

pub(super) fn name(tables: &Path) -> OsString {
    segment_name(tables, "spare")
}

/// Makes a spare segment, unless the disk has no room for it.
pub(in super::super) fn create(tables: &Path, bytes: usize) {
    // Renamed once it is complete, since the log may take the spare at any time.
    let unfinished = segment_name(tables, "unfinished");
    let write = || {
        let mut spare = File::create(&unfinished)?;
        let zeros = vec![0; PIECE_BYTES];
        for from in (0..bytes).step_by(PIECE_BYTES) {
            spare.write_all(&zeros[..PIECE_BYTES.min(bytes - from)])?;
            spare.sync_all()?;
        }
        fs::rename(&unfinished, name(tables))
    };
    if let Err(error) = write() {
        tracing::debug!(%error, "create spare log segment failed");
        let _ = fs::remove_file(&unfinished);
    }
}

/// Whether there was one.
pub(in super::super) fn remove(tables: &Path) -> bool {
    fs::remove_file(name(tables)).is_ok()
}
