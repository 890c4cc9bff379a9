//! The log: events that no checkpoint has yet, appended and synced before a write is answered.
//!
//! It lies beside the tables in segments that are named after their first revision. A record is its length and
//! revision, a checksum of both, and the event with its own checksum. What a crash tore is the end of the last segment
//! and was never acknowledged; anything else that does not check is damage, and told.
//!
//! A file that grows has its inode synced besides. So a segment begins as a file of zeros that a checkpoint left ready, and
//! ends where they begin.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::failure::file;
use crate::record::{decode_event, encode_event};
use crate::{Event, Result, Revision, StoreError};

/// Length and revision, big endian, and their checksum.
const HEADER: usize = 4 + 8 + 4;
/// In which a disk writes: a torn write leaves whole sectors as they were.
const SECTOR: usize = 512;
/// Written between two syncs of a spare file.
const PIECE: usize = 256 << 10;
/// Zeros in a row at a sector's end that no record has: what was never written.
const UNWRITTEN: usize = 16;

pub(super) struct Log {
    /// The tables' file.
    beside: PathBuf,
    segment: Option<Segment>,
    /// Full segments, and the last revision of each.
    old: Vec<(PathBuf, Revision)>,
    buffer: Vec<u8>,
}

struct Segment {
    path: PathBuf,
    file: File,
    /// Of the records that were synced.
    length: u64,
    last: Revision,
    /// Whether there may be something behind them.
    dirty: bool,
}

impl Log {
    /// The log beside the tables, and its events after a checkpoint's revision.
    pub(super) fn open(beside: &Path, checkpoint: Revision) -> Result<(Log, Vec<Event>)> {
        let (mut events, mut old) = (Vec::new(), Vec::new());
        let mut last = checkpoint;
        let mut torn = None;
        let segments = segments(beside)?;
        let nexts = segments.iter().skip(1).map(|(_, first)| Some(*first)).chain([None]);
        for ((path, first), next) in segments.iter().cloned().zip(nexts) {
            if let Some(next) = next.filter(|next| *next <= checkpoint + 1) {
                // The checkpoint has all of it; it was only not removed any more.
                old.push((path, next.saturating_sub(1)));
                continue;
            }
            if let Some(torn) = torn.take().filter(|_| first != last + 1) {
                return Err(torn);
            }
            let bytes = fs::read(&path).map_err(file)?;
            let mut reader = Reader { bytes: &bytes, at: 0 };
            let mut in_segment = first.saturating_sub(1);
            let end = loop {
                match reader.next() {
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
                    Err(End::Damaged) => {
                        break Err(format!("the record at byte {} does not check", reader.at));
                    }
                }
            };
            end.map_err(|why| damaged(&path, &why))?;
            old.push((path, in_segment));
        }
        Ok((Log { beside: beside.to_owned(), segment: None, old, buffer: Vec::new() }, events))
    }

    /// Durable when it returns; after an error nothing of it is kept.
    pub(super) fn append(&mut self, events: &[Event]) -> Result<()> {
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return Ok(()) };
        self.buffer.clear();
        for event in events {
            write_record(&mut self.buffer, event);
        }
        let mut segment = match self.segment.take() {
            Some(segment) => segment,
            None => {
                let segment = create(&self.beside, first.revision())?;
                // It took the place of one without a whole record.
                self.old.retain(|(path, _)| *path != segment.path);
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
    pub(super) fn rotate(&mut self) {
        let Some(mut segment) = self.segment.take() else { return };
        // What was refused must not be read before what was written in its place.
        if segment.dirty && segment.cut().is_err() {
            self.segment = Some(segment);
            return;
        }
        self.old.push((segment.path, segment.last));
    }

    /// Removes the segments that a checkpoint covers.
    pub(super) fn forget(&mut self, checkpoint: Revision) {
        self.old.retain(|(path, last)| {
            *last > checkpoint
                || fs::remove_file(path)
                    .inspect_err(
                        |error| tracing::warn!(%error, log = %path.display(), "remove a part of the log"),
                    )
                    .is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
        });
    }
}

impl Segment {
    fn append(&mut self, bytes: &[u8], last: Revision) -> Result<()> {
        if self.dirty {
            self.cut()?;
        }
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
                if let Err(error) = self.cut() {
                    tracing::error!(%error, log = %self.path.display(), "take back what was not written whole");
                }
                Err(file(error))
            }
        }
    }

