//! The store as of one commit: the tables as of the last checkpoint with what was written since, or, for the past, with
//! the history since then, which the log has, undone.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use redb::{AccessGuard, Database, ReadOnlyTable, ReadableDatabase, ReadableTable};

use super::failure::database;
use super::log::{History, Part};
use super::tail::Tail;
use super::{COMPACTED, CURRENT, META, OBJECTS};
use crate::record::decode_entry;
use crate::state::{Revisions, undo};
use crate::{Entry, Range, Result, Revision, StoreError};

/// The tables as of a checkpoint.
pub(super) struct Snapshot {
    objects: ReadOnlyTable<&'static str, &'static [u8]>,
    pub(super) revisions: Revisions,
    /// Counts how often the database was opened: whoever finds it broken says which one.
    pub(super) generation: u64,
}

impl Snapshot {
    pub(super) fn open(database_: &Database, generation: u64) -> Result<Snapshot> {
        let read = database_.begin_read().map_err(database)?;
        let meta = read.open_table(META).map_err(database)?;
        let number = |key| Ok(meta.get(key).map_err(database)?.map_or(0, |found| found.value()));
        Ok(Snapshot {
            objects: read.open_table(OBJECTS).map_err(database)?,
            revisions: Revisions { current: number(CURRENT)?, compacted: number(COMPACTED)? },
            generation,
        })
    }

    fn get(&self, key: &str) -> Result<Option<Entry>> {
        let found = self.objects.get(key).map_err(database)?;
        found.map(|found| decode_entry(key, found.value())).transpose()
    }
}

/// Everything up to a revision: the tables, and what was written since.
pub(super) struct View {
    pub(super) snapshot: Arc<Snapshot>,
    /// What lies behind `revisions.current` in it is not committed yet.
    pub(super) tail: Arc<Tail>,
    /// What was written before the checkpoint.
    pub(super) history: Arc<History>,
    pub(super) revisions: Revisions,
}

impl View {
    /// What a key is now, uncommitted writes included; for the writer.
    pub(super) fn newest(&self, key: &str) -> Result<Option<Entry>> {
        match self.tail.get(key, Revision::MAX) {
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

    /// As they were at a revision, in key order.
    fn rows<'a>(
        &self,
        prefix: &'a str,
        start_after: Option<&str>,
        revision: Revision,
    ) -> Result<impl Iterator<Item = Result<Row>> + use<'a>> {
        let mut before = self.differing(revision, prefix)?;
        let start = match start_after {
            Some(key) if key >= prefix => {
                before.retain(|changed, _| &**changed > key);
                Bound::Excluded(key)
            }
            _ => Bound::Included(prefix),
        };
        let mut rows = self.snapshot.objects.range::<&str>((start, Bound::Unbounded)).map_err(database)?;
        let now = std::iter::from_fn(move || match rows.next()? {
            Ok((key, value)) => key.value().starts_with(prefix).then(|| Ok(Row::Now(key, value))),
            Err(error) => Some(Err(database(error))),
        });
        Ok(merge(now, before))
    }

    /// How keys with `prefix` that are not as the tables have them looked at a revision.
    fn differing(&self, revision: Revision, prefix: &str) -> Result<BTreeMap<Arc<str>, Option<Entry>>> {
        if revision < self.snapshot.revisions.current {
            self.undone(revision, prefix)
        } else {
            Ok(self.tail.range(prefix, revision))
        }
    }

    /// How keys with `prefix` that were written after `revision`, and before the checkpoint, looked at it.
    fn undone(&self, revision: Revision, prefix: &str) -> Result<BTreeMap<Arc<str>, Option<Entry>>> {
        let mut before = BTreeMap::new();
        let mut from = revision;
        while from < self.snapshot.revisions.current {
            let part = self.events(from, prefix)?;
            from = part.until;
            for (key, entry) in undo(part.events) {
                before.entry(key).or_insert(entry);
            }
        }
        Ok(before)
    }

    /// The next events of keys with `prefix` after a revision, as many as are good to hold at once.
    pub(super) fn events(&self, after: Revision, prefix: &str) -> Result<Part> {
        let checkpoint = self.snapshot.revisions.current;
        if after < checkpoint {
            return self.history.read(after, checkpoint, prefix);
        }
        let mut events = self.tail.events(after, self.revisions.current);
        events.retain(|event| event.key().starts_with(prefix));
        Ok(Part { events, until: self.revisions.current })
    }

    /// Reads every record of the tables and of the history. The first one that is damaged is told.
    pub(super) fn verify(&self) -> Result<()> {
        for row in self.snapshot.objects.iter().map_err(database)? {
            let (key, value) = row.map_err(database)?;
            decode_entry(key.value(), value.value())?;
        }
        let mut from = self.revisions.compacted;
        while from < self.snapshot.revisions.current {
            from = match self.events(from, "") {
                // Meanwhile.
                Err(StoreError::Compacted { oldest }) => oldest,
                part => part?.until,
            };
        }
        Ok(())
    }
}

/// A row of a range; its value is copied only if somebody wants it.
enum Row {
    Now(AccessGuard<'static, &'static str>, AccessGuard<'static, &'static [u8]>),
    Other(Entry),
}

impl Row {
    fn key(&self) -> &str {
        match self {
            Row::Now(key, _) => key.value(),
            Row::Other(entry) => &entry.key,
        }
    }

    fn entry(self) -> Result<Entry> {
        match self {
            Row::Now(key, value) => decode_entry(key.value(), value.value()),
            Row::Other(entry) => Ok(entry),
        }
    }
}

/// The rows with the changed keys as they were before, in key order.
fn merge(
    now: impl Iterator<Item = Result<Row>>,
    before: BTreeMap<Arc<str>, Option<Entry>>,
) -> impl Iterator<Item = Result<Row>> {
    let mut now = now.peekable();
    let mut before = before.into_iter().peekable();
    std::iter::from_fn(move || next(&mut now, &mut before))
}

fn next(
    now: &mut Peekable<impl Iterator<Item = Result<Row>>>,
    before: &mut Peekable<impl Iterator<Item = (Arc<str>, Option<Entry>)>>,
) -> Option<Result<Row>> {
    loop {
        let Some((changed, _)) = before.peek() else { return now.next() };
        match now.peek() {
            Some(Ok(row)) if row.key() < &**changed => return now.next(),
            Some(Ok(row)) if row.key() == &**changed => drop(now.next()),
            Some(Err(_)) => return now.next(),
            _ => {}
        }
        if let Some((_, Some(entry))) = before.next() {
            return Some(Ok(Row::Other(entry)));
        }
    }
}
