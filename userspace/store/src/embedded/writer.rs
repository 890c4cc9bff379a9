//! The one writer: takes what waits, commits it in one transaction, publishes it, then answers.
//!
//! It alone owns the database, and opens it again when it broke: redb refuses everything after a failed write.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::Database;
use tokio::sync::{mpsc, oneshot};

use super::Write;
use super::commit::{Committed, Outcome, commit, prepare};
use super::failure::{database, guarded};
use super::live::Shared;
use super::view::View;
use crate::state::{Keep, Retention};
use crate::{Event, Result, Revision, StoreError};

/// Writes of one commit at most: bounds how long the first of them waits.
const BATCH: usize = 1_024;
/// Lists that go on page by page, and watches that start late, may reach back this far, as with etcd under Kubernetes.
const KEEP: Keep = Keep { age: Duration::from_secs(600), revisions: 500_000, bytes: 512 << 20 };
/// Page cache of the database. The operating system caches the file as well.
const CACHE_BYTES: usize = 16 << 20;

pub(super) struct Writer {
    path: PathBuf,
    shared: Arc<Shared>,
    /// `None` while it could not be opened again.
    database: Option<Database>,
    generation: u64,
    retention: Retention,
    opened: Instant,
    /// What the next commit is to forget.
    compact: Option<Revision>,
}

impl Writer {
    pub(super) fn open(path: &Path) -> Result<(Writer, Arc<Shared>)> {
        let database = open(path, true).or_else(|error| match error {
            // The check of every page ends in a commit; without room the store can still be read.
            StoreError::Full(_) => open(path, false),
            error => Err(error),
        })?;
        let shared = Arc::new(Shared::new(guarded(|| View::open(&database, 0))?));
        let writer = Writer {
            path: path.to_owned(),
            shared: shared.clone(),
            database: Some(database),
            generation: 0,
            retention: Retention::new(KEEP),
            opened: Instant::now(),
            compact: None,
        };
        Ok((writer, shared))
    }

    /// Runs until every sender is gone.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Write>) {
        let mut batch = Vec::with_capacity(BATCH);
        while queue.blocking_recv_many(&mut batch, BATCH) > 0 {
            match self.serve(&batch) {
                Ok(outcomes) => {
                    batch.drain(..).zip(outcomes).for_each(|(write, outcome)| answer(write, outcome));
                }
                Err(error) => {
                    tracing::error!(%error, writes = batch.len(), "a commit failed");
                    batch.drain(..).for_each(|write| answer(write, Outcome::Refused(error.clone())));
                }
            }
        }
        self.shared.close();
        self.close();
    }

    fn serve(&mut self, batch: &[Write]) -> Result<Vec<Outcome>> {
        let broken = |write: &Write| matches!(write, Write::Reopen { generation, .. } if *generation == self.generation);
        if self.database.is_none() || batch.iter().any(broken) {
            self.reopen()?;
        }
        let revisions = self.shared.view()?.revisions;
        let db = self.database.as_ref().ok_or(StoreError::Closed)?;
        let compact = self.compact.take();
        let result = guarded(|| {
            let committed = commit(db, revisions, batch, compact)?;
            Ok((committed, View::open(db, self.generation)))
        });
        match result {
            Ok((Committed { events, outcomes, revisions, bytes }, view)) => {
                match view {
                    Ok(view) => self.shared.publish(view, events),
                    Err(_) => self.reopen()?,
                }
                self.compact = self.retention.note(self.opened.elapsed(), revisions, bytes);
                Ok(outcomes)
            }
            Err(error) => {
                if let Err(error) = self.reopen() {
                    tracing::error!(%error, "open the store again");
                }
                Err(error)
            }
        }
    }

    /// Opens the database anew. A commit that failed may have reached the disk all the same: then it is published now.
    fn reopen(&mut self) -> Result<()> {
        self.close();
        self.generation += 1;
        let seen = self.shared.view()?.revisions.current;
        let opened = open(&self.path, false)?;
        let (view, events) = guarded(|| {
            let view = View::open(&opened, self.generation)?;
            let events = since(&view, seen)?;
            Ok((view, events))
        })?;
        tracing::warn!(revision = view.revisions.current, "the store was opened again");
        self.shared.publish(view, events);
        self.database = Some(opened);
        Ok(())
    }

    fn close(&mut self) {
        let closed = self.database.take();
        let closed = guarded(|| closed.map_or(Ok(()), |database_| database_.close().map_err(database)));
        if let Err(error) = closed {
            tracing::warn!(%error, "close the store");
        }
    }
}

fn open(path: &Path, check: bool) -> Result<Database> {
    guarded(|| {
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(check)
            .create(path)
            .map_err(database)?;
        prepare(&database)?;
        Ok(database)
    })
}

fn since(view: &View, mut seen: Revision) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    while seen < view.revisions.current {
        let part = view.history(seen, "")?;
        events.extend(part.events);
        seen = part.until;
    }
    Ok(events)
}

/// Whoever asked may be gone; the write stands all the same.
fn answer(write: Write, outcome: Outcome) {
    fn send<T>(answer: oneshot::Sender<Result<T>>, result: Result<T>) {
        let _ = answer.send(result);
    }
    let odd = || StoreError::Unavailable("the writer mixed up its answers".to_owned());
    match write {
        Write::Put { answer, .. } => send(
            answer,
            match outcome {
                Outcome::Put(entry) => Ok(entry),
                Outcome::Refused(error) => Err(error),
                _ => Err(odd()),
            },
        ),
        Write::Delete { answer, .. } => send(
            answer,
            match outcome {
                Outcome::Deleted(entry, revision) => Ok((entry, revision)),
                Outcome::Refused(error) => Err(error),
                _ => Err(odd()),
            },
        ),
        Write::Compact { answer, .. } | Write::Reopen { answer, .. } => send(
            answer,
            match outcome {
                Outcome::Done => Ok(()),
                Outcome::Refused(error) => Err(error),
                _ => Err(odd()),
            },
        ),
    }
}
