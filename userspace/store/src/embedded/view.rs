//! The store as of one commit, for readers.
//!
//! In: the tables as of the last checkpoint, the memtable, the log's history. Out: entries, ranges and events. The present
//! is the tables with the memtable applied; the past is the tables with history undone.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use redb::{AccessGuard, Database, ReadOnlyTable, ReadableDatabase, ReadableTable};

use super::failure::database_error;
use super::format::{COMPACTED, CURRENT, META, OBJECTS};
use super::log::{Chunk, History};
use super::memtable::Memtable;
use crate::record::decode_entry;
use crate::state::{Revisions, undo};
use crate::{Entry, Range, Result, Revision, StoreError};

/// The tables as of a checkpoint.
pub(super) struct Snapshot {
    objects: ReadOnlyTable<&'static str, &'static [u8]>,
    pub(super) revisions: Revisions,
    /// How often the database was opened; a reader that finds it broken names this number.
    pub(super) generation: u64,
}

impl Snapshot {
    pub(super) fn open(database: &Database, generation: u64) -> Result<Snapshot> {
        let read = database.begin_read().map_err(database_error)?;
        let meta = read.open_table(META).map_err(database_error)?;
        let number = |key| Ok(meta.get(key).map_err(database_error)?.map_or(0, |found| found.value()));
        Ok(Snapshot {
            objects: read.open_table(OBJECTS).map_err(database_error)?,
            revisions: Revisions { current: number(CURRENT)?, compacted: number(COMPACTED)? },
            generation,
        })
    }

    fn get(&self, key: &str) -> Result<Option<Entry>> {
        let found = self.objects.get(key).map_err(database_error)?;
        found.map(|found| decode_entry(key, found.value())).transpose()
    }
}

/// Everything up to one revision.
pub(super) struct View {
    pub(super) snapshot: Arc<Snapshot>,
    /// May hold events after `revisions.current`; those are not committed yet.
    pub(super) memtable: Arc<Memtable>,
    /// Events before the checkpoint.
    pub(super) history: Arc<History>,
    pub(super) revisions: Revisions,
}

impl View {
    /// A key's newest state, uncommitted writes included; for the writer only.
    pub(super) fn newest(&self, key: &str) -> Result<Option<Entry>> {
        match self.memtable.get(key, Revision::MAX) {
            Some(written) => Ok(written),
            None => self.snapshot.get(key),
        }
    }

