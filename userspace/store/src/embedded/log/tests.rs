//! Segments that are torn, damaged, replaced, removed and read again.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::files::segment_path;
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

    fn tables(&self) -> PathBuf {
        self.0.path().join("store")
    }

    fn open(&self, checkpoint: Revision) -> Result<(Log, Vec<Event>)> {
        Log::open(&self.tables(), checkpoint)
    }

    fn segment(&self, first: Revision) -> PathBuf {
        segment_path(&self.tables(), first)
    }

    fn change(&self, first: Revision, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.segment(first)).unwrap();
        change(&mut bytes);
        fs::write(self.segment(first), bytes).unwrap();
    }
}

#[test]
fn appended_events_are_read_after_any_checkpoint() {
    let folder = Folder::new();
    let (mut log, found) = folder.open(4).unwrap();
    assert!(found.is_empty());
    log.append(&events(5, 6)).unwrap();
    log.append(&events(7, 7)).unwrap();
    log.rotate().unwrap();
    log.append(&events(8, 9)).unwrap();
    drop(log);
    for checkpoint in 4..=9 {
        assert_eq!(folder.open(checkpoint).unwrap().1, events(checkpoint + 1, 9));
    }
    assert!(matches!(folder.open(3), Err(StoreError::Corrupt(why)) if why.contains("4 to 4 are missing")));
    // Segments that a checkpoint has are not read.
    folder.change(5, |bytes| bytes[20] ^= 1);
    let (mut log, _) = folder.open(7).unwrap();
    log.remove_until(7);
    assert!(!folder.segment(5).exists() && folder.segment(8).exists());
    log.append(&events(10, 10)).unwrap();
    drop(log);
    assert_eq!(folder.open(7).unwrap().1, events(8, 10));
}

#[test]
fn a_torn_end_is_ignored_and_the_log_continues() {
    let folder = Folder::new();
    let whole = |folder: &Folder| {
        let (mut log, _) = folder.open(0).unwrap();
        log.append(&events(1, 3)).unwrap();
        fs::read(folder.segment(1)).unwrap().len()
    };
    let length = whole(&folder);
    let third = length / 3;
    for kept in [2 * third + 1, 2 * third + record::HEADER_BYTES, length - 1] {
        let folder = Folder::new();
        whole(&folder);
        folder.change(1, |bytes| bytes.truncate(kept));
        let (mut log, found) = folder.open(0).unwrap();
        assert_eq!(found, events(1, 2));
        log.append(&events(3, 4)).unwrap();
        drop(log);
        assert_eq!(folder.open(0).unwrap().1, events(1, 4));
    }
    // A sector that was never written, in a file that has its new length.
    folder.change(1, |bytes| {
        bytes[(2 * third / record::SECTOR_BYTES + 1) * record::SECTOR_BYTES..][..record::SECTOR_BYTES].fill(0)
    });
    assert_eq!(folder.open(0).unwrap().1, events(1, 2));
}

#[test]
fn any_altered_byte_is_an_error() {
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
fn a_segment_that_replaces_a_torn_one_is_not_removed_with_it() {
    let folder = Folder::new();
    folder.open(0).unwrap().0.append(&events(1, 1)).unwrap();
    folder.change(1, |bytes| bytes.truncate(record::HEADER_BYTES + 1));
    let (mut log, found) = folder.open(0).unwrap();
    assert!(found.is_empty());
    log.append(&events(1, 2)).unwrap();
    log.remove_until(0);
    assert_eq!(folder.open(0).unwrap().1, events(1, 2));
}

#[test]
fn a_refused_write_is_not_read_instead_of_its_successor() {
    let folder = Folder::new();
    let (mut log, _) = folder.open(0).unwrap();
    log.append(&events(1, 2)).unwrap();
    // As after a failed sync and a failed truncation.
    let mut refused = Vec::new();
    record::write(&mut refused, &Event::Delete { previous: entry(2), revision: 3 });
    let segment = log.segment.as_mut().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&segment.file, &refused, segment.length).unwrap();
    segment.dirty = true;
    log.rotate().unwrap();
    log.append(&events(3, 3)).unwrap();
    assert_eq!(folder.open(0).unwrap().1, events(1, 3));
}

#[test]
fn a_spare_segment_is_filled_from_its_start_and_ends_where_zeros_begin() {
    let folder = Folder::new();
    spare::create(&folder.tables(), 100_000);
    let (mut log, _) = folder.open(0).unwrap();
    log.append(&events(1, 3)).unwrap();
    log.append(&events(4, 5)).unwrap();
    assert!(!spare::remove(&folder.tables()), "the log uses it");
    let bytes = fs::read(folder.segment(1)).unwrap();
    assert_eq!(bytes.len(), 100_000);
    let length = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    assert_eq!(folder.open(0).unwrap().1, events(1, 5));
    for at in (0..length).step_by(7) {
        folder.change(1, |bytes| bytes[at] ^= 4);
        assert!(matches!(folder.open(0), Err(StoreError::Corrupt(_))), "byte {at}");
        folder.change(1, |bytes| bytes[at] ^= 4);
    }
    // Only a part of the last write reached the disk.
    let from = (length / record::SECTOR_BYTES) * record::SECTOR_BYTES;
    folder.change(1, |bytes| bytes[from..].fill(0));
    assert_eq!(folder.open(0).unwrap().1, events(1, 4));
    drop(log);
    let (mut log, _) = folder.open(0).unwrap();
    log.append(&events(5, 6)).unwrap();
    assert_eq!(folder.open(0).unwrap().1, events(1, 6));
}

