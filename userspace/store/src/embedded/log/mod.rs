//! The log: events, appended and synced before a write is answered, and kept until they are compacted.
//!
//! What a checkpoint does not have yet is read from it at the next start; what one has is the history that reads in the
//! past and late watches go back to. It lies beside the tables in segments that are named after their first revision. What
//! a crash tore is the end of the last segment and was never acknowledged; anything else that does not check is damage,
//! and told.

mod history;
mod record;
mod segment;
pub(super) mod spare;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::history::Closed;
pub(super) use self::history::{History, Part};
use self::record::{End, Reader};
use self::segment::Segment;
use super::failure::file;
use crate::{Event, Result, Revision, StoreError};

pub(super) struct Log {
    /// The tables' file.
    beside: PathBuf,
    segment: Option<Segment>,
    history: Arc<History>,
    buffer: Vec<u8>,
}

impl Log {
    /// The log beside the tables, and its events after a checkpoint's revision.
    pub(super) fn open(beside: &Path, checkpoint: Revision) -> Result<(Log, Vec<Event>)> {
        let (mut events, history) = (Vec::new(), History::default());
        let mut last = checkpoint;
        let mut torn = None;
        let segments = segments(beside)?;
        let nexts = segments.iter().skip(1).map(|(_, first)| Some(*first)).chain([None]);
        for ((path, first), next) in segments.iter().cloned().zip(nexts) {
            if let Some(next) = next.filter(|next| *next <= checkpoint + 1) {
                // The checkpoint has all of it. It is looked at when somebody reads it.
                let bytes = fs::metadata(&path).map_err(file)?.len();
                history.push(Closed { path, first, last: next.saturating_sub(1), bytes });
                continue;
            }
            if let Some(torn) = torn.take().filter(|_| first != last + 1) {
                return Err(torn);
            }
            let bytes = fs::read(&path).map_err(file)?;
            let mut reader = Reader::new(&bytes);
            let mut in_segment = first.saturating_sub(1);
            let end = loop {
                let next =
                    reader.next().and_then(|record| record.map(|record| reader.event(&record)).transpose());
                match next {
                    Ok(Some(event)) if event.revision() != in_segment + 1 => {
                        break Err("the records are not in order".to_owned());
                    }
                    Ok(Some(event)) => {
                        in_segment = event.revision();
                        if in_segment == last + 1 {
                            last = in_segment;
                            events.push(event);
                        } else if in_segment > last {
                            break Err(format!("revisions {} to {} are missing", last + 1, in_segment - 1));
                        }
                    }
                    Ok(None) => break Ok(()),
                    Err(End::Torn) => {
                        tracing::warn!(log = %path.display(), revision = in_segment, "the log ends in a torn record");
                        // Another segment may follow only if nothing that counts was lost.
                        torn = Some(damaged(
                            &path,
                            "a record is torn, and a later segment does not go on there",
                        ));
                        break Ok(());
                    }
                    Err(End::Damaged(why)) => break Err(why),
                }
            };
            end.map_err(|why| damaged(&path, &why))?;
            history.push(Closed { path, first, last: in_segment, bytes: bytes.len() as u64 });
        }
        let log =
            Log { beside: beside.to_owned(), segment: None, history: Arc::new(history), buffer: Vec::new() };
        Ok((log, events))
    }

    /// The segments that are no longer written.
    pub(super) fn history(&self) -> Arc<History> {
        self.history.clone()
    }

    /// Every event after this revision is there; `None`: there is no log at all.
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
                let segment = Segment::create(&self.beside, first.revision())?;
                self.history.replaced(&segment.path);
                segment
            }
        };
        let written = segment.append(&self.buffer, last.revision());
        if written.is_err() && segment.length == 0 {
            // Nothing was ever in it.
            let _ = fs::remove_file(&segment.path);
        } else {
            self.segment = Some(segment);
        }
        self.buffer.shrink_to(1 << 20);
        written
    }

    /// The next event begins a new segment.
    pub(super) fn rotate(&mut self) -> Result<()> {
        if let Some(segment) = &mut self.segment {
            segment.clean()?;
        }
        if let Some(Segment { path, first, last, length, file, .. }) = self.segment.take() {
            // Zeros behind the records are as good an end, and take room.
            let _ = file.set_len(length);
            self.history.push(Closed { path, first, last, bytes: length });
        }
        Ok(())
    }

    /// Removes the segments that end before a revision: one that a checkpoint has, and that was compacted.
    pub(super) fn forget(&self, before: Revision) {
        self.history.forget(before);
    }
}

fn segment_name(beside: &Path, suffix: &str) -> OsString {
    let mut name = beside.as_os_str().to_owned();
    name.push(".log-");
    name.push(suffix);
    name
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The segments beside the tables and their first revisions, in order.
fn segments(beside: &Path) -> Result<Vec<(PathBuf, Revision)>> {
    let folder = folder(beside);
    let prefix = segment_name(beside, "");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(file)? {
        let path = folder.join(entry.map_err(file)?.file_name());
        let name = path.as_os_str().to_string_lossy();
        let first = name.strip_prefix(&*prefix.to_string_lossy()).and_then(|first| first.parse().ok());
        if let Some(first) = first {
            found.push((path.clone(), first));
        }
    }
    found.sort_by_key(|(_, first)| *first);
    Ok(found)
}

fn damaged(path: &Path, why: &str) -> StoreError {
    StoreError::Corrupt(format!("the log {}: {why}", path.display()))
}
