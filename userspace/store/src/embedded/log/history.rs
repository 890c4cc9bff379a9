//! The past, from the segments that are no longer written.

use std::collections::VecDeque;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::super::failure::file;
use super::damaged;
use super::record::{End, Reader};
use crate::record::decode_matching;
use crate::{Event, Result, Revision, StoreError};

/// Grows at its end and is forgotten from its beginning while readers read what lies between.
#[derive(Default)]
pub(in super::super) struct History(RwLock<VecDeque<Closed>>);

/// A segment that nothing is appended to any more.
#[derive(Clone)]
pub(super) struct Closed {
    pub(super) path: PathBuf,
    /// Of its records; without any, `last` is the one before `first`.
    pub(super) first: Revision,
    pub(super) last: Revision,
    pub(super) bytes: u64,
}

/// A piece of the past.
pub(in super::super) struct Part {
    pub(in super::super) events: Vec<Event>,
    /// Up to here there are no other events.
    pub(in super::super) until: Revision,
}

impl Part {
    const EVENTS: usize = 1_000;
    const BYTES: usize = 4 << 20;
}

impl History {
    fn segments(&self) -> RwLockReadGuard<'_, VecDeque<Closed>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn segments_mut(&self) -> RwLockWriteGuard<'_, VecDeque<Closed>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, closed: Closed) {
        self.segments_mut().push_back(closed);
    }

    /// A new segment took the place of one without a whole record.
    pub(super) fn replaced(&self, path: &Path) {
        self.segments_mut().retain(|closed| closed.path != path);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments().iter().map(|closed| closed.bytes).sum()
    }

    /// Every event after this revision is there.
    pub(super) fn complete_after(&self) -> Option<Revision> {
        self.segments().front().map(|closed| closed.first.saturating_sub(1))
    }

    /// Removes the segments of which nothing after `before` would be missed. What cannot be removed is tried again.
    pub(super) fn forget(&self, before: Revision) {
        let mut segments = self.segments_mut();
        while let Some(closed) = segments.front().filter(|closed| closed.last <= before) {
            match fs::remove_file(&closed.path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    tracing::warn!(%error, log = %closed.path.display(), "remove a part of the log");
                    return;
                }
                _ => drop(segments.pop_front()),
            }
        }
    }

    /// The next events of keys with `prefix` after a revision, up to another, as many as are good to hold at once.
    pub(in super::super) fn read(&self, after: Revision, until: Revision, prefix: &str) -> Result<Part> {
        let holding = self
            .segments()
            .iter()
            .find(|closed| (closed.first..=closed.last).contains(&(after + 1)))
            .cloned();
        let closed = holding.ok_or_else(|| self.gone(after))?;
        let bytes = fs::read(&closed.path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => self.gone(after),
            _ => file(error),
        })?;
        let mut part = Part { events: Vec::new(), until: after };
        let mut held = 0;
        let mut reader = Reader::new(&bytes);
        while part.until < until.min(closed.last) && held < Part::BYTES && part.events.len() < Part::EVENTS {
            let record = match reader.next() {
                Ok(Some(record)) => record,
                Err(End::Damaged(why)) => return Err(damaged(&closed.path, &why)),
                Ok(None) | Err(End::Torn) => {
                    let missing = format!("revisions {} to {} are missing", part.until + 1, closed.last);
                    return Err(damaged(&closed.path, &missing));
                }
            };
            if record.revision > part.until + 1 {
                return Err(damaged(&closed.path, "the records are not in order"));
            }
            if record.revision > part.until {
                part.events.extend(decode_matching(record.revision, record.body, prefix)?);
                part.until = record.revision;
                held += record.body.len();
            }
        }
        Ok(part)
    }

    /// It was forgotten between a look at what is known and the read; otherwise it should be there.
    fn gone(&self, after: Revision) -> StoreError {
        match self.complete_after() {
            Some(oldest) if oldest > after => StoreError::Compacted { oldest },
            _ => StoreError::Corrupt(format!("no part of the log holds revision {}", after + 1)),
        }
    }
}
