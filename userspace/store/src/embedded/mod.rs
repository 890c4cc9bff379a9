//! The store of a single server: a log and redb's tables on the local disk, one writer, fsync before every answer.
//!
//! Writes that wait together are appended to the log together, with one sync. They are also in memory, until a checkpoint
//! in another thread writes thousands of them into the tables. The tables hold the present; the log keeps the past until
//! it is compacted. Readers use snapshots and never wait for the writer.
//!
//! In: calls of [`Store`]. Out: two kinds of files: the tables, and next to them the log.

mod checkpoint;
mod decide;
pub mod disk;
mod failure;
mod format;
mod hub;
mod log;
mod memtable;
mod restore;
mod throttled_file;
mod view;
mod write;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use self::disk::{Disk, OsDisk};
use self::failure::catch_panics;
use self::hub::{Hub, feed_from_disk};
pub(crate) use self::restore::Restoring;
use self::view::View;
use self::write::Write;
use self::writer::Writer;
use crate::backup::Pages;
use crate::{Entry, Expect, Range, Result, Revision, Store, StoreError, Watch, WatchItem};

/// Written bytes after which a checkpoint starts. They occupy memory, and are read again at the start after a kill.
const CHECKPOINT_BYTES: usize = 4 << 20;
/// Bounds the writes in the writer's queue; callers wait for room.
const MAX_QUEUED_WRITES: usize = 4_096;

/// A store in one file and its log. One process may have it open; dropping it waits for queued writes and closes the file.
pub struct EmbeddedStore {
    hub: Arc<Hub>,
    /// `None` only during drop.
    writes: Option<mpsc::Sender<Write>>,
    writer: Option<JoinHandle<()>>,
}

impl EmbeddedStore {
    /// Opens or creates the database file, and checks every page of it. After a power cut or kill the store opens at its
    /// last commit. A file that was altered is `Err(Corrupt)`, and is not changed.
    pub fn open(path: &Path) -> Result<EmbeddedStore> {
        EmbeddedStore::open_with(path, CHECKPOINT_BYTES)
    }

    /// As [`Self::open`], with a checkpoint after that many written bytes.
    pub fn open_with(path: &Path, checkpoint_bytes: usize) -> Result<EmbeddedStore> {
        EmbeddedStore::open_on(Arc::new(OsDisk), path, checkpoint_bytes)
    }

    /// As [`Self::open_with`], on another disk than the operating system's.
    pub fn open_on(disk: Arc<dyn Disk>, path: &Path, checkpoint_bytes: usize) -> Result<EmbeddedStore> {
        let (writes, queue) = mpsc::channel(MAX_QUEUED_WRITES);
        let (writer, hub) = Writer::open(disk, path, checkpoint_bytes, writes.downgrade())?;
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|error| StoreError::Unavailable(format!("starting the writer failed: {error}")))?;
        Ok(EmbeddedStore { hub, writes: Some(writes), writer: Some(thread) })
    }

    /// Reads every record and its checksum; `Err(Corrupt)` names the first damaged one. Takes as long as reading the files.
    pub async fn verify(&self) -> Result<()> {
        self.read_blocking(|view| view.verify()).await
    }

    /// All entries of this moment, for a backup. Writes go on.
    pub fn pin(&self) -> Result<Pinned> {
        Ok(Pinned { view: self.hub.view()? })
    }

    async fn send<T>(&self, write: Write, answer: oneshot::Receiver<Result<T>>) -> Result<T> {
        let writes = self.writes.as_ref().ok_or(StoreError::Closed)?;
        writes.send(write).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Reads from the last commit. If the database broke (the disk was full, or failed), opens it again and retries once.
    async fn read<T>(&self, read: impl Fn(&View) -> Result<T>) -> Result<T> {
        let view = self.hub.view()?;
        match catch_panics(|| read(&view)) {
            Err(StoreError::Unavailable(_) | StoreError::Full(_)) => {
                self.reopen(view.snapshot.generation).await?;
                let view = self.hub.view()?;
                catch_panics(|| read(&view))
            }
            result => result,
        }
    }

    /// Like `read`, on a blocking thread: for reads that may take long.
    async fn read_blocking<T: Send + 'static>(
        &self,
        read: impl Fn(&View) -> Result<T> + Send + Sync + 'static,
    ) -> Result<T> {
        let read = Arc::new(read);
        let mut view = self.hub.view()?;
        for last in [false, true] {
            let (work, snapshot) = (read.clone(), view.clone());
            let result = tokio::task::spawn_blocking(move || catch_panics(|| work(&snapshot)))
                .await
                .map_err(|_| StoreError::Closed)?;
            match result {
                Err(StoreError::Unavailable(_) | StoreError::Full(_)) if !last => {
                    self.reopen(view.snapshot.generation).await?;
                    view = self.hub.view()?;
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

/// The store as of one commit. The tables keep what it reads until it is dropped.
pub struct Pinned {
    view: Arc<View>,
}

#[async_trait]
impl Pages for Pinned {
    async fn page(&self, start_after: Option<&str>, limit: usize) -> Result<Range> {
        let (view, start_after) = (self.view.clone(), start_after.map(str::to_owned));
        let read = move || catch_panics(|| view.range("", start_after.as_deref(), limit, None));
        tokio::task::spawn_blocking(read).await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for EmbeddedStore {
    /// Waits for queued writes and closes the file, so that it can be opened again.
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
        self.hub.view()?.revisions.resolve(Some(after))?;
        let (sender, watch) = Watch::channel();
        if let Some(sender) = self.hub.subscribe(prefix, after, sender, WatchItem::Progress(after)) {
            // Only the disk has what it missed; a task sends it at the watcher's speed.
            tokio::spawn(feed_from_disk(self.hub.clone(), prefix.to_owned(), after, sender));
        }
        Ok(watch)
    }

    async fn revision(&self) -> Result<Revision> {
        Ok(self.hub.view()?.revisions.current)
    }

    async fn compact(&self, before: Revision) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.send(Write::Compact { before, answer }, answered).await
    }
}
