//! The store of a single server: a log and redb's tables on the local disk, one writer, fsync before every answer.
//!
//! Writes that wait together are appended to the log together, with one sync. What is written is in memory too, until a
//! checkpoint takes it over into the tables, beside the writer and thousands of writes at a time. The tables hold what is;
//! the log goes on to hold what was, until it is compacted. Readers use snapshots and never wait for the writer.

mod checkpoint;
mod decide;
mod failure;
mod live;
mod log;
mod paced;
mod tail;
mod view;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use bytes::Bytes;
use redb::TableDefinition;
use tokio::sync::{mpsc, oneshot};

use self::failure::guarded;
use self::live::{Shared, feed};
use self::view::View;
use self::writer::Writer;
use crate::{Entry, Expect, Range, Result, Revision, Store, StoreError, Watch, WatchItem};

const OBJECTS: TableDefinition<&str, &[u8]> = TableDefinition::new("objects");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const CURRENT: &str = "revision";
const COMPACTED: &str = "compacted";
/// How the tables are laid out; a number that this build does not know is refused.
const FORMAT: &str = "format";
/// With the history in a log beside the tables.
const FORMAT_3: u64 = 3;

/// What is written before a checkpoint: it costs as much memory, and time at the next start after a kill.
const CHECKPOINT_BYTES: usize = 4 << 20;
/// Writes that may wait for the writer; more of them wait for a place.
const WRITE_QUEUE: usize = 4_096;

pub struct EmbeddedStore {
    shared: Arc<Shared>,
    /// `None` only while it is dropped.
    writes: Option<mpsc::Sender<Write>>,
    writer: Option<JoinHandle<()>>,
}

pub(crate) enum Write {
    Put {
        key: Arc<str>,
        value: Bytes,
        expect: Expect,
        answer: oneshot::Sender<Result<Entry>>,
    },
    Delete {
        key: Arc<str>,
        expect: Expect,
        answer: oneshot::Sender<Result<(Entry, Revision)>>,
    },
    Compact {
        before: Revision,
        answer: oneshot::Sender<Result<()>>,
    },
    /// A reader found the database of this generation broken.
    Reopen {
        generation: u64,
        answer: oneshot::Sender<Result<()>>,
    },
    /// A checkpoint came to its end.
    Look,
}

impl EmbeddedStore {
    /// Opens or creates the database file, and checks every page of it. A store that a power cut or kill interrupted
    /// opens at its last commit; one that was altered since is told as `Corrupt` and left as it is.
    pub fn open(path: &Path) -> Result<EmbeddedStore> {
        EmbeddedStore::open_with(path, CHECKPOINT_BYTES)
    }

    /// As [`Self::open`], with a checkpoint whenever so many bytes were written.
    pub fn open_with(path: &Path, checkpoint_bytes: usize) -> Result<EmbeddedStore> {
        let (writes, queue) = mpsc::channel(WRITE_QUEUE);
        let (writer, shared) = Writer::open(path, checkpoint_bytes, writes.downgrade())?;
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|error| StoreError::Unavailable(format!("start the writer: {error}")))?;
        Ok(EmbeddedStore { shared, writes: Some(writes), writer: Some(thread) })
    }

    /// Reads every record and its checksum; `Err(Corrupt)` names the first damaged one. Takes as long as reading the file.
    pub async fn verify(&self) -> Result<()> {
        self.read_blocking(|view| view.verify()).await
    }

    async fn send<T>(&self, write: Write, answer: oneshot::Receiver<Result<T>>) -> Result<T> {
        let writes = self.writes.as_ref().ok_or(StoreError::Closed)?;
        writes.send(write).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Reads from the present snapshot. If the database broke (the disk was full, or failed), it is opened again first.
    async fn read<T>(&self, read: impl Fn(&View) -> Result<T>) -> Result<T> {
        let view = self.shared.view()?;
        match guarded(|| read(&view)) {
            Err(StoreError::Unavailable(_) | StoreError::Full(_)) => {
                self.reopen(view.snapshot.generation).await?;
                let view = self.shared.view()?;
                guarded(|| read(&view))
            }
            result => result,
        }
    }

    /// Like `read`, for what takes long: it must not hold up the runtime's threads.
    async fn read_blocking<T: Send + 'static>(
        &self,
        read: impl Fn(&View) -> Result<T> + Send + Sync + 'static,
    ) -> Result<T> {
        let read = Arc::new(read);
        let mut view = self.shared.view()?;
        for last in [false, true] {
            let (work, snapshot) = (read.clone(), view.clone());
            let result = tokio::task::spawn_blocking(move || guarded(|| work(&snapshot)))
                .await
                .map_err(|_| StoreError::Closed)?;
            match result {
                Err(StoreError::Unavailable(_) | StoreError::Full(_)) if !last => {
                    self.reopen(view.snapshot.generation).await?;
                    view = self.shared.view()?;
                }
                result => return result,
            }
        }
        Err(StoreError::Closed)
    }

    async fn reopen(&self, generation: u64) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.send(Write::Reopen { generation, answer }, answered).await
    }
}

impl Drop for EmbeddedStore {
    /// Waits for the writes in hand, so that the file is closed and may be opened again.
    fn drop(&mut self) {
        self.writes = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<Entry>, Revision)> {
        self.read(|view| view.get(key, at)).await
    }

    async fn range(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Range> {
        let (prefix, start_after) = (prefix.to_owned(), start_after.map(str::to_owned));
        self.read_blocking(move |view| view.range(&prefix, start_after.as_deref(), limit, at)).await
    }

    async fn count(&self, prefix: &str, start_after: Option<&str>, at: Option<Revision>) -> Result<u64> {
        let (prefix, start_after) = (prefix.to_owned(), start_after.map(str::to_owned));
        self.read_blocking(move |view| view.count(&prefix, start_after.as_deref(), at)).await
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
        self.shared.view()?.revisions.resolve(Some(after))?;
        let (sender, watch) = Watch::channel();
        if let Some(sender) = self.shared.subscribe(prefix, after, sender, WatchItem::Progress(after)) {
            // What it missed lies on disk only: a task of its own reads it, at the watcher's speed.
            tokio::spawn(feed(self.shared.clone(), prefix.to_owned(), after, sender));
        }
        Ok(watch)
    }

    async fn revision(&self) -> Result<Revision> {
        Ok(self.shared.view()?.revisions.current)
    }

    async fn compact(&self, before: Revision) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.send(Write::Compact { before, answer }, answered).await
    }
}
