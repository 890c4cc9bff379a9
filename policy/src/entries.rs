//! The content of the policy maps, as values: what [`crate::compile`] makes and the datapath writes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use skep_abi::{Addr, Direction, Verdict, VerdictKey};

use crate::model::PolicyKey;

/// An LPM key over addresses: prefix length of 128, and the address with all bits behind it zero.
pub type Prefix = (u32, Addr);

/// Prefix length in bits, key and value of an entry of a verdict map; within a map sorted by length, then key.
pub type VerdictEntry = (u32, VerdictKey, Verdict);

/// Names one verdict map. It is made from the map's content, so equal rules have equal names over restarts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VerdictMapId(pub u64);

impl fmt::Display for VerdictMapId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The content of the policy maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    pub classes: BTreeMap<Prefix, u32>,
    pub maps: BTreeMap<VerdictMapId, Arc<[VerdictEntry]>>,
    /// Verdict maps by pod slot; a pod that no policy selects is absent.
    pub slots: BTreeMap<u32, VerdictMapId>,
    /// The rules behind [`Verdict::rule`].
    pub rules: BTreeMap<u32, RuleId>,
}

/// A rule by its position in the object of its policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId {
    pub policy: PolicyKey,
    pub direction: Direction,
    pub index: usize,
}

impl RuleId {
    /// The field of the object: `spec.ingress[0]`.
    pub fn field(&self) -> String {
        let list = if self.direction == Direction::EGRESS { "egress" } else { "ingress" };
        format!("spec.{list}[{}]", self.index)
    }
}

/// The network as an LPM key; an IPv4 /24 has 120 bits.
pub fn prefix_of(network: &IpNetwork) -> Prefix {
    let family_bits = if network.is_ipv4() { Addr::V4_PREFIX_BITS } else { 0 };
    (u32::from(network.prefix()) + family_bits, Addr::from(network.network()))
}
