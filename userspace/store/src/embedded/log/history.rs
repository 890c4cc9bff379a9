//! The past: events from the segments that are complete.
//!
//! In: complete segments, from the log. Out: chunks of events, to any number of readers.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::super::disk::Disk;
use super::super::failure::file_error;
use super::files::damaged;
use super::record::{BadRecord, Records};
use crate::record::decode_matching;
use crate::{Event, Result, Revision, StoreError};

/// The log appends and removes segments while readers read those in between.
pub(in super::super) struct History {
    disk: Arc<dyn Disk>,
    closed: RwLock<VecDeque<ClosedSegment>>,
}

/// A complete segment.
#[derive(Clone)]
pub(super) struct ClosedSegment {
    pub(super) path: PathBuf,
    pub(super) first: Revision,
    /// The last revision; `first` - 1 if it has no records.
    pub(super) last: Revision,
    pub(super) bytes: u64,
}

/// Some events of the past.
pub(in super::super) struct Chunk {
    pub(in super::super) events: Vec<Event>,
    /// `events` has every matching event up to this revision.
    pub(in super::super) until: Revision,
}

impl Chunk {
    const MAX_EVENTS: usize = 1_000;
    const MAX_BYTES: usize = 4 << 20;
}

impl History {
    pub(super) fn new(disk: Arc<dyn Disk>) -> History {
        History { disk, closed: RwLock::default() }
    }

    fn segments(&self) -> RwLockReadGuard<'_, VecDeque<ClosedSegment>> {
        self.closed.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn segments_mut(&self) -> RwLockWriteGuard<'_, VecDeque<ClosedSegment>> {
        self.closed.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, closed: ClosedSegment) {
        self.segments_mut().push_back(closed);
    }

    /// A new segment replaced the file of one without a complete record.
    pub(super) fn replaced(&self, path: &Path) {
        self.segments_mut().retain(|closed| closed.path != path);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments().iter().map(|closed| closed.bytes).sum()
    }

    /// History has every event after this revision.
    pub(super) fn complete_after(&self) -> Option<Revision> {
        self.segments().front().map(|closed| closed.first.saturating_sub(1))
    }

    /// Removes the segments that end at or before `before`. A failed removal is repeated at the next call.
    pub(super) fn remove_until(&self, before: Revision) {
        let mut segments = self.segments_mut();
        while let Some(closed) = segments.front().filter(|closed| closed.last <= before) {
            match self.disk.remove(&closed.path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    tracing::warn!(log = %closed.path.display(), %error, "remove log segment failed");
                    return;
                }
                _ => drop(segments.pop_front()),
            }
        }
    }

    /// The next events of keys with `prefix` after a revision, up to and including `until`: one chunk of them.
    pub(in super::super) fn read(&self, after: Revision, until: Revision, prefix: &str) -> Result<Chunk> {
        let holding = self
            .segments()
            .iter()
            .find(|closed| (closed.first..=closed.last).contains(&(after + 1)))
            .cloned();
        let closed = holding.ok_or_else(|| self.missing(after))?;
        let bytes = self.disk.read(&closed.path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => self.missing(after),
            _ => file_error(error),
        })?;
        let mut chunk = Chunk { events: Vec::new(), until: after };
        let mut chunk_bytes = 0;
        let mut records = Records::new(&bytes);
        while chunk.until < until.min(closed.last)
            && chunk_bytes < Chunk::MAX_BYTES
            && chunk.events.len() < Chunk::MAX_EVENTS
        {
            let record = match records.next() {
                Ok(Some(record)) => record,
                Err(bad @ BadRecord::Damaged { .. }) => return Err(damaged(&closed.path, &bad.to_string())),
                Ok(None) | Err(BadRecord::Torn { .. }) => {
                    let missing = format!("revisions {} to {} are missing", chunk.until + 1, closed.last);
                    return Err(damaged(&closed.path, &missing));
                }
            };
            if record.revision > chunk.until + 1 {
                return Err(damaged(&closed.path, "the records are not in order"));
            }
            if record.revision > chunk.until {
                chunk.events.extend(decode_matching(record.revision, record.body, prefix)?);
                chunk.until = record.revision;
                chunk_bytes += record.body.len();
            }
        }
        Ok(chunk)
    }

    /// The revision was compacted since the caller looked; if not, its segment is lost.
    fn missing(&self, after: Revision) -> StoreError {
        match self.complete_after() {
            Some(oldest) if oldest > after => StoreError::Compacted { oldest },
            _ => StoreError::Corrupt(format!("no segment of the log has revision {}", after + 1)),
        }
    }
}
