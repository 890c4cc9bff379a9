//! The tables' file, written back little by little.
//!
//! A checkpoint writes megabytes and then has them synced. In one go that keeps the disk busy for as long as a write may
//! take at most, and the log's sync waits behind it.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

/// Written without a sync at most.
const PIECE: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct PacedFile {
    file: FileBackend,
    unsynced: AtomicUsize,
}

impl PacedFile {
    /// Opens or creates it.
    pub(super) fn open(path: &Path) -> Result<PacedFile, redb::Error> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(PacedFile { file: FileBackend::new(file)?, unsynced: AtomicUsize::new(0) })
    }
}

impl StorageBackend for PacedFile {
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)?;
        if self.unsynced.fetch_add(data.len(), Ordering::Relaxed) + data.len() >= PIECE {
            self.sync_data()?;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.unsynced.store(0, Ordering::Relaxed);
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
