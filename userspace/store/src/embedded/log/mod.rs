//! The log: events, appended and synced before a write is answered, and kept until they are compacted.
//!
//! In: events, from the writer. Out: at the start the events that no checkpoint has; later the history, for reads in the
//! past and late watches. The log is a sequence of segments in the folder of the tables, named after their first revision.
//! A crash can tear the end of the last segment, which was never acknowledged; anything else with a wrong checksum is
//! damage, and an error.

mod files;
mod history;
mod record;
mod segment;
pub(super) mod spare;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::files::{damaged, segments};
use self::history::ClosedSegment;
pub(super) use self::history::{Chunk, History};
use self::record::{BadRecord, Records};
use self::segment::Segment;
use super::failure::file_error;
use crate::{Event, Result, Revision, StoreError};

/// The writer's end.
pub(super) struct Log {
    /// The path of the tables' file.
    tables: PathBuf,
    segment: Option<Segment>,
    history: Arc<History>,
    buffer: Vec<u8>,
}

/// The segments' events after a checkpoint, while they are read at the start.
struct Recovery {
    events: Vec<Event>,
    /// The last revision so far, the checkpoint's at first.
    last: Revision,
    /// The error if the next segment does not continue after `last`.
    torn: Option<StoreError>,
}

impl Log {
    /// The log of the tables, and its events after the checkpoint's revision.
    pub(super) fn open(tables: &Path, checkpoint: Revision) -> Result<(Log, Vec<Event>)> {
        let history = History::default();
        let mut recovery = Recovery { events: Vec::new(), last: checkpoint, torn: None };
        let segments = segments(tables)?;
        let nexts = segments.iter().skip(1).map(|(_, first)| Some(*first)).chain([None]);
        for ((path, first), next) in segments.iter().cloned().zip(nexts) {
            let (last, bytes) = match next.filter(|next| *next <= checkpoint + 1) {
                // The checkpoint has all of its events: it is read on demand only.
                Some(next) => (next.saturating_sub(1), fs::metadata(&path).map_err(file_error)?.len()),
                None => recovery.read(&path, first)?,
            };
            history.push(ClosedSegment { path, first, last, bytes });
        }
        let log =
            Log { tables: tables.to_owned(), segment: None, history: Arc::new(history), buffer: Vec::new() };
        Ok((log, recovery.events))
    }

    /// The complete segments.
    pub(super) fn history(&self) -> Arc<History> {
        self.history.clone()
    }

    /// History has every event after this revision; `None`: there is no log at all.
    pub(super) fn complete_after(&self) -> Option<Revision> {
        self.history.complete_after()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.history.bytes() + self.segment.as_ref().map_or(0, |segment| segment.length)
    }

    /// Durable when it returns; after an error nothing of it is kept.
    pub(super) fn append(&mut self, events: &[Event]) -> Result<()> {
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return Ok(()) };
        self.buffer.clear();
        events.iter().for_each(|event| record::write(&mut self.buffer, event));
        let mut segment = match self.segment.take() {
            Some(segment) => segment,
            None => {
                let segment = Segment::create(&self.tables, first.revision())?;
                self.history.replaced(&segment.path);
                segment
            }
        };
        let written = segment.append(&self.buffer, last.revision());
        if written.is_err() && segment.length == 0 {
            // It has no records.
            let _ = fs::remove_file(&segment.path);
        } else {
            self.segment = Some(segment);
        }
        self.buffer.shrink_to(1 << 20);
        written
    }

    /// Completes the segment; the next event starts a new one.
    pub(super) fn rotate(&mut self) -> Result<()> {
        if let Some(segment) = &mut self.segment {
            segment.truncate_unsynced()?;
        }
        if let Some(Segment { path, first, last, length, file, .. }) = self.segment.take() {
            // Frees the zeros after the records. If this fails they stay: readers end at zeros too.
            let _ = file.set_len(length);
            self.history.push(ClosedSegment { path, first, last, bytes: length });
        }
        Ok(())
    }

    /// Removes the segments that end at or before `before`, which must be compacted and in a checkpoint.
    pub(super) fn remove_until(&self, before: Revision) {
        self.history.remove_until(before);
    }
}

impl Recovery {
    /// Reads a segment; its last revision and its length.
    fn read(&mut self, path: &Path, first: Revision) -> Result<(Revision, u64)> {
        if let Some(torn) = self.torn.take().filter(|_| first != self.last + 1) {
            return Err(torn);
        }
        let bytes = fs::read(path).map_err(file_error)?;
        let mut records = Records::new(&bytes);
        let mut in_segment = first.saturating_sub(1);
        loop {
            let next =
                records.next().and_then(|record| record.map(|record| records.event(&record)).transpose());
            match next {
                Ok(Some(event)) => {
                    if event.revision() != in_segment + 1 {
                        return Err(damaged(path, "the records are not in order"));
                    }
                    in_segment = event.revision();
                    self.push(path, event)?;
                }
                Ok(None) => break,
                Err(BadRecord::Torn) => {
                    tracing::warn!(log = %path.display(), revision = in_segment, "log ends in a torn record");
                    // Another segment may follow only if it continues at the next revision.
                    let why = "a record is torn, and the next segment does not continue there";
                    self.torn = Some(damaged(path, why));
                    break;
                }
                Err(BadRecord::Damaged(why)) => return Err(damaged(path, &why)),
            }
        }
        Ok((in_segment, bytes.len() as u64))
    }

    /// Takes the event if it is new; `Err`: revisions before it are missing.
    fn push(&mut self, path: &Path, event: Event) -> Result<()> {
        let revision = event.revision();
        if revision == self.last + 1 {
            self.last = revision;
            self.events.push(event);
        } else if revision > self.last {
            let missing = format!("revisions {} to {} are missing", self.last + 1, revision - 1);
            return Err(damaged(path, &missing));
        }
        Ok(())
    }
}
