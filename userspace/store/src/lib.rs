//! The store: keys to values under one global revision, with etcd's semantics.
//!
//! In: compare-and-swap writes, reads at a revision, watches from a revision. Out: entries, ordered events, durable
//! before they are acknowledged. [`embedded::EmbeddedStore`] is for one server, [`etcd::EtcdStore`] for several;
//! [`sealed::SealedStore`] encrypts part of either.

pub mod embedded;
mod error;
pub mod etcd;
mod record;
pub mod sealed;
mod state;
mod watch;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub use error::StoreError;
pub use watch::{Watch, WatchItem};

/// A global, ever-growing number; every successful write takes the next one. 0 is before the first write.
pub type Revision = u64;

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A key with its value and when it was created and last written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Arc<str>,
    pub value: Bytes,
    pub created: Revision,
    pub modified: Revision,
}

/// One page of a range, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub entries: Vec<Entry>,
    /// At which the range was read.
    pub revision: Revision,
    /// Whether there are entries behind the page.
    pub more: bool,
}

/// What a write expects to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Absent,
    /// The entry's `modified`.
    Revision(Revision),
    Any,
}

/// A write that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Put { entry: Entry, previous: Option<Entry> },
    Delete { previous: Entry, revision: Revision },
}

impl Event {
    pub fn revision(&self) -> Revision {
        match self {
            Event::Put { entry, .. } => entry.modified,
            Event::Delete { revision, .. } => *revision,
        }
    }

    pub fn key(&self) -> &Arc<str> {
        match self {
            Event::Put { entry, .. } => &entry.key,
            Event::Delete { previous, .. } => &previous.key,
        }
    }
}

#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The entry as it is now or was at a revision, and the revision of the read.
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<Entry>, Revision)>;

    /// Entries whose keys start with `prefix`, behind `start_after` if given; `limit` 0 means all.
    async fn range(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Range>;

    /// How many entries a range without a limit would have.
    async fn count(&self, prefix: &str, start_after: Option<&str>, at: Option<Revision>) -> Result<u64>;

    /// Writes; durable when it returns. `Err(Conflict)` with what is there if it is not as expected.
    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Entry>;

    /// Deletes; the entry as it was, and the revision of the deletion. `Err(NotFound)` if there is none.
    async fn delete(&self, key: &str, expect: Expect) -> Result<(Entry, Revision)>;

    /// Events of keys with `prefix` whose revision is greater than `after`, in order, without gaps.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch>;

    /// The revision of the last write.
    async fn revision(&self) -> Result<Revision>;

    /// Forgets what was overwritten or deleted before `before`: reads and watches from there fail with `Compacted`.
    async fn compact(&self, before: Revision) -> Result<()>;
}
