//! The node's network, decided from API objects: services, policies, pods and routes to map entries.
//!
//! PURE. In: objects through [`Planner::index`], attachments of pods, the maps' content at the start. Out: ordered
//! [`Write`]s. After every single write each lookup has the answer of the old state or of the new one. A write that
//! fails holds up only the writes that need it, and its [`Unit`] is retried alone.
//!
//! ```text
//!  Service, EndpointSlice ─┐            ┌─ service ── ServicePlan ── diff::service ─┐
//!  Node ───────────────────┼─> index ───┼─ routes ─────────────────────────────────┼─> Plan { writes } ─> datapath
//!  Pod, Namespace, Policy ─┘   │        └─ skep_policy ── Entries ── diff::policy ──┘        │
//!  CNI ADD, DEL ── attach ─────┼──────────────┘                        ^                     │
//!                              ├─ announce, health                     └─ diff::kernel <─────┘ commit(plan)
//! ```
//!
//! [`Planner`] owns the state and documents the order of calls. [`announce`] and [`health`] read the index alone.

pub mod announce;
mod attach;
mod datagram_services;
mod diff;
mod failure;
mod flow_names;
pub mod health;
pub mod index;
pub mod ipam;
pub mod maglev;
mod plan;
pub mod planner;
pub mod routes;
pub mod service;
pub mod write;

pub use attach::Owner;
pub use datagram_services::DatagramServices;
pub use diff::{Problem, Subject};
pub use failure::{Failure, Unit};
pub use flow_names::{FlowEnd, FlowNames, PodName, ServicePort};
pub use index::{Index, key_of};
pub use plan::Plan;
pub use planner::Planner;
pub use write::{Observed, Prefix, VerdictEntry, VerdictMapId, Write};
