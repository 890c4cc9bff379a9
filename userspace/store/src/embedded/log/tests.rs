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
    log.rotate().unwrap();
    log.append(&events(8, 9)).unwrap();
    drop(log);
    for checkpoint in 4..=9 {
        assert_eq!(folder.open(checkpoint).unwrap().1, events(checkpoint + 1, 9));
    }
    assert!(matches!(folder.open(3), Err(StoreError::Corrupt(why)) if why.contains("4 to 4 are missing")));
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
    for kept in [2 * third + 1, 2 * third + record::HEADER, length - 1] {
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
    folder.change(1, |bytes| {
        bytes[(2 * third / record::SECTOR + 1) * record::SECTOR..][..record::SECTOR].fill(0)
    });
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
    folder.change(1, |bytes| bytes.truncate(record::HEADER + 1));
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
    record::write(&mut refused, &Event::Delete { previous: entry(2), revision: 3 });
    let segment = log.segment.as_mut().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&segment.file, &refused, segment.length).unwrap();
    segment.dirty = true;
    log.rotate().unwrap();
    log.append(&events(3, 3)).unwrap();
    assert_eq!(folder.open(0).unwrap().1, events(1, 3));
}

#[test]
fn a_segment_of_zeros_is_filled_from_its_beginning_and_ends_where_they_do() {
    let folder = Folder::new();
    spare::leave(&folder.beside(), 100_000);
    let (mut log, _) = folder.open(0).unwrap();
    log.append(&events(1, 3)).unwrap();
    log.append(&events(4, 5)).unwrap();
    assert!(!spare::remove(&folder.beside()), "it was taken");
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
    let from = (length / record::SECTOR) * record::SECTOR;
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
                spare::leave(&beside, 3 * spare::PIECE);
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
fn a_segment_that_is_gone_is_told() {
    let folder = Folder::new();
    let (mut log, _) = folder.open(0).unwrap();
    for first in [1, 4, 7] {
        log.append(&events(first, first + 2)).unwrap();
        log.rotate().unwrap();
    }
    fs::remove_file(folder.segment(4)).unwrap();
    assert!(matches!(folder.open(0), Err(StoreError::Corrupt(why)) if why.contains("4 to 6 are missing")));
}

/// All events after a revision, piece by piece.
fn read(log: &Log, after: Revision, until: Revision, prefix: &str) -> Result<Vec<Event>> {
    let (mut found, mut from) = (Vec::new(), after);
    while from < until {
        let part = log.history.read(from, until, prefix)?;
        assert!(part.until > from && part.until <= until);
        found.extend(part.events);
        from = part.until;
    }
    Ok(found)
}

/// Three segments of three events from 1 on, none of them written any more, the third with room behind them.
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
fn the_past_is_read_from_any_revision_to_any_other_also_after_a_start() {
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
fn the_past_goes_on_behind_a_torn_end() {
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
fn what_is_forgotten_is_gone_in_whole_segments_and_is_told_as_compacted() {
    let folder = Folder::new();
    let log = nine(&folder);
    let whole = log.bytes();
    log.forget(5);
    assert!(!folder.segment(1).exists() && folder.segment(4).exists());
    assert_eq!((log.complete_after(), log.bytes()), (Some(3), whole * 2 / 3));
    assert_eq!(read(&log, 3, 9, "").unwrap(), events(4, 9));
    assert!(matches!(read(&log, 2, 9, ""), Err(StoreError::Compacted { oldest: 3 })));
    assert_eq!(folder.open(9).unwrap().0.complete_after(), Some(3));
}

#[test]
fn a_past_that_was_altered_or_lost_is_told_when_it_is_read() {
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
