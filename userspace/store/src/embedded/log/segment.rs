//! The segment that is being written: records one after the other, each append synced before it returns.

use std::path::{Path, PathBuf};

use super::super::disk::{Disk, DiskFile};
use super::super::failure::file_error;
use super::files::{folder, segment_path};
use super::spare;
use crate::{Result, Revision};

pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) first: Revision,
    /// The last revision that was synced.
    pub(super) last: Revision,
    /// Bytes of the records that were synced.
    pub(super) length: u64,
    pub(super) file: Box<dyn DiskFile>,
    /// Whether the file may have bytes after the synced records.
    pub(super) dirty: bool,
}

impl Segment {
    /// Uses the spare segment if there is one.
    pub(super) fn create(disk: &dyn Disk, tables: &Path, first: Revision) -> Result<Segment> {
        let path = segment_path(tables, first);
        // A segment of this name can only be one whose first record was torn.
        if disk.rename(Path::new(&spare::name(tables)), &path).is_err() {
            disk.create(&path).map_err(file_error)?;
        }
        let file = disk.open(&path).map_err(file_error)?;
        disk.sync_folder(folder(&path)).map_err(file_error)?;
        Ok(Segment { path, first, last: first - 1, length: 0, file, dirty: false })
    }

    /// Durable when it returns; after an error nothing of it is kept.
    pub(super) fn append(&mut self, bytes: &[u8], last: Revision) -> Result<()> {
        self.truncate_unsynced()?;
        self.dirty = true;
        let written = self.file.write_all_at(bytes, self.length).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => {
                self.length += bytes.len() as u64;
                self.last = last;
                self.dirty = false;
                Ok(())
            }
            Err(error) => {
                if let Err(error) = self.truncate_unsynced() {
                    let path = self.path.display();
                    tracing::error!(log = %path, %error, "truncate log after a failed append failed");
                }
                Err(file_error(error))
            }
        }
    }

    /// Ends the file at its synced records: a refused write must not be read before the one that took its revision.
    pub(super) fn truncate_unsynced(&mut self) -> Result<()> {
        if self.dirty {
            self.file.set_len(self.length).and_then(|()| self.file.sync_data()).map_err(file_error)?;
            self.dirty = false;
        }
        Ok(())
    }
}
