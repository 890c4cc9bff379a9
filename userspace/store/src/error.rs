//! What a store can answer instead of a result.

use crate::{Entry, Revision};

#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The entry is not as the write expected; `None`: it is not there.
    #[error("the entry was changed by somebody else")]
    Conflict { actual: Option<Entry> },
    #[error("there is no such entry")]
    NotFound,
    /// As etcd's ErrCompacted: older history is gone.
    #[error("history before revision {oldest} was compacted")]
    Compacted { oldest: Revision },
    /// As etcd's ErrFutureRev.
    #[error("revision {wanted} is not there yet; the store is at {current}")]
    FutureRevision { wanted: Revision, current: Revision },
    /// A watcher that did not keep up; it may watch again from the last revision it saw.
    #[error("the watcher fell behind and was dropped")]
    Lagged,
    /// Nothing of the write was kept. Reads go on, and writes too once there is room.
    #[error("the store's disk is full; free some space, reads go on meanwhile: {0}")]
    Full(String),
    /// Told, never repaired over: what was read does not match its checksum.
    #[error("the store is damaged and was left as it is; restore a backup: {0}")]
    Corrupt(String),
    /// A value can be read with a key only that this server does not have.
    #[error("{key} is sealed with key {id}, which this server does not have")]
    Sealed { key: String, id: String },
    /// The outcome of a write that got this answer is not known.
    #[error("the store cannot be reached: {0}")]
    Unavailable(String),
    #[error("the store is closed")]
    Closed,
}
