//! The writer thread: takes queued writes, decides them, appends them to the log, publishes them, then answers.
//!
//! In: [`Write`]s from a queue. Out: answers; views and events in the [`Hub`]; checkpoints in the tables.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redb::Database;
use tokio::sync::mpsc;

use super::checkpoint::{checkpoint, prepare};
use super::decide::{Decision, Outcome, compact, delete, put};
use super::disk::Disk;
use super::failure::{catch_panics, database_error, file_error};
use super::hub::Hub;
use super::log::{Log, spare};
use super::memtable::Memtable;
use super::throttled_file::ThrottledFile;
use super::view::{Snapshot, View};
use super::write::Write;
use crate::state::{Retention, RetentionLimits, Revisions};
use crate::{Entry, Event, Result, StoreError};

/// Bounds the writes of one commit, and so how long the first of them waits.
const MAX_BATCH: usize = 1_024;
/// How far back paged lists and late watches may reach. A kube-apiserver keeps etcd's history for five to ten minutes, and clients
/// rely on the end of an old token.
const RETENTION: RetentionLimits =
    RetentionLimits { age: Duration::from_secs(300), revisions: 500_000, bytes: 512 << 20 };
/// Page cache of the database. The operating system caches the file as well.
const CACHE_BYTES: usize = 16 << 20;
/// Writes wait for a checkpoint once the memtable has this many times the bytes of one.
const MAX_CHECKPOINTS_BEHIND: usize = 4;
/// Bounds the size of the spare log segment.
const MAX_SPARE_BYTES: usize = 16 << 20;
/// Between a failed checkpoint and the next attempt.
const CHECKPOINT_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The only owner of the log and of the database.
///
/// [`Writer::open`] reads the tables and the log, and gives the [`Hub`] that readers use; [`Writer::run`] then serves the
/// queue until its senders are gone. Each batch takes these steps, and a step starts only after the one before it succeeded:
///
/// 1. Adopt a finished checkpoint; wait for one if too much is not in the tables yet.
/// 2. Decide each write. Its event enters the memtable, where later writes of the batch see it and readers do not.
/// 3. Append all events to the log with one sync. If this fails, the events leave the memtable and every write of the
///    batch gets the error: nothing was written.
/// 4. Publish the view and the events in one step. From here on readers and watchers see the batch.
/// 5. Start a checkpoint in another thread if enough was written, then answer.
///
/// After a failed write redb refuses everything, so the writer closes and opens the database again, before the next batch
/// or when a reader asks for it. A failed checkpoint loses nothing: the log has its events until a later one succeeds.
pub(super) struct Writer {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    hub: Arc<Hub>,
    log: Log,
    /// `None` if the last attempt to open it failed.
    database: Option<Arc<Database>>,
    /// How often the database was opened again.
    generation: u64,
    /// A read by the writer failed: the database must be opened again.
    broken: bool,
    checkpoint_bytes: usize,
    /// The checkpoint that is running.
    running: Option<JoinHandle<Result<Snapshot>>>,
    /// When the last checkpoint failed.
    failed_at: Option<Instant>,
    /// The writer's own queue: a checkpoint wakes the writer through it.
    queue: mpsc::WeakSender<Write>,
    retention: Retention,
    opened_at: Instant,
}

/// A batch of writes, before it is appended.
struct Batch {
    events: Vec<Event>,
    outcomes: Vec<Outcome>,
    revisions: Revisions,
}

