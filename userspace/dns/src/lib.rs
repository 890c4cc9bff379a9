//! DNS of a node: the cluster's names from an index, all other names from upstream servers.
//!
//! In: packets, API objects, settings. Out: answers. [`query`], [`resolution`], [`reply`], `zone`, [`index`] and
//! [`forward::accept`] are PURE.

pub mod corefile;
pub mod forward;
pub mod hosts;
pub mod index;
mod metrics;
mod name;
pub mod query;
pub mod question;
pub mod reply;
pub mod resolution;
pub mod resolv_conf;
pub mod rewrite;
pub mod server;
pub mod settings;
pub mod tls;
mod zone;

pub use index::Index;
pub use server::{Dns, Serving, Sockets};
pub use settings::{DomainError, Settings};
