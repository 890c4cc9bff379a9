//! Events of the log, written into the tables: one transaction, durable when it returns, or nothing of it.

use std::collections::BTreeMap;

use redb::{Database, Durability, ReadableTable, WriteTransaction};

use super::failure::database_error;
use super::format::{COMPACTED, CURRENT, FORMAT, FORMAT_3, FORMAT_4, META, OBJECTS};
use crate::record::encode_entry;
use crate::state::Revisions;
use crate::{Event, Result, StoreError};

/// Creates the tables of a new file; refuses a file with an unknown layout. Older versions refuse the file from then on:
/// they would take the padding of the log for its end.
pub(super) fn prepare(db: &Database) -> Result<()> {
    let transaction = begin(db)?;
    let format = {
        let mut meta = transaction.open_table(META).map_err(database_error)?;
        let format = meta.get(FORMAT).map_err(database_error)?.map(|found| found.value());
        if matches!(format, None | Some(FORMAT_3)) {
            meta.insert(FORMAT, FORMAT_4).map_err(database_error)?;
            transaction.open_table(OBJECTS).map_err(database_error)?;
        }
        format
    };
    match format {
        None | Some(FORMAT_3) => transaction.commit().map_err(database_error),
        Some(FORMAT_4) => transaction.abort().map_err(database_error),
        Some(other) => Err(StoreError::Unavailable(format!(
            "the file has layout {other}, this version reads layouts {FORMAT_3} and {FORMAT_4}"
        ))),
    }
}

pub(super) fn begin(db: &Database) -> Result<WriteTransaction> {
    let mut transaction = db.begin_write().map_err(database_error)?;
    transaction.set_durability(Durability::Immediate).map_err(|e| StoreError::Unavailable(e.to_string()))?;
    // Two syncs for each commit: after one, a commit that was altered later would look torn, and would be rolled back.
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// Commits the events between the tables' revision and `revisions.current`.
pub(super) fn checkpoint(db: &Database, events: &[Event], revisions: Revisions) -> Result<()> {
    let transaction = begin(db)?;
    {
        let mut objects = transaction.open_table(OBJECTS).map_err(database_error)?;
        let mut meta = transaction.open_table(META).map_err(database_error)?;
        // In key order, since neighbours share pages, and each key once.
        let last: BTreeMap<&str, &Event> = events.iter().map(|event| (&**event.key(), event)).collect();
        for (key, event) in last {
            match event {
                Event::Put { entry, .. } => objects.insert(key, encode_entry(entry).as_slice()),
                Event::Delete { .. } => objects.remove(key),
            }
            .map_err(database_error)?;
        }
        meta.insert(CURRENT, revisions.current).map_err(database_error)?;
        meta.insert(COMPACTED, revisions.compacted).map_err(database_error)?;
    }
    transaction.commit().map_err(database_error)
}

#[cfg(test)]
mod tests {
    use redb::ReadableDatabase as _;

    use super::*;

    #[test]
    fn a_file_of_the_former_layout_gets_the_present_one_and_an_unknown_layout_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::create(folder.path().join("store.redb")).unwrap();
        for (found, after) in [(FORMAT_3, Some(FORMAT_4)), (FORMAT_4, Some(FORMAT_4)), (9, None)] {
            let transaction = begin(&database).unwrap();
            transaction.open_table(META).unwrap().insert(FORMAT, found).unwrap();
            transaction.commit().unwrap();
            match (prepare(&database), after) {
                (Ok(()), Some(after)) => {
                    let meta = database.begin_read().unwrap().open_table(META).unwrap();
                    assert_eq!(meta.get(FORMAT).unwrap().unwrap().value(), after);
                }
                (Err(StoreError::Unavailable(why)), None) => assert!(why.contains("layout 9"), "{why}"),
                (prepared, _) => panic!("layout {found}: {prepared:?}"),
            }
        }
    }
}