impl Writer {
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        checkpoint_bytes: usize,
        queue: mpsc::WeakSender<Write>,
    ) -> Result<(Writer, Arc<Hub>)> {
        let database = open(&*disk, path, true).or_else(|error| match error {
            // The check of every page ends in a commit. On a full disk the store can still be read without it.
            StoreError::Full(_) => open(&*disk, path, false),
            error => Err(error),
        })?;
        let snapshot = catch_panics(|| Snapshot::open(&database, 0))?;
        let Revisions { current, compacted } = snapshot.revisions;
        let (log, events) = Log::open(disk.clone(), path, current)?;
        // A copy of the tables without the log has no history.
        let compacted = compacted.max(log.complete_after().unwrap_or(current));
        let revisions = Revisions { current: current + events.len() as u64, compacted };
        let memtable = Arc::new(Memtable::new(current, events));
        let (snapshot, history) = (Arc::new(snapshot), log.history());
        let hub = Arc::new(Hub::new(View { snapshot, memtable, history, revisions }));
        let writer = Writer {
            disk,
            path: path.to_owned(),
            hub: hub.clone(),
            log,
            database: Some(Arc::new(database)),
            generation: 0,
            broken: false,
            checkpoint_bytes,
            running: None,
            failed_at: None,
            queue,
            retention: Retention::new(RETENTION),
            opened_at: Instant::now(),
        };
        Ok((writer, hub))
    }

    /// Runs until every sender is gone.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Write>) {
        let mut writes = Vec::with_capacity(MAX_BATCH);
        while queue.blocking_recv_many(&mut writes, MAX_BATCH) > 0 {
            match self.serve(&writes) {
                Ok(outcomes) => {
                    writes.drain(..).zip(outcomes).for_each(|(write, outcome)| write.answer(outcome));
                }
                Err(error) => {
                    tracing::error!(writes = writes.len(), %error, "commit failed");
                    writes.drain(..).for_each(|write| write.answer(Outcome::Refused(error.clone())));
                }
            }
        }
        self.shut_down();
    }

    fn serve(&mut self, writes: &[Write]) -> Result<Vec<Outcome>> {
        let found_broken = |write: &Write| matches!(write, Write::Reopen { generation, .. } if *generation == self.generation);
        if self.database.is_none() || self.broken || writes.iter().any(found_broken) {
            self.reopen()?;
        }
        self.adopt_or_await_checkpoint()?;
        let mut batch = self.decide(writes)?;
        if self.broken {
            // A failed checkpoint broke the database during these reads.
            self.undo()?;
            self.reopen()?;
            batch = self.decide(writes)?;
        }
        let Batch { events, outcomes, revisions } = batch;
        if let Err(error) = self.append(&events) {
            self.undo()?;
            return Err(error);
        }
        self.publish(revisions, events)?;
        if let Err(error) = self.start_checkpoint_if_due() {
            tracing::error!(%error, "start checkpoint failed");
        }
        Ok(outcomes)
    }

    /// Decides each write. The events are in the memtable, and not published.
    fn decide(&mut self, writes: &[Write]) -> Result<Batch> {
        let view = self.hub.view()?;
        let mut revisions = view.revisions;
        let (mut events, mut outcomes) = (Vec::with_capacity(writes.len()), Vec::with_capacity(writes.len()));
        for write in writes {
            match self.decide_one(&view, &mut revisions, write) {
                Ok((event, outcome)) => {
                    revisions.current += 1;
                    view.memtable.push(event.clone());
                    events.push(event);
                    outcomes.push(outcome);
                }
                Err(outcome) => outcomes.push(outcome),
            }
        }
        Ok(Batch { events, outcomes, revisions })
    }

    /// Removes events from the memtable that were decided and not published.
    fn undo(&self) -> Result<()> {
        let view = self.hub.view()?;
        view.memtable.truncate(view.revisions.current);
        Ok(())
    }

    fn decide_one(&mut self, view: &View, revisions: &mut Revisions, write: &Write) -> Decision {
        let next = revisions.current + 1;
        match write {
            Write::Put { key, value, expect, .. } => put(self.newest(view, key)?, key, value, *expect, next),
            Write::Delete { key, expect, .. } => delete(self.newest(view, key)?, *expect, next),
            Write::Compact { before, .. } => Err(compact(revisions, *before)),
            Write::Reopen { .. } | Write::Wake => Err(Outcome::Done),
        }
    }

    /// The entry that exists. A damaged one refuses writes to its own key, and to no other.
    fn newest(&mut self, view: &View, key: &str) -> Result<Option<Entry>, Outcome> {
        catch_panics(|| view.newest(key)).map_err(|error| {
            self.broken |= matches!(error, StoreError::Unavailable(_) | StoreError::Full(_));
            Outcome::Refused(error)
        })
    }

    /// On a full disk the spare segment gives its room.
    fn append(&mut self, events: &[Event]) -> Result<()> {
        match self.log.append(events) {
            Err(StoreError::Full(_)) if spare::remove(&*self.disk, &self.path) => self.log.append(events),
            appended => appended,
        }
    }

    fn publish(&mut self, mut revisions: Revisions, events: Vec<Event>) -> Result<()> {
        let view = self.hub.view()?;
        if !events.is_empty() {
            let kept = self.retention.record(self.opened_at.elapsed(), revisions, self.log.bytes());
            revisions.compacted = kept.unwrap_or(revisions.compacted);
        }
        if revisions != view.revisions {
            let (snapshot, memtable) = (view.snapshot.clone(), view.memtable.clone());
            let before = revisions.compacted.min(snapshot.revisions.current);
            self.hub.publish(View { snapshot, memtable, history: self.log.history(), revisions }, events);
            self.log.remove_until(before);
        }
        Ok(())
    }

    /// Adopts a finished checkpoint. If too much is not in the tables yet, waits for a checkpoint; its failure is then the
    /// failure of the batch.
    fn adopt_or_await_checkpoint(&mut self) -> Result<()> {
        if self.running.as_ref().is_some_and(JoinHandle::is_finished) {
            // A failure was logged, and the log has the events.
            let _ = self.finish_checkpoint();
        }
        let bound = self.checkpoint_bytes.saturating_mul(MAX_CHECKPOINTS_BEHIND);
        if self.memtable_bytes()? >= bound {
            self.finish_checkpoint()?;
        }
        if self.memtable_bytes()? >= bound {
            self.start_checkpoint()?;
            self.finish_checkpoint()?;
        }
        Ok(())
    }

    fn start_checkpoint_if_due(&mut self) -> Result<()> {
        let waits = self.failed_at.is_some_and(|at| at.elapsed() < CHECKPOINT_RETRY_INTERVAL);
        if self.running.is_none() && !waits && self.memtable_bytes()? >= self.checkpoint_bytes {
            self.start_checkpoint()?;
        }
        Ok(())
    }

    fn memtable_bytes(&self) -> Result<usize> {
        Ok(self.hub.view()?.memtable.bytes())
    }

    /// Starts a thread that writes everything published so far into the tables.
    fn start_checkpoint(&mut self) -> Result<()> {
        let view = self.hub.view()?;
        let events = view.memtable.events(view.snapshot.revisions.current, view.revisions.current);
        if events.is_empty() {
            return Ok(());
        }
        let database = self.database.clone().ok_or(StoreError::Closed)?;
        let segment_bytes = self.log.rotate()? as usize;
        let (revisions, generation, queue) = (view.revisions, self.generation, self.queue.clone());
        let (disk, path) = (self.disk.clone(), self.path.clone());
        // Small appends are padded: their segments are longer than what they hold.
        let spare_bytes = segment_bytes.max(self.checkpoint_bytes).saturating_mul(5) / 4;
        let spare_bytes = spare_bytes.min(MAX_SPARE_BYTES);
        let work = move || {
            let done = catch_panics(|| {
                checkpoint(&database, &events, revisions)?;
                Snapshot::open(&database, generation)
            });
            spare::create(&*disk, &path, spare_bytes);
            drop(database);
            if let Some(queue) = queue.upgrade() {
                // If the queue is full, the writer is awake.
                let _ = queue.try_send(Write::Wake);
            }
            done
        };
        let thread = std::thread::Builder::new().name("store-checkpoint".to_owned()).spawn(work);
        let failed =
            |error| StoreError::Unavailable(format!("starting the checkpoint thread failed: {error}"));
        self.running = Some(thread.map_err(failed)?);
        Ok(())
    }

    /// Waits for the running checkpoint, if any, and adopts it. After a failure opens the database again.
    fn finish_checkpoint(&mut self) -> Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        let lost = |_| Err(StoreError::Unavailable("the checkpoint thread panicked".to_owned()));
        match running.join().unwrap_or_else(lost) {
            Ok(snapshot) => {
                self.failed_at = None;
                self.adopt(snapshot, self.hub.view()?.revisions)
            }
            Err(error) => {
                tracing::error!(%error, "checkpoint failed; the log keeps the writes");
                self.failed_at = Some(Instant::now());
                self.reopen()?;
                Err(error)
            }
        }
    }

    /// Publishes the tables as of a checkpoint.
    fn adopt(&mut self, snapshot: Snapshot, revisions: Revisions) -> Result<()> {
        let memtable = Arc::new(self.hub.view()?.memtable.rebased(snapshot.revisions.current));
        self.log.remove_until(revisions.compacted.min(snapshot.revisions.current));
        let (snapshot, history) = (Arc::new(snapshot), self.log.history());
        self.hub.publish(View { snapshot, memtable, history, revisions }, Vec::new());
        Ok(())
    }

    /// Closes the database and opens it again. If a failed checkpoint reached the disk nevertheless, its tables are used.
    fn reopen(&mut self) -> Result<()> {
        if let Some(running) = self.running.take() {
            self.failed_at = (!matches!(running.join(), Ok(Ok(_)))).then(Instant::now);
        }
        self.close_database();
        self.generation += 1;
        let opened = open(&*self.disk, &self.path, false)?;
        let snapshot = catch_panics(|| Snapshot::open(&opened, self.generation))?;
        let checkpoint = snapshot.revisions.current;
        tracing::warn!(path = %self.path.display(), checkpoint, "database opened again");
        self.database = Some(Arc::new(opened));
        self.broken = false;
        self.adopt(snapshot, self.hub.view()?.revisions)
    }

    /// Writes the rest of the log into the tables, if the disk has room, and closes the store.
    fn shut_down(mut self) {
        let done = self
            .finish_checkpoint()
            .and_then(|()| self.start_checkpoint())
            .and_then(|()| self.finish_checkpoint());
        spare::remove(&*self.disk, &self.path);
        if let Err(error) = done {
            tracing::warn!(%error, "last checkpoint failed; the next start reads the log");
        }
        self.hub.close();
        self.close_database();
    }

    fn close_database(&mut self) {
        let Some(closed) = self.database.take().and_then(Arc::into_inner) else { return };
        if let Err(error) = catch_panics(|| closed.close().map_err(database_error)) {
            tracing::warn!(path = %self.path.display(), %error, "close database failed");
        }
    }
}

/// `check`: of every page.
fn open(disk: &dyn Disk, path: &Path, check: bool) -> Result<Database> {
    catch_panics(|| {
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(check)
            .create_with_backend(ThrottledFile::new(disk.open_tables(path).map_err(file_error)?))
            .map_err(database_error)?;
        prepare(&database)?;
        Ok(database)
    })
}
