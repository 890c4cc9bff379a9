//! What the log holds, taken over into the tables: one transaction, durable when it returns, or nothing of it.

use std::collections::BTreeMap;

use redb::{Database, Durability, ReadableTable, Table, WriteTransaction};

use super::failure::database;
use super::{COMPACTED, CURRENT, FORMAT, FORMAT_2, HISTORY, HISTORY_BYTES, META, OBJECTS};
use crate::record::{encode_entry, encode_event};
use crate::state::Revisions;
use crate::{Event, Result, Revision, StoreError};

/// Compacted events that one checkpoint removes from the disk at least: a long history goes in small steps.
const PRUNE: usize = 256;

/// Makes the tables of a new file; refuses a file of a layout that is not known.
pub(super) fn prepare(db: &Database) -> Result<()> {
    let transaction = begin(db)?;
    let format = {
        let mut meta = transaction.open_table(META).map_err(database)?;
        let format = meta.get(FORMAT).map_err(database)?.map(|found| found.value());
        if format.is_none() {
            meta.insert(FORMAT, FORMAT_2).map_err(database)?;
            transaction.open_table(OBJECTS).map_err(database)?;
            transaction.open_table(HISTORY).map_err(database)?;
        }
        format
    };
    match format {
        None => transaction.commit().map_err(database),
        Some(FORMAT_2) => transaction.abort().map_err(database),
        Some(other) => Err(StoreError::Unavailable(format!(
            "the file's layout is {other}, and this version reads {FORMAT_2} only"
        ))),
    }
}

fn begin(db: &Database) -> Result<WriteTransaction> {
    let mut transaction = db.begin_write().map_err(database)?;
    transaction.set_durability(Durability::Immediate).map_err(|e| StoreError::Unavailable(e.to_string()))?;
    // Two syncs a commit: after one, a commit that was altered later would look like one that was torn, and be undone.
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// Commits events that follow on what the tables hold, up to `revisions.current`; forgets history before
/// `revisions.compacted`.
pub(super) fn checkpoint(db: &Database, events: &[Event], revisions: Revisions) -> Result<()> {
    let transaction = begin(db)?;
    {
        let mut objects = transaction.open_table(OBJECTS).map_err(database)?;
        let mut history = transaction.open_table(HISTORY).map_err(database)?;
        let mut meta = transaction.open_table(META).map_err(database)?;
        // In key order, and each key once: neighbours share pages.
        let last: BTreeMap<&str, &Event> = events.iter().map(|event| (&**event.key(), event)).collect();
        for (key, event) in last {
            match event {
                Event::Put { entry, .. } => objects.insert(key, encode_entry(entry).as_slice()),
                Event::Delete { .. } => objects.remove(key),
            }
            .map_err(database)?;
        }
        let mut bytes = meta.get(HISTORY_BYTES).map_err(database)?.map_or(0, |found| found.value());
        for event in events {
            let record = encode_event(event);
            bytes += record.len() as u64;
            history.insert(event.revision(), record.as_slice()).map_err(database)?;
        }
        bytes = bytes.saturating_sub(prune(&mut history, revisions.compacted, PRUNE + 2 * events.len())?);
        meta.insert(CURRENT, revisions.current).map_err(database)?;
        meta.insert(COMPACTED, revisions.compacted).map_err(database)?;
        meta.insert(HISTORY_BYTES, bytes).map_err(database)?;
    }
    transaction.commit().map_err(database)
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