    fn cut(&mut self) -> Result<()> {
        self.file.set_len(self.length).and_then(|()| self.file.sync_data()).map_err(file)?;
        self.dirty = false;
        Ok(())
    }
}

fn create(beside: &Path, first: Revision) -> Result<Segment> {
    let path = PathBuf::from(segment_name(beside, &format!("{first:020}")));
    // Of the same name can only be one whose first record was torn.
    if fs::rename(spare_name(beside), &path).is_err() {
        fs::write(&path, []).map_err(file)?;
    }
    let opened = File::options().write(true).open(&path).map_err(file)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(file)?;
    Ok(Segment { path, file: opened, length: 0, last: first - 1, dirty: false })
}

fn spare_name(beside: &Path) -> OsString {
    segment_name(beside, "spare")
}

/// Leaves a file of zeros ready for the next segment, unless the disk has no room for it.
pub(super) fn leave_spare(beside: &Path, bytes: usize) {
    // It has its name once it is whole: the log may take it at any time.
    let unfinished = segment_name(beside, "unfinished");
    let write = || {
        let mut spare = File::create(&unfinished)?;
        let zeros = vec![0; PIECE];
        for from in (0..bytes).step_by(PIECE) {
            spare.write_all(&zeros[..PIECE.min(bytes - from)])?;
            spare.sync_all()?;
        }
        fs::rename(&unfinished, spare_name(beside))
    };
    if let Err(error) = write() {
        tracing::debug!(%error, "no spare part of the log");
        let _ = fs::remove_file(&unfinished);
    }
}

/// Whether there was one.
pub(super) fn remove_spare(beside: &Path) -> bool {
    fs::remove_file(spare_name(beside)).is_ok()
}

fn segment_name(beside: &Path, suffix: &str) -> OsString {
    let mut name = beside.as_os_str().to_owned();
    name.push(".log-");
    name.push(suffix);
    name
}

/// The segments beside the tables and their first revisions, in order.
fn segments(beside: &Path) -> Result<Vec<(PathBuf, Revision)>> {
    let folder = beside.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
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

fn write_record(out: &mut Vec<u8>, event: &Event) {
    let body = encode_event(event);
    let at = out.len();
    // An event is bounded by what a request may hold, far below this type's end.
    out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&event.revision().to_be_bytes());
    let sum = crc32fast::hash(&out[at..]);
    out.extend_from_slice(&sum.to_be_bytes());
    out.extend_from_slice(&body);
}

struct Reader<'a> {
    bytes: &'a [u8],
    /// Where the next record begins.
    at: usize,
}

/// Why there is no record.
enum End {
    Torn,
    Damaged,
}

