//! The store: keys to values under one global revision, with etcd's semantics.
//!
//! In: compare-and-swap writes, reads at a revision, watches from a revision. Out: entries and ordered events; a write is
//! durable before it is acknowledged. [`embedded::EmbeddedStore`] is for one server, [`etcd::EtcdStore`] for several;
//! [`sealed::SealedStore`] encrypts a part of either.
//!
//! ```text
//!                Store (trait)
//!   ┌──────────────┼──────────────┐
//!  SealedStore   EtcdStore   EmbeddedStore ── Write ──> Writer (one thread) ── append, fsync ──> Log (segments)
//!   │ wraps        │ gRPC         │ reads                 │ publishes              every few MiB │ checkpoint
//!   v              v              v                       v                                      v
//!  any Store     etcd cluster   View <──────────────── Hub ──> Watch, Watch, ...              redb tables
//!                                 = tables as of the last checkpoint + Memtable since then, or - History for the past
//! ```
//!
//! [`backup`] writes all of a store into one file, and makes a store from it.
//!
//! [`Store`] documents what callers may rely on, `embedded::writer` the order of a write's steps.

pub mod backup;
pub mod embedded;
mod entry;
mod error;
pub mod etcd;
mod record;
pub mod sealed;
mod state;
mod store;
mod watch;

pub use entry::{Entry, Event, Expect, Range, Revision};
pub use error::{Result, StoreError};
pub use store::Store;
pub use watch::{Watch, WatchItem};
