//! What the log holds, taken over into the tables: one transaction, durable when it returns, or nothing of it.

use std::collections::BTreeMap;

use redb::{Database, Durability, ReadableTable, WriteTransaction};

use super::failure::database;
use super::{COMPACTED, CURRENT, FORMAT, FORMAT_3, META, OBJECTS};
use crate::record::encode_entry;
use crate::state::Revisions;
use crate::{Event, Result, StoreError};

/// Makes the tables of a new file; refuses a file of a layout that is not known.
pub(super) fn prepare(db: &Database) -> Result<()> {
    let transaction = begin(db)?;
    let format = {
        let mut meta = transaction.open_table(META).map_err(database)?;
        let format = meta.get(FORMAT).map_err(database)?.map(|found| found.value());
        if format.is_none() {
            meta.insert(FORMAT, FORMAT_3).map_err(database)?;
            transaction.open_table(OBJECTS).map_err(database)?;
        }
        format
    };
    match format {
        None => transaction.commit().map_err(database),
        Some(FORMAT_3) => transaction.abort().map_err(database),
        Some(other) => Err(StoreError::Unavailable(format!(
            "the file's layout is {other}, and this version reads {FORMAT_3} only"
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

/// Commits events that follow on what the tables hold, up to `revisions.current`.
pub(super) fn checkpoint(db: &Database, events: &[Event], revisions: Revisions) -> Result<()> {
    let transaction = begin(db)?;
    {
        let mut objects = transaction.open_table(OBJECTS).map_err(database)?;
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
        meta.insert(CURRENT, revisions.current).map_err(database)?;
        meta.insert(COMPACTED, revisions.compacted).map_err(database)?;
    }
    transaction.commit().map_err(database)
}
