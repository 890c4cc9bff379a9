//! The segment that is being written: records one after the other, each append synced before it returns.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

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
    pub(super) file: File,
    /// Whether the file may have bytes after the synced records.
    pub(super) dirty: bool,
}

impl Segment {
    /// Uses the spare segment if there is one.
    pub(super) fn create(tables: &Path, first: Revision) -> Result<Segment> {
        let path = segment_path(tables, first);
        // A segment of this name can only be one whose first record was torn.
        if fs::rename(spare::name(tables), &path).is_err() {
            fs::write(&path, []).map_err(file_error)?;
        }
        let file = File::options().write(true).open(&path).map_err(file_error)?;
        File::open(folder(&path)).and_then(|folder| folder.sync_all()).map_err(file_error)?;
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
