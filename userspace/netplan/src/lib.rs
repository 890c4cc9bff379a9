//! What the node's network should be, decided from API objects: services, policy, pods and routes to map entries.
//!
//! PURE: objects in through [`Planner::index`], ordered [`Write`]s out. Nothing here sleeps, reads a clock or does
//! I/O.

pub mod announce;
mod attach;
mod diff;
pub mod health;
pub mod index;
pub mod ipam;
pub mod maglev;
pub mod planner;
pub mod routes;
pub mod service;
pub mod write;

pub use attach::Owner;
pub use diff::Problem;
pub use index::{Index, key_of};
pub use planner::{Plan, Planner};
pub use write::{Observed, Prefix, VerdictEntry, VerdictMapId, Write};
