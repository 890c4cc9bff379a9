//! The log: events, appended and synced before a write is answered, and kept until they are compacted.
//!
//! In: events, from the writer. Out: at the start the events that no checkpoint has; later the history, for reads in the
//! past and late watches. The log is a sequence of segments in the folder of the tables, named after their first revision.
//! A crash can tear the last append, which was never acknowledged. Its records are dropped at the start. A record that
//! cannot be read before a later append is damage, and an error that names file and byte: the later append shows that the
//! record was synced.

mod files;
mod history;
mod record;
mod segment;
pub(super) mod spare;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::files::{damaged, segments};
use self::history::ClosedSegment;
pub(super) use self::history::{Chunk, History};
use self::record::{BadRecord, Records};
use self::segment::Segment;
use super::disk::Disk;
use super::failure::file_error;
use crate::{Event, Result, Revision, StoreError};

/// The writer's end.
pub(super) struct Log {
    disk: Arc<dyn Disk>,
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
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        tables: &Path,
        checkpoint: Revision,
    ) -> Result<(Log, Vec<Event>)> {
        let history = History::new(disk.clone());
        let mut recovery = Recovery { events: Vec::new(), last: checkpoint, torn: None };
        let segments = segments(&*disk, tables)?;
        let nexts = segments.iter().skip(1).map(|(_, first)| Some(*first)).chain([None]);
        for ((path, first), next) in segments.iter().cloned().zip(nexts) {
            // An older version let everyone read it; opening it ends that.
            disk.open(&path).map_err(file_error)?;
            let (last, bytes) = match next.filter(|next| *next <= checkpoint + 1) {
                // The checkpoint has all of its events: it is read on demand only.
                Some(next) => (next.saturating_sub(1), disk.length(&path).map_err(file_error)?),
                None => recovery.read(&*disk, &path, first)?,
            };
            history.push(ClosedSegment { path, first, last, bytes });
        }
        let (tables, history) = (tables.to_owned(), Arc::new(history));
        let log = Log { disk, tables, segment: None, history, buffer: Vec::new() };
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
        record::write_append(&mut self.buffer, events);
        let mut segment = match self.segment.take() {
            Some(segment) => segment,
            None => {
                let segment = Segment::create(&*self.disk, &self.tables, first.revision())?;
                self.history.replaced(&segment.path);
                segment
            }
        };
        let written = segment.append(&self.buffer, last.revision());
        if written.is_err() && segment.length == 0 {
            // It has no records.
            let _ = self.disk.remove(&segment.path);
        } else {
            self.segment = Some(segment);
        }
        self.buffer.shrink_to(1 << 20);
        written
    }

    /// Completes the segment; the next event starts a new one. The bytes of its records.
    pub(super) fn rotate(&mut self) -> Result<u64> {
        if let Some(segment) = &mut self.segment {
            segment.truncate_unsynced()?;
        }
        let Some(Segment { path, first, last, length, file, .. }) = self.segment.take() else { return Ok(0) };
        // Frees the zeros after the records. If this fails they stay: readers end at zeros too.
        let _ = file.set_len(length);
        self.history.push(ClosedSegment { path, first, last, bytes: length });
        Ok(length)
    }

    /// Removes the segments that end at or before `before`, which must be compacted and in a checkpoint.
    pub(super) fn remove_until(&self, before: Revision) {
        self.history.remove_until(before);
    }
}

impl Recovery {
    /// Reads a segment; its last revision and its length.
    fn read(&mut self, disk: &dyn Disk, path: &Path, first: Revision) -> Result<(Revision, u64)> {
        if let Some(torn) = self.torn.take().filter(|_| first != self.last + 1) {
            return Err(torn);
        }
        let bytes = disk.read(path).map_err(file_error)?;
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
                Err(bad) if let Some(later) = records.later_append(in_segment) => {
                    return Err(damaged(path, &acknowledged(&bad, in_segment, later)));
                }
                Err(BadRecord::Torn { at }) => {
                    tracing::warn!(
                        log = %path.display(), byte = at, revision = in_segment,
                        "log ends in a torn append, which was never acknowledged"
                    );
                    // Another segment may follow only if it continues at the next revision.
                    let why = "a part of the record is missing, and the next segment does not continue there";
                    self.torn = Some(damaged(
                        path,
                        &format!("at byte {at}: {why}; `skep restore` starts from a backup"),
                    ));
                    break;
                }
                Err(bad) => return Err(damaged(path, &bad.to_string())),
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

/// Why a record that cannot be read is not the torn end of the log.
fn acknowledged(bad: &BadRecord, last: Revision, later: (usize, Revision)) -> String {
    let (byte, revision) = later;
    format!(
        "{bad}; it follows revision {last}, and was acknowledged, since revision {revision} was appended after it at byte \
         {byte}. Opening would lose both. `skep restore` starts from a backup"
    )
}