    pub(super) fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<Entry>, Revision)> {
        let revision = self.revisions.resolve(at)?;
        match self.differing(revision, key)?.remove(key) {
            Some(entry) => Ok((entry, revision)),
            None => Ok((self.snapshot.get(key)?, revision)),
        }
    }

    pub(super) fn range(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Range> {
        let revision = self.revisions.resolve(at)?;
        let mut page = Range { entries: Vec::new(), revision, more: false };
        for row in self.rows(prefix, start_after, revision)? {
            if limit != 0 && page.entries.len() == limit {
                page.more = true;
                break;
            }
            page.entries.push(row?.entry()?);
        }
        Ok(page)
    }

    pub(super) fn count(&self, prefix: &str, start_after: Option<&str>, at: Option<Revision>) -> Result<u64> {
        let mut count = 0;
        for row in self.rows(prefix, start_after, self.revisions.resolve(at)?)? {
            row?;
            count += 1;
        }
        Ok(count)
    }

    /// The rows of a range at a revision, in key order.
    fn rows<'a>(
        &self,
        prefix: &'a str,
        start_after: Option<&str>,
        revision: Revision,
    ) -> Result<impl Iterator<Item = Result<Row>> + use<'a>> {
        let mut changed = self.differing(revision, prefix)?;
        let start = match start_after {
            Some(key) if key >= prefix => {
                changed.retain(|other, _| &**other > key);
                Bound::Excluded(key)
            }
            _ => Bound::Included(prefix),
        };
        let mut rows =
            self.snapshot.objects.range::<&str>((start, Bound::Unbounded)).map_err(database_error)?;
        let current = std::iter::from_fn(move || match rows.next()? {
            Ok((key, value)) => key.value().starts_with(prefix).then(|| Ok(Row::InTables(key, value))),
            Err(error) => Some(Err(database_error(error))),
        });
        Ok(merge(current, changed))
    }

    /// Keys with `prefix` whose state at a revision differs from the tables, with that state.
    fn differing(&self, revision: Revision, prefix: &str) -> Result<BTreeMap<Arc<str>, Option<Entry>>> {
        if revision < self.snapshot.revisions.current {
            self.undone(revision, prefix)
        } else {
            Ok(self.memtable.range(prefix, revision))
        }
    }

    /// Keys with `prefix` that were written between `revision` and the checkpoint, with their state at `revision`.
    fn undone(&self, revision: Revision, prefix: &str) -> Result<BTreeMap<Arc<str>, Option<Entry>>> {
        let mut before = BTreeMap::new();
        let mut from = revision;
        while from < self.snapshot.revisions.current {
            let chunk = self.events(from, prefix)?;
            from = chunk.until;
            for (key, entry) in undo(chunk.events) {
                before.entry(key).or_insert(entry);
            }
        }
        Ok(before)
    }

    /// The next events of keys with `prefix` after a revision, one chunk of them.
    pub(super) fn events(&self, after: Revision, prefix: &str) -> Result<Chunk> {
        let checkpoint = self.snapshot.revisions.current;
        if after < checkpoint {
            return self.history.read(after, checkpoint, prefix);
        }
        let mut events = self.memtable.events(after, self.revisions.current);
        events.retain(|event| event.key().starts_with(prefix));
        Ok(Chunk { events, until: self.revisions.current })
    }

    /// Reads every record of the tables and of the history; `Err(Corrupt)` names the first damaged one.
    pub(super) fn verify(&self) -> Result<()> {
        for row in self.snapshot.objects.iter().map_err(database_error)? {
            let (key, value) = row.map_err(database_error)?;
            decode_entry(key.value(), value.value())?;
        }
        let mut from = self.revisions.compacted;
        while from < self.snapshot.revisions.current {
            from = match self.events(from, "") {
                // Compacted during the check.
                Err(StoreError::Compacted { oldest }) => oldest,
                chunk => chunk?.until,
            };
        }
        Ok(())
    }
}

/// A row of a range. Its value is decoded on demand only.
enum Row {
    InTables(AccessGuard<'static, &'static str>, AccessGuard<'static, &'static [u8]>),
    Changed(Entry),
}

impl Row {
    fn key(&self) -> &str {
        match self {
            Row::InTables(key, _) => key.value(),
            Row::Changed(entry) => &entry.key,
        }
    }

    fn entry(self) -> Result<Entry> {
        match self {
            Row::InTables(key, value) => decode_entry(key.value(), value.value()),
            Row::Changed(entry) => Ok(entry),
        }
    }
}

/// The rows of the tables, with the changed keys in their other state, in key order.
fn merge(
    rows: impl Iterator<Item = Result<Row>>,
    changed: BTreeMap<Arc<str>, Option<Entry>>,
) -> impl Iterator<Item = Result<Row>> {
    let mut rows = rows.peekable();
    let mut changed = changed.into_iter().peekable();
    std::iter::from_fn(move || next(&mut rows, &mut changed))
}

fn next(
    rows: &mut Peekable<impl Iterator<Item = Result<Row>>>,
    changed: &mut Peekable<impl Iterator<Item = (Arc<str>, Option<Entry>)>>,
) -> Option<Result<Row>> {
    loop {
        let Some((key, _)) = changed.peek() else { return rows.next() };
        match rows.peek() {
            Some(Ok(row)) if row.key() < &**key => return rows.next(),
            Some(Ok(row)) if row.key() == &**key => drop(rows.next()),
            Some(Err(_)) => return rows.next(),
            _ => {}
        }
        if let Some((_, Some(entry))) = changed.next() {
            return Some(Ok(Row::Changed(entry)));
        }
    }
}
