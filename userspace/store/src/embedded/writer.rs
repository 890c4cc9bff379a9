//! The one writer: takes what waits, decides it, appends it to the log, publishes it, then answers.
//!
//! It alone owns the database, and opens it again when it broke: redb refuses everything after a failed write.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redb::Database;
use tokio::sync::{mpsc, oneshot};

use super::Write;
use super::checkpoint::{checkpoint, prepare};
use super::decide::{Decision, Outcome, delete, forget, put};
use super::failure::{database, guarded};
use super::live::Shared;
use super::log::{Log, spare};
use super::paced::PacedFile;
use super::tail::Tail;
use super::view::{Snapshot, View};
use crate::state::{Keep, Retention, Revisions};
use crate::{Entry, Event, Result, StoreError};

/// Writes of one commit at most: bounds how long the first of them waits.
const BATCH: usize = 1_024;
/// Lists that go on page by page, and watches that start late, may reach back this far, as with etcd under Kubernetes.
const KEEP: Keep = Keep { age: Duration::from_secs(600), revisions: 500_000, bytes: 512 << 20 };
/// Page cache of the database. The operating system caches the file as well.
const CACHE_BYTES: usize = 16 << 20;
/// Writes wait for the checkpoint when there are this many checkpoints' bytes without one.
const BEHIND: usize = 4;
/// Bytes of the file that the log's next segment begins as, at most.
const SPARE: usize = 16 << 20;
/// After a checkpoint that failed, until the next is tried.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Writer {
    path: PathBuf,
    shared: Arc<Shared>,
    log: Log,
    /// `None` while it could not be opened again.
    database: Option<Arc<Database>>,
    generation: u64,
    /// A read of it failed so that it must be opened again.
    broken: bool,
    checkpoint_bytes: usize,
    running: Option<JoinHandle<Result<Snapshot>>>,
    failed: Option<Instant>,
    /// To wake this writer when a checkpoint is done.
    queue: mpsc::WeakSender<Write>,
    retention: Retention,
    opened: Instant,
}

/// A batch of writes, before it is appended.
struct Decided {
    events: Vec<Event>,
    outcomes: Vec<Outcome>,
    revisions: Revisions,
}

