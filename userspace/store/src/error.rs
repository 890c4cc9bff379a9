//! The errors of a store.

use crate::{Entry, Revision};

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Why a call failed. [`crate::Store`] documents what to do about each.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The entry is not as the write expected; `None`: it does not exist.
    #[error("the entry was changed by another writer")]
    Conflict { actual: Option<Entry> },
    #[error("the entry does not exist")]
    NotFound,
    /// As etcd's ErrCompacted: older history is gone.
    #[error("history before revision {oldest} was compacted")]
    Compacted { oldest: Revision },
    /// As etcd's ErrFutureRev.
    #[error("revision {wanted} is in the future; the store is at {current}")]
    FutureRevision { wanted: Revision, current: Revision },
    /// A slow watcher; it may watch again after the last revision that it received.
    #[error("the watcher fell behind and was dropped")]
    Lagged,
    /// Nothing was written. Reads work, and writes work again once there is room.
    #[error("the store's disk is full; free some space, reads still work: {0}")]
    Full(String),
    /// Nothing was written: the value is larger than the store takes.
    #[error("the object is too large for the store: {0}")]
    TooLarge(String),
    /// What was read does not match its checksum. The store never repairs it.
    #[error("the store is damaged and was not changed; restore a backup: {0}")]
    Corrupt(String),
    /// The outcome of a write with this error is unknown.
    #[error("the store cannot be reached: {0}")]
    Unavailable(String),
    #[error("the store is closed")]
    Closed,
}
