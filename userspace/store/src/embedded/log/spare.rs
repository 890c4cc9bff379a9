//! The spare segment: a file of zeros that becomes the next segment.
//!
//! Without it the segment grows with every append, and every sync must write the file's inode too.

use std::ffi::OsString;
use std::path::Path;

use super::super::disk::Disk;
use super::files::segment_name;

/// Bytes written between two syncs.
pub(super) const PIECE_BYTES: usize = 256 << 10;

pub(super) fn name(tables: &Path) -> OsString {
    segment_name(tables, "spare")
}

/// Makes a spare segment, unless the disk has no room for it.
pub(in super::super) fn create(disk: &dyn Disk, tables: &Path, bytes: usize) {
    // Renamed once it is complete, since the log may take the spare at any time.
    let unfinished = segment_name(tables, "unfinished");
    let write = || {
        let spare = disk.create(Path::new(&unfinished))?;
        let zeros = vec![0; PIECE_BYTES];
        for from in (0..bytes).step_by(PIECE_BYTES) {
            spare.write_all_at(&zeros[..PIECE_BYTES.min(bytes - from)], from as u64)?;
            spare.sync_data()?;
        }
        disk.rename(Path::new(&unfinished), Path::new(&name(tables)))
    };
    if let Err(error) = write() {
        tracing::debug!(%error, "create spare log segment failed");
        let _ = disk.remove(Path::new(&unfinished));
    }
}

/// Whether there was one.
pub(in super::super) fn remove(disk: &dyn Disk, tables: &Path) -> bool {
    disk.remove(Path::new(&name(tables))).is_ok()
}