impl Reader<'_> {
    /// The next event; `None` at a clean end.
    fn next(&mut self) -> Result<Option<Event>, End> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        if self.bytes[self.at..].iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = self.whole(self.at, HEADER)?;
        let number = |from: usize, to: usize| {
            header[from..to].iter().fold(0u64, |all, byte| all << 8 | u64::from(*byte))
        };
        if u64::from(crc32fast::hash(&header[..12])) != number(12, 16) {
            return Err(self.torn_or_damaged(self.at, HEADER));
        }
        let (length, revision) = (number(0, 4) as usize, number(4, 12));
        let body = self.whole(self.at + HEADER, length)?;
        let event =
            decode_event(revision, body).map_err(|_| self.torn_or_damaged(self.at, HEADER + length))?;
        self.at += HEADER + length;
        Ok(Some(event))
    }

    fn whole(&self, from: usize, length: usize) -> Result<&[u8], End> {
        self.bytes.get(from..from + length).ok_or(End::Torn)
    }

    /// A record that does not check is torn if a part of it was never written, as etcd tells it too.
    fn torn_or_damaged(&self, from: usize, length: usize) -> End {
        let (mut at, end) = (from, (from + length).min(self.bytes.len()));
        while at < end {
            let next = end.min((at / SECTOR + 1) * SECTOR);
            if next - at >= UNWRITTEN && self.bytes[at..next].iter().all(|byte| *byte == 0) {
                return End::Torn;
            }
            at = next;
        }
        End::Damaged
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use bytes::Bytes;

    use super::*;
    use crate::Entry;

    fn entry(revision: Revision) -> Entry {
        let value = Bytes::from(format!("value {revision} ").repeat(100));
        Entry { key: format!("/k/{revision}").into(), value, created: revision, modified: revision }
    }

    fn event(revision: Revision) -> Event {
        Event::Put { entry: entry(revision), previous: None }
    }

    fn events(from: Revision, to: Revision) -> Vec<Event> {
        (from..=to).map(event).collect()
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Folder {
            Folder(tempfile::tempdir().unwrap())
        }

        fn beside(&self) -> PathBuf {
            self.0.path().join("store")
        }

        fn open(&self, checkpoint: Revision) -> Result<(Log, Vec<Event>)> {
            Log::open(&self.beside(), checkpoint)
        }

        fn segment(&self, first: Revision) -> PathBuf {
            segment_name(&self.beside(), &format!("{first:020}")).into()
        }

        fn change(&self, first: Revision, change: impl FnOnce(&mut Vec<u8>)) {
            let mut bytes = fs::read(self.segment(first)).unwrap();
            change(&mut bytes);
            fs::write(self.segment(first), bytes).unwrap();
        }
    }

    #[test]
    fn what_was_appended_is_read_from_any_checkpoint_on() {
        let folder = Folder::new();
        let (mut log, found) = folder.open(4).unwrap();
        assert!(found.is_empty());
        log.append(&events(5, 6)).unwrap();
        log.append(&events(7, 7)).unwrap();
        log.rotate();
        log.append(&events(8, 9)).unwrap();
        drop(log);
        for checkpoint in 4..=9 {
            assert_eq!(folder.open(checkpoint).unwrap().1, events(checkpoint + 1, 9));
        }
        assert!(
            matches!(folder.open(3), Err(StoreError::Corrupt(why)) if why.contains("4 to 4 are missing"))
        );
        // What a checkpoint has is not looked at.
        folder.change(5, |bytes| bytes[20] ^= 1);
        let (mut log, _) = folder.open(7).unwrap();
        log.forget(7);
        assert!(!folder.segment(5).exists() && folder.segment(8).exists());
        log.append(&events(10, 10)).unwrap();
        drop(log);
        assert_eq!(folder.open(7).unwrap().1, events(8, 10));
    }

    #[test]
    fn a_torn_end_is_cut_and_the_log_goes_on_behind_it() {
        let folder = Folder::new();
        let whole = |folder: &Folder| {
            let (mut log, _) = folder.open(0).unwrap();
            log.append(&events(1, 3)).unwrap();
            fs::read(folder.segment(1)).unwrap().len()
        };
        let length = whole(&folder);
        let third = length / 3;
        for kept in [2 * third + 1, 2 * third + HEADER, length - 1] {
            let folder = Folder::new();
            whole(&folder);
            folder.change(1, |bytes| bytes.truncate(kept));
            let (mut log, found) = folder.open(0).unwrap();
            assert_eq!(found, events(1, 2));
            log.append(&events(3, 4)).unwrap();
            drop(log);
            assert_eq!(folder.open(0).unwrap().1, events(1, 4));
        }
        // A sector that never came, with the file's new length.
        folder.change(1, |bytes| bytes[(2 * third / SECTOR + 1) * SECTOR..][..SECTOR].fill(0));
        assert_eq!(folder.open(0).unwrap().1, events(1, 2));
    }

    #[test]
    fn an_altered_byte_is_told_wherever_it_is() {
        let folder = Folder::new();
        let (mut log, _) = folder.open(0).unwrap();
        log.append(&events(1, 3)).unwrap();
        let length = fs::read(folder.segment(1)).unwrap().len();
        for at in (0..length).step_by(7) {
            folder.change(1, |bytes| bytes[at] ^= 4);
            assert!(matches!(folder.open(0), Err(StoreError::Corrupt(_))), "byte {at}");
            folder.change(1, |bytes| bytes[at] ^= 4);
        }
        assert_eq!(folder.open(0).unwrap().1, events(1, 3));
    }

    #[test]
    fn a_segment_in_the_place_of_a_torn_one_is_not_forgotten_with_it() {
        let folder = Folder::new();
        folder.open(0).unwrap().0.append(&events(1, 1)).unwrap();
        folder.change(1, |bytes| bytes.truncate(HEADER + 1));
        let (mut log, found) = folder.open(0).unwrap();
        assert!(found.is_empty());
        log.append(&events(1, 2)).unwrap();
        log.forget(0);
        assert_eq!(folder.open(0).unwrap().1, events(1, 2));
    }

    #[test]
    fn a_refused_write_is_not_read_before_what_took_its_place() {
        let folder = Folder::new();
        let (mut log, _) = folder.open(0).unwrap();
        log.append(&events(1, 2)).unwrap();
        // As after a sync that failed, and a cut that failed too.
        let mut refused = Vec::new();
        write_record(&mut refused, &Event::Delete { previous: entry(2), revision: 3 });
        let segment = log.segment.as_mut().unwrap();
        segment.file.write_all_at(&refused, segment.length).unwrap();
        segment.dirty = true;
        log.rotate();
        log.append(&events(3, 3)).unwrap();
        assert_eq!(folder.open(0).unwrap().1, events(1, 3));
    }

    #[test]
    fn a_segment_of_zeros_is_filled_from_its_beginning_and_ends_where_they_do() {
        let folder = Folder::new();
        leave_spare(&folder.beside(), 100_000);
        let (mut log, _) = folder.open(0).unwrap();
        log.append(&events(1, 3)).unwrap();
        log.append(&events(4, 5)).unwrap();
        assert!(!remove_spare(&folder.beside()), "it was taken");
        let bytes = fs::read(folder.segment(1)).unwrap();
        assert_eq!(bytes.len(), 100_000);
        let length = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        assert_eq!(folder.open(0).unwrap().1, events(1, 5));
        for at in (0..length).step_by(7) {
            folder.change(1, |bytes| bytes[at] ^= 4);
            assert!(matches!(folder.open(0), Err(StoreError::Corrupt(_))), "byte {at}");
            folder.change(1, |bytes| bytes[at] ^= 4);
        }
        // The last write came to the disk in part only.
        let from = (length / SECTOR) * SECTOR;
        folder.change(1, |bytes| bytes[from..].fill(0));
        assert_eq!(folder.open(0).unwrap().1, events(1, 4));
        drop(log);
        let (mut log, _) = folder.open(0).unwrap();
        log.append(&events(5, 6)).unwrap();
        assert_eq!(folder.open(0).unwrap().1, events(1, 6));
    }

    #[test]
    fn a_spare_file_is_never_taken_before_it_is_whole() {
        let folder = Folder::new();
        let (mut log, _) = folder.open(0).unwrap();
        let beside = folder.beside();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    leave_spare(&beside, 3 * PIECE);
                }
            });
            for revision in 1..=100 {
                log.append(&events(revision, revision)).unwrap();
                log.rotate();
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(folder.open(0).unwrap().1, events(1, 100));
    }

    #[test]
    fn a_segment_that_is_gone_is_told() {
        let folder = Folder::new();
        let (mut log, _) = folder.open(0).unwrap();
        for first in [1, 4, 7] {
            log.append(&events(first, first + 2)).unwrap();
            log.rotate();
        }
        fs::remove_file(folder.segment(4)).unwrap();
        assert!(
            matches!(folder.open(0), Err(StoreError::Corrupt(why)) if why.contains("4 to 6 are missing"))
        );
    }
}
