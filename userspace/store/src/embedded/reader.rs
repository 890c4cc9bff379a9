//! Reads from snapshots: the present, or the present with the history since then undone.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use redb::{Database, ReadableDatabase};

use super::{CURRENT, HISTORY, META, OBJECTS, Shared};
use crate::record::{decode_entry, decode_event};
use crate::state::undo;
use crate::{Entry, Event, Range, Result, Revision, StoreError};

pub(super) fn get(shared: &Shared, key: &str, at: Option<Revision>) -> Result<(Option<Entry>, Revision)> {
    let revisions = shared.live().revisions;
    let wanted = revisions.resolve(at)?;
    let read = shared.database.begin_read().map_err(database)?;
    let objects = read.open_table(OBJECTS).map_err(database)?;
    let now =
        objects.get(key).map_err(database)?.map(|found| decode_entry(key, found.value())).transpose()?;
    let revision = read.open_table(META).map_err(database)?.get(CURRENT).map_err(database)?;
    let revision = revision.map_or(0, |found| found.value());
    if at.is_none() {
        return Ok((now, revision));
    }
    let mut before = undo(history(&shared.database, wanted, revision, key)?);
    Ok((before.remove(key).unwrap_or(now), wanted))
}

pub(super) fn range(
    shared: &Shared,
    prefix: &str,
    start_after: Option<&str>,
    limit: usize,
    at: Option<Revision>,
) -> Result<Range> {
    shared.live().revisions.resolve(at)?;
    let read = shared.database.begin_read().map_err(database)?;
    let objects = read.open_table(OBJECTS).map_err(database)?;
    let current = read.open_table(META).map_err(database)?.get(CURRENT).map_err(database)?;
    let current = current.map_or(0, |found| found.value());
    let revision = at.unwrap_or(current);
    let mut before = undo(history(&shared.database, revision, current, prefix)?);
    let start = match start_after {
        Some(key) => {
            before.retain(|changed, _| &**changed > key);
            Bound::Excluded(key)
        }
        None => Bound::Included(prefix),
    };
    let mut rows = objects.range::<&str>((start, Bound::Unbounded)).map_err(database)?;
    let now = std::iter::from_fn(move || match rows.next()? {
        Ok((key, value)) if key.value().starts_with(prefix) => Some(decode_entry(key.value(), value.value())),
        Ok(_) => None,
        Err(error) => Some(Err(database(error))),
    });
    let mut page = Range { entries: Vec::new(), revision, more: false, remaining: 0 };
    for entry in merge(now, before) {
        let entry = entry?;
        if limit != 0 && page.entries.len() == limit {
            page.remaining += 1;
        } else {
            page.entries.push(entry);
        }
    }
    page.more = page.remaining > 0;
    Ok(page)
}

/// The rows with the changed keys as they were before, in key order.
fn merge(
    now: impl Iterator<Item = Result<Entry>>,
    before: BTreeMap<Arc<str>, Option<Entry>>,
) -> impl Iterator<Item = Result<Entry>> {
    let mut now = now.peekable();
    let mut before = before.into_iter().peekable();
    std::iter::from_fn(move || next(&mut now, &mut before))
}

fn next(
    now: &mut Peekable<impl Iterator<Item = Result<Entry>>>,
    before: &mut Peekable<impl Iterator<Item = (Arc<str>, Option<Entry>)>>,
) -> Option<Result<Entry>> {
    loop {
        let Some((changed, _)) = before.peek() else { return now.next() };
        match now.peek() {
            Some(Ok(entry)) if entry.key < *changed => return now.next(),
            Some(Ok(entry)) if entry.key == *changed => drop(now.next()),
            Some(Err(_)) => return now.next(),
            _ => {}
        }
        if let Some((_, Some(entry))) = before.next() {
            return Some(Ok(entry));
        }
    }
}

/// Events of keys with `prefix` in `(after, until]`.
pub(super) fn history(
    database_: &Database,
    after: Revision,
    until: Revision,
    prefix: &str,
) -> Result<Vec<Event>> {
    if after >= until {
        return Ok(Vec::new());
    }
    let read = database_.begin_read().map_err(database)?;
    let table = read.open_table(HISTORY).map_err(database)?;
    let mut events = Vec::new();
    for row in table.range(after + 1..=until).map_err(database)? {
        let (revision, bytes) = row.map_err(database)?;
        let event = decode_event(revision.value(), bytes.value())?;
        if event.key().starts_with(prefix) {
            events.push(event);
        }
    }
    Ok(events)
}

/// redb's errors as the store's.
pub(super) fn database(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Corrupted(what) => StoreError::Corrupt(what),
        redb::Error::Io(error) if is_full(&error) => StoreError::Full(error.to_string()),
        redb::Error::DatabaseAlreadyOpen => {
            StoreError::Unavailable("another process has the database open".to_owned())
        }
        error => StoreError::Unavailable(error.to_string()),
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}