impl Writer {
    pub(super) fn open(
        path: &Path,
        checkpoint_bytes: usize,
        queue: mpsc::WeakSender<Write>,
    ) -> Result<(Writer, Arc<Shared>)> {
        let database = open(path, true).or_else(|error| match error {
            // The check of every page ends in a commit; without room the store can still be read.
            StoreError::Full(_) => open(path, false),
            error => Err(error),
        })?;
        let snapshot = guarded(|| Snapshot::open(&database, 0))?;
        let Revisions { current, compacted } = snapshot.revisions;
        let (log, events) = Log::open(path, current)?;
        // A copy of the tables alone has no history.
        let compacted = compacted.max(log.complete_after().unwrap_or(current));
        let revisions = Revisions { current: current + events.len() as u64, compacted };
        let tail = Arc::new(Tail::new(current, events));
        let (snapshot, history) = (Arc::new(snapshot), log.history());
        let shared = Arc::new(Shared::new(View { snapshot, tail, history, revisions }));
        let writer = Writer {
            path: path.to_owned(),
            shared: shared.clone(),
            log,
            database: Some(Arc::new(database)),
            generation: 0,
            broken: false,
            checkpoint_bytes,
            running: None,
            failed: None,
            queue,
            retention: Retention::new(KEEP),
            opened: Instant::now(),
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
        self.shut();
    }

    fn serve(&mut self, batch: &[Write]) -> Result<Vec<Outcome>> {
        let found_broken = |write: &Write| matches!(write, Write::Reopen { generation, .. } if *generation == self.generation);
        if self.database.is_none() || self.broken || batch.iter().any(found_broken) {
            self.reopen()?;
        }
        self.catch_up()?;
        let mut decided = self.decide(batch)?;
        if self.broken {
            // A checkpoint that failed broke the tables under these reads.
            self.undo()?;
            self.reopen()?;
            decided = self.decide(batch)?;
        }
        let Decided { events, outcomes, revisions } = decided;
        if let Err(error) = self.append(&events) {
            self.undo()?;
            return Err(error);
        }
        self.publish(revisions, events)?;
        if let Err(error) = self.begin() {
            tracing::error!(%error, "begin a checkpoint");
        }
        Ok(outcomes)
    }

    /// What comes of each write; their events are in the tail, and are not published.
    fn decide(&mut self, batch: &[Write]) -> Result<Decided> {
        let view = self.shared.view()?;
        let mut revisions = view.revisions;
        let (mut events, mut outcomes) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for write in batch {
            match self.decide_one(&view, &mut revisions, write) {
                Ok((event, outcome)) => {
                    revisions.current += 1;
                    // Seen by the writes behind it, and by nobody else before it is published.
                    view.tail.push(event.clone());
                    events.push(event);
                    outcomes.push(outcome);
                }
                Err(outcome) => outcomes.push(outcome),
            }
        }
        Ok(Decided { events, outcomes, revisions })
    }

    /// Takes what was decided, and not published, out of the tail.
    fn undo(&self) -> Result<()> {
        let view = self.shared.view()?;
        view.tail.cut(view.revisions.current);
        Ok(())
    }

    fn decide_one(&mut self, view: &View, revisions: &mut Revisions, write: &Write) -> Decision {
        let next = revisions.current + 1;
        match write {
            Write::Put { key, value, expect, .. } => put(self.newest(view, key)?, key, value, *expect, next),
            Write::Delete { key, expect, .. } => delete(self.newest(view, key)?, *expect, next),
            Write::Compact { before, .. } => Err(forget(revisions, *before)),
            Write::Reopen { .. } | Write::Look => Err(Outcome::Done),
        }
    }

    /// The entry that is there. A damaged one refuses the write that would go over it, and no other.
    fn newest(&mut self, view: &View, key: &str) -> Result<Option<Entry>, Outcome> {
        guarded(|| view.newest(key)).map_err(|error| {
            self.broken |= matches!(error, StoreError::Unavailable(_) | StoreError::Full(_));
            Outcome::Refused(error)
        })
    }

    fn append(&mut self, events: &[Event]) -> Result<()> {
        match self.log.append(events) {
            Err(StoreError::Full(_)) if spare::remove(&self.path) => self.log.append(events),
            appended => appended,
        }
    }

    fn publish(&mut self, mut revisions: Revisions, events: Vec<Event>) -> Result<()> {
        let view = self.shared.view()?;
        if !events.is_empty() {
            let kept = self.retention.note(self.opened.elapsed(), revisions, self.log.bytes());
            revisions.compacted = kept.unwrap_or(revisions.compacted);
        }
        if revisions != view.revisions {
            let (snapshot, tail) = (view.snapshot.clone(), view.tail.clone());
            let before = revisions.compacted.min(snapshot.revisions.current);
            self.shared.publish(View { snapshot, tail, history: self.log.history(), revisions }, events);
            self.log.forget(before);
        }
        Ok(())
    }

    /// Takes a checkpoint that is done. Waits for one when too much is without: then what is wrong with it stops writes.
    fn catch_up(&mut self) -> Result<()> {
        if self.running.as_ref().is_some_and(JoinHandle::is_finished) {
            // A failure was told, and what is in the log is safe there.
            let _ = self.finish();
        }
        let bound = self.checkpoint_bytes.saturating_mul(BEHIND);
        if self.written()? >= bound {
            self.finish()?;
        }
        if self.written()? >= bound {
            self.start()?;
            self.finish()?;
        }
        Ok(())
    }

    /// Begins a checkpoint when there is enough for one.
    fn begin(&mut self) -> Result<()> {
        let pausing = self.failed.is_some_and(|at| at.elapsed() < PAUSE);
        if self.running.is_none() && !pausing && self.written()? >= self.checkpoint_bytes {
            self.start()?;
        }
        Ok(())
    }

    /// Bytes that no checkpoint has.
    fn written(&self) -> Result<usize> {
        Ok(self.shared.view()?.tail.bytes())
    }

    /// Begins to take everything that is published over into the tables.
    fn start(&mut self) -> Result<()> {
        let view = self.shared.view()?;
        let events = view.tail.events(view.snapshot.revisions.current, view.revisions.current);
        if events.is_empty() {
            return Ok(());
        }
        let database = self.database.clone().ok_or(StoreError::Closed)?;
        self.log.rotate()?;
        let (revisions, generation, queue) = (view.revisions, self.generation, self.queue.clone());
        let (path, spare_bytes) = (self.path.clone(), SPARE.min(self.checkpoint_bytes.saturating_mul(5) / 4));
        let work = move || {
            let done = guarded(|| {
                checkpoint(&database, &events, revisions)?;
                Snapshot::open(&database, generation)
            });
            spare::leave(&path, spare_bytes);
            drop(database);
            if let Some(queue) = queue.upgrade() {
                // A queue without a place wakes the writer too.
                let _ = queue.try_send(Write::Look);
            }
            done
        };
        let thread = std::thread::Builder::new().name("store-checkpoint".to_owned()).spawn(work);
        self.running =
            Some(thread.map_err(|error| StoreError::Unavailable(format!("start a checkpoint: {error}")))?);
        Ok(())
    }

    /// Waits for the checkpoint that runs, if one does.
    fn finish(&mut self) -> Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        let lost = |_| Err(StoreError::Unavailable("the checkpoint was lost".to_owned()));
        match running.join().unwrap_or_else(lost) {
            Ok(snapshot) => {
                self.failed = None;
                self.adopt(snapshot, self.shared.view()?.revisions)
            }
            Err(error) => {
                tracing::error!(%error, "a checkpoint failed; the log keeps what was written");
                self.failed = Some(Instant::now());
                self.reopen()?;
                Err(error)
            }
        }
    }

