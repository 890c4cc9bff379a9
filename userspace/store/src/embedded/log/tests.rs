//! Segments that are torn, damaged, replaced, removed and read again.

use std::sync::atomic::{AtomicBool, Ordering};

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::disk::OsDisk;
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

/// The bytes of one of [`events`], whose revision has one digit.
fn record_bytes() -> usize {
    let mut out = Vec::new();
    record::write_append(&mut out, &[event(1)]);
    out.iter().rposition(|byte| *byte != 0).unwrap() + 1
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
        Log::open(Arc::new(OsDisk), &self.tables(), checkpoint)
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
    };
    whole(&folder);
    let third = record_bytes();
    for kept in [2 * third + 1, 2 * third + record::HEADER_BYTES, 3 * third - 1] {
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
    for at in (0..3 * record_bytes()).step_by(7) {
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
    record::write_append(&mut refused, &[Event::Delete { previous: entry(2), revision: 3 }]);
    let segment = log.segment.as_mut().unwrap();
    segment.file.write_all_at(&refused, segment.length).unwrap();
    segment.dirty = true;
    log.rotate().unwrap();
    log.append(&events(3, 3)).unwrap();
    assert_eq!(folder.open(0).unwrap().1, events(1, 3));
}

#[test]
fn a_spare_segment_is_filled_from_its_start_and_ends_where_zeros_begin() {
    let folder = Folder::new();
    spare::create(&OsDisk, &folder.tables(), 100_000);
    let (mut log, _) = folder.open(0).unwrap();
    log.append(&events(1, 3)).unwrap();
    log.append(&events(4, 5)).unwrap();
    assert!(!spare::remove(&OsDisk, &folder.tables()), "the log uses it");
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
                spare::create(&OsDisk, &tables, 3 * spare::PIECE_BYTES);
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
    folder.change(1, |bytes| bytes.truncate(3 * record_bytes() - 1));
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
    let length = 3 * record_bytes();
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

/// Ten appends of one to three events each, in one or two segments, and where each append begins.
fn ten_appends(folder: &Folder, rotate_after: Option<usize>) -> Vec<(Revision, usize, Revision)> {
    let (mut log, _) = folder.open(0).unwrap();
    let (mut appends, mut first, mut segment) = (Vec::new(), 1, 1);
    for n in 0..10 {
        let last = first + (n % 3) as Revision;
        let at = log.segment.as_ref().map_or(0, |segment| segment.length);
        appends.push((segment, at as usize, first));
        log.append(&events(first, last)).unwrap();
        first = last + 1;
        if rotate_after == Some(n) {
            log.rotate().unwrap();
            segment = first;
        }
    }
    appends
}

const LAST: Revision = 19;

#[test]
fn a_zeroed_sector_before_a_later_append_is_damage_that_names_file_and_byte() {
    for rotate_after in [None, Some(4)] {
        let folder = Folder::new();
        let appends = ten_appends(&folder, rotate_after);
        let (last_segment, last_at, _) = appends[9];
        let segments: Vec<Revision> =
            segments(&OsDisk, &folder.tables()).unwrap().iter().map(|s| s.1).collect();
        for segment in segments {
            let whole = fs::read(folder.segment(segment)).unwrap();
            let end = if segment == last_segment { last_at } else { whole.len() };
            for sector in (0..end).step_by(record::SECTOR_BYTES) {
                folder.change(segment, |bytes| bytes[sector..][..record::SECTOR_BYTES].fill(0));
                let error = folder.open(0).map(|(_, found)| found.len()).unwrap_err().to_string();
                let path = folder.segment(segment).display().to_string();
                let first = appends.contains(&(segment, sector, 1));
                // Without its first record a segment is one whose revisions are missing.
                assert!(error.contains(&path) || first, "sector {sector}: {error}");
                assert!(error.contains("byte") || error.contains("missing"), "sector {sector}: {error}");
                fs::write(folder.segment(segment), &whole).unwrap();
            }
        }
        assert_eq!(folder.open(0).unwrap().1, events(1, LAST));
    }
}

/// Also one whose record ends where the next append begins.
#[test]
fn an_append_of_any_length_is_damage_once_another_follows() {
    let sized = |length: usize| {
        let entry = Entry { value: Bytes::from(vec![b'x'; length]), ..entry(1) };
        vec![Event::Put { entry, previous: None }]
    };
    for length in 400..400 + 2 * record::SECTOR_BYTES {
        let mut bytes = Vec::new();
        record::write_append(&mut bytes, &sized(length));
        let end = bytes.len();
        let mut second = Vec::new();
        record::write_append(&mut second, &events(2, 2));
        bytes.extend_from_slice(&second);
        for sector in (0..end).step_by(record::SECTOR_BYTES) {
            let mut damaged = bytes.clone();
            damaged[sector..sector + record::SECTOR_BYTES].fill(0);
            let mut records = Records::new(&damaged);
            let read = records.next().map(|record| record.map(|record| records.event(&record)));
            assert!(!matches!(read, Ok(Some(Ok(_)))), "length {length}, sector {sector}");
            assert_eq!(records.later_append(0), Some((end, 2)), "length {length}, sector {sector}");
        }
    }
}

#[test]
fn a_log_of_the_former_format_is_read() {
    let folder = Folder::new();
    ten_appends(&folder, None);
    // Without padding and marks, as it was written before.
    let mut former = Vec::new();
    for event in events(1, LAST) {
        let mut one = Vec::new();
        record::write_append(&mut one, &[event.clone(), event]);
        // The second of the two has no mark.
        let end = one.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        former.extend_from_slice(&one[end / 2..end]);
    }
    folder.change(1, |bytes| *bytes = former.clone());
    assert_eq!(folder.open(0).unwrap().1, events(1, LAST));
    folder.change(1, |bytes| bytes.truncate(former.len() - 3));
    assert_eq!(folder.open(0).unwrap().1, events(1, LAST - 1));
}

#[test]
fn only_the_owner_can_read_the_log_also_one_that_was_wider() {
    let folder = Folder::new();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    spare::create(&OsDisk, &folder.tables(), 100_000);
    let (mut log, _) = folder.open(0).unwrap();
    log.append(&events(1, 3)).unwrap();
    log.rotate().unwrap();
    log.append(&events(4, 5)).unwrap();
    drop(log);
    assert_eq!((mode(&folder.segment(1)), mode(&folder.segment(4))), (0o600, 0o600));
    fs::set_permissions(folder.segment(1), fs::Permissions::from_mode(0o644)).unwrap();
    folder.open(5).unwrap();
    assert_eq!(mode(&folder.segment(1)), 0o600);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens to the bytes before the last append, nothing is dropped: it is an error, or all is read.
    #[test]
    fn damage_never_drops_an_append_that_others_follow(
        spare: bool, sectors in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 0..2),
    ) {
        let folder = Folder::new();
        if spare {
            spare::create(&OsDisk, &folder.tables(), 60_000);
        }
        let (_, before_last, _) = ten_appends(&folder, None)[9];
        let damaged = !flips.is_empty() || !sectors.is_empty();
        folder.change(1, |bytes| {
            for sector in &sectors {
                let at = sector.index(before_last) / record::SECTOR_BYTES * record::SECTOR_BYTES;
                bytes[at..at + record::SECTOR_BYTES].fill(0);
            }
            for (at, bit) in &flips {
                bytes[at.index(before_last)] ^= 1 << bit;
            }
        });
        match folder.open(0) {
            Err(error) => prop_assert!(damaged && matches!(error, StoreError::Corrupt(_)), "{error}"),
            // A flip may hit the padding.
            Ok((_, found)) => {
                prop_assert!(sectors.is_empty());
                prop_assert_eq!(found, events(1, LAST));
            }
        }
    }

    /// A power cut leaves any of the last append's sectors unwritten: the log opens, with all before it.
    #[test]
    fn an_append_of_which_any_sectors_are_missing_is_torn(spare: bool, missing: u64, cut: Option<prop::sample::Index>) {
        let folder = Folder::new();
        if spare {
            spare::create(&OsDisk, &folder.tables(), 60_000);
        }
        let (mut log, _) = folder.open(0).unwrap();
        log.append(&events(1, 4)).unwrap();
        let begin = log.segment.as_ref().unwrap().length as usize;
        log.append(&events(5, 9)).unwrap();
        let end = log.segment.as_ref().unwrap().length as usize;
        drop(log);
        folder.change(1, |bytes| {
            for (n, at) in (begin..end).step_by(record::SECTOR_BYTES).enumerate() {
                if missing >> n & 1 == 1 {
                    bytes[at..at + record::SECTOR_BYTES].fill(0);
                }
            }
            if let Some(cut) = cut {
                bytes.truncate(begin + cut.index(end - begin));
            }
        });
        let (mut log, found) = folder.open(0).unwrap();
        let read = found.len() as Revision;
        prop_assert!((4..=9).contains(&read));
        prop_assert_eq!(found, events(1, read));
        // The log goes on, and a later start reads both.
        log.append(&events(read + 1, 12)).unwrap();
        drop(log);
        prop_assert_eq!(folder.open(0).unwrap().1, events(1, 12));
    }
}

#[test]
fn a_log_cut_at_any_byte_has_every_record_before_it() {
    let folder = Folder::new();
    ten_appends(&folder, None);
    let whole = fs::read(folder.segment(1)).unwrap();
    for cut in 0..whole.len() {
        if cut % 13 != 0 && cut % record::SECTOR_BYTES > 20 {
            continue;
        }
        fs::write(folder.segment(1), &whole[..cut]).unwrap();
        let found = folder.open(0).unwrap().1;
        assert_eq!(found, events(1, found.len() as Revision), "cut at {cut}");
    }
}
