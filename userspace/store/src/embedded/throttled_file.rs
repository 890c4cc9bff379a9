//! The tables' file, synced after every few written bytes.
//!
//! A checkpoint writes megabytes and then syncs. One sync of all of them keeps the disk busy so long that a sync of the
//! log, and with it a client's write, waits behind it.

use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};

use redb::{BackendError, StorageBackend};

/// Bounds the bytes that wait for a sync.
const MAX_UNSYNCED_BYTES: usize = 256 << 10;

/// A backend of redb; see the module.
#[derive(Debug)]
pub(super) struct ThrottledFile {
    file: Box<dyn StorageBackend>,
    unsynced: AtomicUsize,
}

impl ThrottledFile {
    pub(super) fn new(file: Box<dyn StorageBackend>) -> ThrottledFile {
        ThrottledFile { file, unsynced: AtomicUsize::new(0) }
    }
}

impl StorageBackend for ThrottledFile {
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)?;
        if self.unsynced.fetch_add(data.len(), Ordering::Relaxed) + data.len() >= MAX_UNSYNCED_BYTES {
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
