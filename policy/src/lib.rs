//! NetworkPolicy: from API objects to map entries, and the reference verdict to test them against.
//!
//! PURE. In: `NetworkPolicy`, labels of namespaces and pods, the local pods of one node. Out: prefixes to peer
//! classes and verdict maps ([`compile`]). What is invalid in a policy becomes a [`PolicyProblem`] and allows nothing.
//!
//! ```text
//!  NetworkPolicy ── model ──> Policy ──┐
//!  labels, pods ── Endpoint ───────────┼── classify ──> peer classes ─┐
//!                                      └──────────── compile ─────────┴──> Entries: address -> class,
//!                                                                          (class, protocol, port) -> verdict
//! ```

mod classify;
mod compile;
mod entries;
pub mod evaluate;
mod identity;
mod model;
mod networks;
mod peers;
mod ports;
mod select;
mod signed;

pub use classify::{Classifier, Unclassified};
pub use compile::{Compiled, Overflow, RuleSet, compile, rule_set};
pub use entries::{Entries, Prefix, RuleId, VerdictEntry, VerdictMapId, prefix_of};
pub use model::{
    Endpoint, IpBlock, Local, NamedPort, Peer, Policy, PolicyKey, PolicyProblem, PortMatch, Ports, Rule,
};
pub use peers::Peers;
pub use ports::port_prefixes;
pub use select::{Labels, SelectError, Selector};