    /// Readers see the tables as of a checkpoint from now on.
    fn adopt(&mut self, snapshot: Snapshot, revisions: Revisions) -> Result<()> {
        let tail = Arc::new(self.shared.view()?.tail.after(snapshot.revisions.current));
        self.log.forget(revisions.compacted.min(snapshot.revisions.current));
        let (snapshot, history) = (Arc::new(snapshot), self.log.history());
        self.shared.publish(View { snapshot, tail, history, revisions }, Vec::new());
        Ok(())
    }

    /// Opens the database anew. A checkpoint that failed may have reached the disk all the same: then it counts.
    fn reopen(&mut self) -> Result<()> {
        if let Some(running) = self.running.take() {
            // What it came to shows in the tables.
            self.failed = (!matches!(running.join(), Ok(Ok(_)))).then(Instant::now);
        }
        self.close();
        self.generation += 1;
        let opened = open(&self.path, false)?;
        let snapshot = guarded(|| Snapshot::open(&opened, self.generation))?;
        tracing::warn!(checkpoint = snapshot.revisions.current, "the store was opened again");
        self.database = Some(Arc::new(opened));
        self.broken = false;
        self.adopt(snapshot, self.shared.view()?.revisions)
    }

    /// With all of the log in the tables, if the disk has room.
    fn shut(mut self) {
        let done = self.finish().and_then(|()| self.start()).and_then(|()| self.finish());
        spare::remove(&self.path);
        if let Err(error) = done {
            tracing::warn!(%error, "the last checkpoint failed; the log is read at the next start");
        }
        self.shared.close();
        self.close();
    }

    fn close(&mut self) {
        let Some(closed) = self.database.take().and_then(Arc::into_inner) else { return };
        if let Err(error) = guarded(|| closed.close().map_err(database)) {
            tracing::warn!(%error, "close the store");
        }
    }
}

fn open(path: &Path, check: bool) -> Result<Database> {
    guarded(|| {
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(check)
            .create_with_backend(PacedFile::open(path).map_err(database)?)
            .map_err(database)?;
        prepare(&database)?;
        Ok(database)
    })
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
        Write::Look => {}
    }
}
