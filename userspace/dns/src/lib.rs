//! DNS of a node: the cluster's names from an index, all other names from upstream servers.
//!
//! In: packets, API objects, settings. Out: answers. [`query`], [`resolution`], [`reply`], [`zone`] and [`index`] are PURE.

pub mod hosts;
pub mod index;
mod name;
pub mod query;
pub mod reply;
pub mod resolution;
pub mod rewrite;
pub mod settings;
mod zone;

pub use index::Index;
pub use settings::Settings;
