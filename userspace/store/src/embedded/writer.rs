//! The one writer: takes what waits, commits it in one transaction, then answers and tells the watchers.

use bytes::Bytes;
use redb::{Database, Durability, ReadableTable, Table, WriteTransaction};
use tokio::sync::{mpsc, oneshot};

use super::reader::database;
use super::{COMPACTED, CURRENT, HISTORY, META, OBJECTS, Shared, Write};
use crate::record::{decode_entry, encode_entry, encode_event};
use crate::state::{Revisions, check};
use crate::{Entry, Event, Expect, Result, Revision, StoreError};

/// Writes of one commit at most: bounds how long the first of them waits.
const BATCH: usize = 1_024;
/// Revisions of history that are kept on disk; compacted in steps of a quarter.
const KEEP: Revision = 200_000;

/// Makes the tables of a new file and reads where an old one stands.
pub(super) fn prepare(db: &Database) -> Result<Revisions> {
    let transaction = db.begin_write().map_err(database)?;
    let revisions = {
        transaction.open_table(OBJECTS).map_err(database)?;
        transaction.open_table(HISTORY).map_err(database)?;
        let meta = transaction.open_table(META).map_err(database)?;
        let read =
            |key| Ok::<_, StoreError>(meta.get(key).map_err(database)?.map_or(0, |found| found.value()));
        Revisions { current: read(CURRENT)?, compacted: read(COMPACTED)? }
    };
    transaction.commit().map_err(database)?;
    Ok(revisions)
}

/// Runs until every sender is gone.
pub(super) fn run(shared: &Shared, mut queue: mpsc::Receiver<Write>) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.blocking_recv_many(&mut batch, BATCH) > 0 {
        let mut revisions = shared.live().revisions;
        match commit(&shared.database, &mut revisions, &mut batch) {
            Ok((events, answers)) => {
                let mut live = shared.live();
                live.revisions.compacted = revisions.compacted;
                live.publish(events);
                drop(live);
                answers.into_iter().for_each(|answer| answer());
            }
            Err(error) => {
                tracing::error!(%error, "a commit failed; nothing of it was written");
                batch.drain(..).for_each(|write| refuse(write, error.clone()));
            }
        }
    }
}

type Answer = Box<dyn FnOnce()>;

/// One transaction for the whole batch. On an error the batch keeps its writes, to be refused.
fn commit(
    db: &Database,
    revisions: &mut Revisions,
    batch: &mut Vec<Write>,
) -> Result<(Vec<Event>, Vec<Answer>)> {
    let mut transaction = db.begin_write().map_err(database)?;
    transaction.set_durability(Durability::Immediate).map_err(|e| StoreError::Unavailable(e.to_string()))?;
    transaction.set_quick_repair(true);
    let (events, results) = apply(&transaction, revisions, batch)?;
    transaction.commit().map_err(database)?;
    let answers = batch.drain(..).zip(results).map(|(write, result)| answer(write, result)).collect();
    Ok((events, answers))
}

/// What a write came to inside the transaction.
enum Outcome {
    Put(Entry),
    Deleted(Entry, Revision),
    Compacted,
    Refused(StoreError),
}

fn apply(
    transaction: &WriteTransaction,
    revisions: &mut Revisions,
    batch: &[Write],
) -> Result<(Vec<Event>, Vec<Outcome>)> {
    let mut objects = transaction.open_table(OBJECTS).map_err(database)?;
    let mut history = transaction.open_table(HISTORY).map_err(database)?;
    let mut meta = transaction.open_table(META).map_err(database)?;
    let (mut events, mut outcomes) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
    for write in batch {
        let next = revisions.current + 1;
        let done = match write {
            Write::Put { key, value, expect, .. } => put(&mut objects, key, value, *expect, next),
            Write::Delete { key, expect, .. } => delete(&mut objects, key, *expect, next),
            Write::Compact { before, .. } => {
                compact(&mut history, revisions, *before)?;
                outcomes.push(Outcome::Compacted);
                continue;
            }
        };
        match done {
            Ok((event, outcome)) => {
                history.insert(next, encode_event(&event).as_slice()).map_err(database)?;
                revisions.current = next;
                events.push(event);
                outcomes.push(outcome);
            }
            Err(refused @ (StoreError::Conflict { .. } | StoreError::NotFound)) => {
                outcomes.push(Outcome::Refused(refused));
            }
            Err(error) => return Err(error),
        }
    }
    if revisions.current - revisions.compacted > KEEP + KEEP / 4 {
        let before = revisions.current - KEEP;
        compact(&mut history, revisions, before)?;
    }
    meta.insert(CURRENT, revisions.current).map_err(database)?;
    meta.insert(COMPACTED, revisions.compacted).map_err(database)?;
    Ok((events, outcomes))
}

fn find(objects: &Table<&str, &[u8]>, key: &str) -> Result<Option<Entry>> {
    objects.get(key).map_err(database)?.map(|found| decode_entry(key, found.value())).transpose()
}

fn put(
    objects: &mut Table<&str, &[u8]>,
    key: &std::sync::Arc<str>,
    value: &Bytes,
    expect: Expect,
    revision: Revision,
) -> Result<(Event, Outcome)> {
    let previous = find(objects, key)?;
    check(expect, previous.as_ref())?;
    let created = previous.as_ref().map_or(revision, |previous| previous.created);
    let entry = Entry { key: key.clone(), value: value.clone(), created, modified: revision };
    objects.insert(&**key, encode_entry(&entry).as_slice()).map_err(database)?;
    Ok((Event::Put { entry: entry.clone(), previous }, Outcome::Put(entry)))
}

fn delete(
    objects: &mut Table<&str, &[u8]>,
    key: &str,
    expect: Expect,
    revision: Revision,
) -> Result<(Event, Outcome)> {
    let previous = find(objects, key)?.ok_or(StoreError::NotFound)?;
    check(expect, Some(&previous))?;
    objects.remove(key).map_err(database)?;
    Ok((Event::Delete { previous: previous.clone(), revision }, Outcome::Deleted(previous, revision)))
}

fn compact(history: &mut Table<u64, &[u8]>, revisions: &mut Revisions, before: Revision) -> Result<()> {
    let before = before.min(revisions.current);
    if before <= revisions.compacted {
        return Ok(());
    }
    history.retain_in(..=before, |_, _| false).map_err(database)?;
    revisions.compacted = before;
    Ok(())
}

fn answer(write: Write, outcome: Outcome) -> Answer {
    // Whoever asked may be gone; the write stands all the same.
    match (write, outcome) {
        (Write::Put { answer, .. }, Outcome::Put(entry)) => Box::new(move || drop(answer.send(Ok(entry)))),
        (Write::Delete { answer, .. }, Outcome::Deleted(entry, revision)) => {
            Box::new(move || drop(answer.send(Ok((entry, revision)))))
        }
        (Write::Compact { answer, .. }, Outcome::Compacted) => Box::new(move || drop(answer.send(Ok(())))),
        (write, Outcome::Refused(error)) => Box::new(move || refuse(write, error)),
        (write, _) => Box::new(move || refuse(write, StoreError::Closed)),
    }
}

fn refuse(write: Write, error: StoreError) {
    fn send<T>(answer: oneshot::Sender<Result<T>>, error: StoreError) {
        let _ = answer.send(Err(error));
    }
    match write {
        Write::Put { answer, .. } => send(answer, error),
        Write::Delete { answer, .. } => send(answer, error),
        Write::Compact { answer, .. } => send(answer, error),
    }
}
