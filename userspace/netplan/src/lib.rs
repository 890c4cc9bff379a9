//! What the node's network should be, decided from API objects: services, policy, pods and routes to map entries.
//!
//! PURE: objects in by `apply_*`/`delete_*`, ordered [`Write`]s out. Nothing here sleeps, reads a clock or does I/O.

pub mod write;

pub use write::{Observed, Prefix, VerdictEntry, VerdictMapId, Write};
