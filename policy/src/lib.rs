//! NetworkPolicy: from API objects to map entries, and the reference verdict to test them against.
//!
//! PURE. In: `NetworkPolicy`, labels of namespaces and pods, the local pods of one node. Out: prefixes to peer
//! classes and verdict maps ([`compile`]). What is invalid in a policy becomes a [`Problem`] and allows nothing.

mod classify;
mod compile;
pub mod evaluate;
mod model;
mod ports;
mod select;

pub use classify::{Classifier, Unclassified};
pub use compile::{Compiled, Entries, Local, Overflow, VerdictMapId, compile};
pub use model::{Endpoint, IpBlock, NamedPort, Peer, Policy, PolicyKey, PortMatch, Ports, Problem, Rule};
pub use ports::port_prefixes;
pub use select::{Labels, SelectError, Selector};

/// Prefix length in bits, key and value of an entry of a verdict map; within a map sorted by length, then key.
pub type VerdictEntry = (u32, skep_abi::VerdictKey, skep_abi::Verdict);

/// An LPM key over addresses: prefix length of 128, and the address with all bits behind it zero.
pub type Prefix = (u32, skep_abi::Addr);
