//! Network policy: address to peer class, then class, protocol and port to verdict.
//!
//! Two tables of each stand side by side. The running generation's lowest bit names the table in force; a change
//! of policy fills the other one and then raises the generation by one write, so no packet sees half a policy.

use crate::{Addr, Be16, Proto};

/// Pods of one node that can have verdict maps; slots are `0..SLOTS_MAX`.
pub const SLOTS_MAX: u32 = 1_024;
/// `CLASSES`: array of two LPM tries, by table; prefix of [`Addr`] to class.
pub const CLASSES_MAX: u32 = 524_288;
/// Entries of one verdict map.
pub const VERDICTS_MAX: u32 = 65_536;

/// The class of an address that no prefix names.
pub const CLASS_OTHER: u32 = 0;

/// The table in force under `generation`: 0 or 1.
#[inline(always)]
pub const fn table_of(generation: u32) -> u32 {
    generation & 1
}

/// Place in `VERDICTS` (an array of maps) of a pod's verdict map. No map there: the pod is under no policy.
#[inline(always)]
pub const fn verdicts_index(slot: u32, generation: u32) -> u32 {
    slot * 2 + table_of(generation)
}

/// Key of a verdict map, an LPM trie, in the order in which a prefix may stop: direction; class; protocol; port.
///
/// An entry of [`VerdictKey::DIRECTION_BITS`] is the direction's default: deny when a policy isolates the pod in
/// that direction, allow when none does.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct VerdictKey {
    pub direction: Direction,
    pub reserved: [u8; 3],
    /// Big-endian bytes, as an LPM trie compares from the first bit.
    pub class: [u8; 4],
    pub reserved2: u8,
    pub proto: Proto,
    pub port: Be16,
}

impl VerdictKey {
    pub const DIRECTION_BITS: u32 = 32;
    pub const CLASS_BITS: u32 = 64;
    pub const PROTO_BITS: u32 = 80;
    pub const PORT_BITS: u32 = 96;

    #[inline(always)]
    pub const fn new(direction: Direction, class: u32, proto: Proto, port: Be16) -> Self {
        VerdictKey { direction, reserved: [0; 3], class: class.to_be_bytes(), reserved2: 0, proto, port }
    }
}

/// As seen from the pod: ingress is towards it.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Direction(pub u8);

impl Direction {
    pub const INGRESS: Direction = Direction(0);
    pub const EGRESS: Direction = Direction(1);
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Verdict {
    /// 1 allows, 0 denies.
    pub allow: u32,
    /// The policy that decided, for the flow log: an index into the agent's list; 0: a default.
    pub policy: u32,
}

/// Key of `CLASSES`, behind the trie's prefix length.
pub type ClassKey = Addr;

crate::plain!(VerdictKey: 12, Direction: 1, Verdict: 8);
