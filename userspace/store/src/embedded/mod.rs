//! The store of a single server: redb on the local disk, one writer, fsync before every answer.
//!
//! Writes that wait together are committed together. Readers use snapshots and never wait for the writer.

mod reader;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use bytes::Bytes;
use redb::{Database, TableDefinition};
use tokio::sync::{mpsc, oneshot};

use crate::state::{Recent, Revisions};
use crate::{Entry, Event, Expect, Range, Result, Revision, Store, StoreError, Watch, WatchItem};

const OBJECTS: TableDefinition<&str, &[u8]> = TableDefinition::new("objects");
const HISTORY: TableDefinition<u64, &[u8]> = TableDefinition::new("history");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const CURRENT: &str = "revision";
const COMPACTED: &str = "compacted";

/// Events kept in memory for watchers; older ones are read from disk.
const RECENT_EVENTS: usize = 10_000;
const RECENT_BYTES: usize = 16 << 20;
/// Writes that may wait for the writer; more of them wait for a place.
const WRITE_QUEUE: usize = 4_096;
/// Page cache of the database. The operating system caches the file as well.
const CACHE_BYTES: usize = 16 << 20;

pub struct EmbeddedStore {
    shared: Arc<Shared>,
    /// `None` only while the store is being dropped.
    writes: Option<mpsc::Sender<Write>>,
    writer: Option<JoinHandle<()>>,
}

impl Drop for EmbeddedStore {
    /// Waits for the writer, so that the file is free when the store is gone.
    fn drop(&mut self) {
        self.writes = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has nothing left to say.
            let _ = writer.join();
        }
    }
}

pub(crate) struct Shared {
    database: Database,
    live: Mutex<Live>,
}

/// What was committed last, and who waits for more.
struct Live {
    revisions: Revisions,
    recent: Recent,
    watchers: Vec<Watcher>,
}

struct Watcher {
    prefix: String,
    sender: mpsc::Sender<Result<WatchItem>>,
}

pub(crate) enum Write {
    Put { key: Arc<str>, value: Bytes, expect: Expect, answer: oneshot::Sender<Result<Entry>> },
    Delete { key: Arc<str>, expect: Expect, answer: oneshot::Sender<Result<(Entry, Revision)>> },
    Compact { before: Revision, answer: oneshot::Sender<Result<()>> },
}

impl EmbeddedStore {
    /// Opens or creates the database file. A store that a power cut or kill interrupted opens at its last commit.
    pub fn open(path: &Path) -> Result<EmbeddedStore> {
        let database =
            Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(reader::database)?;
        let revisions = writer::prepare(&database)?;
        let live = Live {
            revisions,
            recent: Recent::new(revisions.current, RECENT_EVENTS, RECENT_BYTES),
            watchers: Vec::new(),
        };
        let shared = Arc::new(Shared { database, live: Mutex::new(live) });
        let (writes, queue) = mpsc::channel(WRITE_QUEUE);
        let for_writer = shared.clone();
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer::run(&for_writer, queue))
            .map_err(|error| StoreError::Unavailable(format!("start the writer: {error}")))?;
        Ok(EmbeddedStore { shared, writes: Some(writes), writer: Some(writer) })
    }

    async fn send<T>(&self, write: Write, answer: oneshot::Receiver<Result<T>>) -> Result<T> {
        let writes = self.writes.as_ref().ok_or(StoreError::Closed)?;
        writes.send(write).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

impl Shared {
    /// Nothing that panics runs under the lock, so a poisoned one is as good.
    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    /// Makes a commit visible: to readers by its revision, to watchers as one item each.
    fn publish(&mut self, events: Vec<Event>) {
        let Some(last) = events.last() else { return };
        self.revisions.current = last.revision();
        self.watchers.retain(|watcher| {
            let matching: Vec<Event> =
                events.iter().filter(|event| event.key().starts_with(&watcher.prefix)).cloned().collect();
            // A full queue drops the watcher; it is never waited for.
            matching.is_empty() && !watcher.sender.is_closed()
                || !matching.is_empty() && watcher.sender.try_send(Ok(WatchItem::Events(matching))).is_ok()
        });
        events.into_iter().for_each(|event| self.recent.push(event));
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<Entry>, Revision)> {
        reader::get(&self.shared, key, at)
    }

    async fn range(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Range> {
        let (shared, prefix) = (self.shared.clone(), prefix.to_owned());
        let start_after = start_after.map(str::to_owned);
        // A long range must not hold up the runtime's thread.
        tokio::task::spawn_blocking(move || {
            reader::range(&shared, &prefix, start_after.as_deref(), limit, at)
        })
        .await
        .map_err(|_| StoreError::Closed)?
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Entry> {
        let (answer, answered) = oneshot::channel();
        self.send(Write::Put { key: key.into(), value, expect, answer }, answered).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(Entry, Revision)> {
        let (answer, answered) = oneshot::channel();
        self.send(Write::Delete { key: key.into(), expect, answer }, answered).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch> {
        let (sender, watch) = Watch::channel();
        let mut live = self.shared.live();
        live.revisions.resolve(Some(after))?;
        let missed = match live.recent.after(after, prefix) {
            Some(events) => events,
            None => reader::history(&self.shared.database, after, live.revisions.current, prefix)?,
        };
        // The first item of a new queue always fits. Under the lock, so that no commit falls between.
        let first = if missed.is_empty() { WatchItem::Progress(after) } else { WatchItem::Events(missed) };
        let _ = sender.try_send(Ok(first));
        live.watchers.push(Watcher { prefix: prefix.to_owned(), sender });
        Ok(watch)
    }

    async fn revision(&self) -> Result<Revision> {
        Ok(self.shared.live().revisions.current)
    }

    async fn compact(&self, before: Revision) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.send(Write::Compact { before, answer }, answered).await
    }
}
