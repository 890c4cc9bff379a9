//! One transaction for a batch of writes: all of them are durable when it returns, or none is.

use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, Durability, ReadableTable, Table, WriteTransaction};

use super::failure::database;
use super::{COMPACTED, CURRENT, FORMAT, FORMAT_1, HISTORY, HISTORY_BYTES, META, OBJECTS, Write};
use crate::record::{decode_entry, encode_entry, encode_event};
use crate::state::{Revisions, check};
use crate::{Entry, Event, Expect, Result, Revision, StoreError};

/// Compacted events that one commit removes from the disk at least: a long history goes in small steps.
const PRUNE: usize = 256;

/// Makes the tables of a new file; refuses a file of a layout that is not known.
pub(super) fn prepare(db: &Database) -> Result<()> {
    let transaction = begin(db)?;
    let format = {
        let mut meta = transaction.open_table(META).map_err(database)?;
        let format = meta.get(FORMAT).map_err(database)?.map(|found| found.value());
        if format.is_none() {
            meta.insert(FORMAT, FORMAT_1).map_err(database)?;
            transaction.open_table(OBJECTS).map_err(database)?;
            transaction.open_table(HISTORY).map_err(database)?;
        }
        format
    };
    match format {
        None => transaction.commit().map_err(database),
        Some(FORMAT_1) => transaction.abort().map_err(database),
        Some(other) => {
            Err(StoreError::Unavailable(format!("the file's layout {other} is of a later version")))
        }
    }
}

fn begin(db: &Database) -> Result<WriteTransaction> {
    let mut transaction = db.begin_write().map_err(database)?;
    transaction.set_durability(Durability::Immediate).map_err(|e| StoreError::Unavailable(e.to_string()))?;
    // Two syncs a commit: after one, a commit that was altered later would look like one that was torn, and be undone.
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// What a write came to inside the transaction.
pub(super) enum Outcome {
    Put(Entry),
    Deleted(Entry, Revision),
    Done,
    Refused(StoreError),
}

/// What a batch came to.
pub(super) struct Committed {
    pub(super) events: Vec<Event>,
    /// One for each write of the batch, in order.
    pub(super) outcomes: Vec<Outcome>,
    pub(super) revisions: Revisions,
    /// Of the history on disk.
    pub(super) bytes: u64,
}

/// Commits the batch. `compact` asks to forget history before a revision besides.
pub(super) fn commit(
    db: &Database,
    revisions: Revisions,
    batch: &[Write],
    compact: Option<Revision>,
) -> Result<Committed> {
    let transaction = begin(db)?;
    let committed = apply(&transaction, revisions, batch, compact)?;
    if committed.revisions == revisions {
        // Every write was refused: there is nothing to wait for the disk for.
        transaction.abort().map_err(database)?;
    } else {
        transaction.commit().map_err(database)?;
    }
    Ok(committed)
}

fn apply(
    transaction: &WriteTransaction,
    mut revisions: Revisions,
    batch: &[Write],
    compact: Option<Revision>,
) -> Result<Committed> {
    let mut objects = transaction.open_table(OBJECTS).map_err(database)?;
    let mut history = transaction.open_table(HISTORY).map_err(database)?;
    let mut meta = transaction.open_table(META).map_err(database)?;
    let mut bytes = meta.get(HISTORY_BYTES).map_err(database)?.map_or(0, |found| found.value());
    let (mut events, mut outcomes) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
    for write in batch {
        let next = revisions.current + 1;
        let done = match write {
            Write::Put { key, value, expect, .. } => put(&mut objects, key, value, *expect, next)?,
            Write::Delete { key, expect, .. } => delete(&mut objects, key, *expect, next)?,
            Write::Compact { before, .. } => Err(forget(&mut revisions, *before)),
            Write::Reopen { .. } => Err(Outcome::Done),
        };
        match done {
            Ok((event, outcome)) => {
                let record = encode_event(&event);
                history.insert(next, record.as_slice()).map_err(database)?;
                bytes += record.len() as u64;
                revisions.current = next;
                events.push(event);
                outcomes.push(outcome);
            }
            Err(outcome) => outcomes.push(outcome),
        }
    }
    if let Some(before) = compact {
        forget(&mut revisions, before);
    }
    bytes = bytes.saturating_sub(prune(&mut history, revisions.compacted, PRUNE + 2 * batch.len())?);
    meta.insert(CURRENT, revisions.current).map_err(database)?;
    meta.insert(COMPACTED, revisions.compacted).map_err(database)?;
    meta.insert(HISTORY_BYTES, bytes).map_err(database)?;
    Ok(Committed { events, outcomes, revisions, bytes })
}

/// `Err`: nothing was written, and why.
type Step = std::result::Result<(Event, Outcome), Outcome>;

/// The entry that is there. A damaged one refuses the write that would go over it, and no other.
fn find(objects: &Table<&str, &[u8]>, key: &str) -> Result<std::result::Result<Option<Entry>, Outcome>> {
    let Some(found) = objects.get(key).map_err(database)? else { return Ok(Ok(None)) };
    Ok(decode_entry(key, found.value()).map(Some).map_err(Outcome::Refused))
}

fn put(
    objects: &mut Table<&str, &[u8]>,
    key: &Arc<str>,
    value: &Bytes,
    expect: Expect,
    revision: Revision,
) -> Result<Step> {
    let previous = match find(objects, key)? {
        Ok(previous) => previous,
        Err(damaged) => return Ok(Err(damaged)),
    };
    if let Err(error) = check(expect, previous.as_ref()) {
        return Ok(Err(Outcome::Refused(error)));
    }
    let created = previous.as_ref().map_or(revision, |previous| previous.created);
    let entry = Entry { key: key.clone(), value: value.clone(), created, modified: revision };
    objects.insert(&**key, encode_entry(&entry).as_slice()).map_err(database)?;
    Ok(Ok((Event::Put { entry: entry.clone(), previous }, Outcome::Put(entry))))
}

fn delete(objects: &mut Table<&str, &[u8]>, key: &str, expect: Expect, revision: Revision) -> Result<Step> {
    let previous = match find(objects, key)? {
        Ok(Some(previous)) => previous,
        Ok(None) => return Ok(Err(Outcome::Refused(StoreError::NotFound))),
        Err(damaged) => return Ok(Err(damaged)),
    };
    if let Err(error) = check(expect, Some(&previous)) {
        return Ok(Err(Outcome::Refused(error)));
    }
    objects.remove(key).map_err(database)?;
    Ok(Ok((Event::Delete { previous: previous.clone(), revision }, Outcome::Deleted(previous, revision))))
}

fn forget(revisions: &mut Revisions, before: Revision) -> Outcome {
    if before > revisions.current {
        let current = revisions.current;
        return Outcome::Refused(StoreError::FutureRevision { wanted: before, current });
    }
    revisions.compacted = revisions.compacted.max(before);
    Outcome::Done
}

/// Removes some of the events that were compacted, oldest first; their bytes.
fn prune(history: &mut Table<u64, &[u8]>, compacted: Revision, most: usize) -> Result<u64> {
    let mut bytes = 0;
    for _ in 0..most {
        match history.first().map_err(database)? {
            Some((revision, event)) if revision.value() <= compacted => bytes += event.value().len() as u64,
            _ => break,
        }
        history.pop_first().map_err(database)?;
    }
    Ok(bytes)
}