#[test]
fn a_spare_segment_is_not_used_before_it_is_complete() {
    let folder = Folder::new();
    let (mut log, _) = folder.open(0).unwrap();
    let tables = folder.tables();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                spare::create(&tables, 3 * spare::PIECE_BYTES);
            }
        });
        for revision in 1..=100 {
            log.append(&events(revision, revision)).unwrap();
            log.rotate().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(folder.open(0).unwrap().1, events(1, 100));
}

#[test]
fn a_missing_segment_is_an_error() {
    let folder = Folder::new();
    let (mut log, _) = folder.open(0).unwrap();
    for first in [1, 4, 7] {
        log.append(&events(first, first + 2)).unwrap();
        log.rotate().unwrap();
    }
    fs::remove_file(folder.segment(4)).unwrap();
    assert!(matches!(folder.open(0), Err(StoreError::Corrupt(why)) if why.contains("4 to 6 are missing")));
}

/// All events after a revision, chunk by chunk.
fn read(log: &Log, after: Revision, until: Revision, prefix: &str) -> Result<Vec<Event>> {
    let (mut found, mut from) = (Vec::new(), after);
    while from < until {
        let chunk = log.history.read(from, until, prefix)?;
        assert!(chunk.until > from && chunk.until <= until);
        found.extend(chunk.events);
        from = chunk.until;
    }
    Ok(found)
}

/// Three complete segments of three events each, from revision 1; the last one ends in zeros.
fn nine(folder: &Folder) -> Log {
    let (mut log, _) = folder.open(0).unwrap();
    for first in [1, 4, 7] {
        log.append(&events(first, first + 2)).unwrap();
        log.rotate().unwrap();
    }
    folder.change(7, |bytes| bytes.resize(bytes.len() + 1_000, 0));
    log
}

#[test]
fn history_is_read_between_any_revisions_also_after_a_restart() {
    let folder = Folder::new();
    let log = nine(&folder);
    let started = folder.open(9).unwrap().0;
    for log in [log, started] {
        for after in 0..9 {
            for until in after + 1..=9 {
                assert_eq!(read(&log, after, until, "/k/").unwrap(), events(after + 1, until));
            }
            assert_eq!(read(&log, after, 9, "/k/5").unwrap(), events(after.max(4) + 1, 5));
        }
        assert_eq!(read(&log, 0, 9, "/other").unwrap(), []);
    }
}

#[test]
fn history_continues_after_a_torn_end() {
    let folder = Folder::new();
    let (mut log, _) = folder.open(0).unwrap();
    log.append(&events(1, 3)).unwrap();
    folder.change(1, |bytes| bytes.truncate(bytes.len() - 1));
    let (mut log, _) = folder.open(0).unwrap();
    log.append(&events(3, 5)).unwrap();
    log.rotate().unwrap();
    let started = folder.open(5).unwrap().0;
    for log in [log, started] {
        assert_eq!(read(&log, 0, 5, "").unwrap(), events(1, 5));
    }
}

#[test]
fn history_is_removed_in_whole_segments_and_then_reported_as_compacted() {
    let folder = Folder::new();
    let log = nine(&folder);
    let whole = log.bytes();
    log.remove_until(5);
    assert!(!folder.segment(1).exists() && folder.segment(4).exists());
    assert_eq!((log.complete_after(), log.bytes()), (Some(3), whole * 2 / 3));
    assert_eq!(read(&log, 3, 9, "").unwrap(), events(4, 9));
    assert!(matches!(read(&log, 2, 9, ""), Err(StoreError::Compacted { oldest: 3 })));
    assert_eq!(folder.open(9).unwrap().0.complete_after(), Some(3));
}

#[test]
fn altered_or_lost_history_is_an_error_when_it_is_read() {
    let folder = Folder::new();
    nine(&folder);
    let log = folder.open(9).unwrap().0;
    let length = fs::read(folder.segment(4)).unwrap().len();
    for at in (0..length).step_by(7) {
        folder.change(4, |bytes| bytes[at] ^= 4);
        assert!(matches!(read(&log, 0, 9, "/k/"), Err(StoreError::Corrupt(_))), "byte {at}");
        folder.change(4, |bytes| bytes[at] ^= 4);
    }
    assert_eq!(read(&log, 0, 9, "").unwrap(), events(1, 9));
    folder.change(4, |bytes| bytes.truncate(length * 2 / 3));
    let lost = read(&log, 0, 9, "");
    assert!(matches!(&lost, Err(StoreError::Corrupt(why)) if why.contains("6 to 6 are missing")), "{lost:?}");
    fs::remove_file(folder.segment(4)).unwrap();
    assert!(matches!(read(&log, 0, 9, ""), Err(StoreError::Corrupt(_))));
}
