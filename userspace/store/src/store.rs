//! The interface of every store.

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Entry, Expect, Range, Result, Revision, Watch};

/// Keys to values under one global revision, with etcd's semantics.
///
/// Calls may be made concurrently and in any order; each is atomic.
///
/// - **Writes** are compare-and-swap. `Ok` means durable. `Conflict` and `NotFound` mean that nothing was written; read and
///   decide again. `Full` and `Corrupt` mean the same, and a retry needs an administrator first. After
///   `Unavailable` and `Closed` the outcome is unknown: read the entry before a retry.
/// - **Reads** without a revision see every write that was acknowledged before they started. To read a large range at one
///   revision, pass the first page's `revision` to the following pages. `Compacted` means that the revision is too old:
///   start again without one.
/// - **Unreadable** values are not errors: the entry is given, and [`crate::Entry::unreadable`] says why.
/// - **Watches** continue where a read ended: `range(..)` at revision R, then `watch(.., R)`, misses nothing. A watch ends
///   with one error. After `Lagged` and `Unavailable`, watch again after the last revision that was received; after
///   `Compacted`, read the range again.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The entry now or at a revision, and the revision of the read.
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<Entry>, Revision)>;

    /// Entries whose keys start with `prefix`, and follow `start_after` if given; `limit` 0 means all.
    async fn range(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Range>;

    /// The number of entries that a range without a limit would have.
    async fn count(&self, prefix: &str, start_after: Option<&str>, at: Option<Revision>) -> Result<u64>;

    /// Writes the value. `Err(Conflict)` has the entry that does not meet the expectation.
    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Entry>;

    /// Deletes the entry; returns it and the revision of the deletion. `Err(NotFound)` if there is none.
    async fn delete(&self, key: &str, expect: Expect) -> Result<(Entry, Revision)>;

    /// Events of keys with `prefix` whose revision is greater than `after`, in order, without gaps.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch>;

    /// The revision of the last write.
    async fn revision(&self) -> Result<Revision>;

    /// Drops what was overwritten or deleted before `before`: reads and watches from there fail with `Compacted`.
    async fn compact(&self, before: Revision) -> Result<()>;
}
