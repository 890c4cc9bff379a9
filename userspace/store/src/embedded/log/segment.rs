//! The segment that is written: records behind each other, each append synced before it returns.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::super::failure::file;
use super::{folder, segment_name, spare};
use crate::{Result, Revision};

pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) first: Revision,
    /// Of the records that were synced.
    pub(super) last: Revision,
    /// Theirs, in bytes.
    pub(super) length: u64,
    pub(super) file: File,
    /// Whether there may be something behind them.
    pub(super) dirty: bool,
}

impl Segment {
    /// Begins as the spare one, if there is one.
    pub(super) fn create(beside: &Path, first: Revision) -> Result<Segment> {
        let path = PathBuf::from(segment_name(beside, &format!("{first:020}")));
        // Of the same name can only be one whose first record was torn.
        if fs::rename(spare::name(beside), &path).is_err() {
            fs::write(&path, []).map_err(file)?;
        }
        let opened = File::options().write(true).open(&path).map_err(file)?;
        File::open(folder(&path)).and_then(|folder| folder.sync_all()).map_err(file)?;
        Ok(Segment { path, first, last: first - 1, length: 0, file: opened, dirty: false })
    }

    /// Durable when it returns; after an error nothing of it is kept.
    pub(super) fn append(&mut self, bytes: &[u8], last: Revision) -> Result<()> {
        self.clean()?;
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
                if let Err(error) = self.clean() {
                    tracing::error!(%error, log = %self.path.display(), "take back what was not written whole");
                }
                Err(file(error))
            }
        }
    }

    /// Ends it where its records do: what was refused must not be read before what was written in its place.
    pub(super) fn clean(&mut self) -> Result<()> {
        if self.dirty {
            self.file.set_len(self.length).and_then(|()| self.file.sync_data()).map_err(file)?;
            self.dirty = false;
        }
        Ok(())
    }
}
