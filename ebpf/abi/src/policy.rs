//! Network policy: address to peer class, then class, protocol and port to verdict.
//!
//! There are two tables, one for even and one for odd generations; see [`table_of`]. A change of policy fills the table
//! that is not in force and then raises the generation by one write, so no packet sees half a policy.

use crate::{Addr, Be16, Proto};

/// Pods of one node that can have verdict maps; slots are `0..SLOTS_MAX`.
pub const SLOTS_MAX: u32 = 1_024;
/// Entries of each of `CLASSES_EVEN` and `CLASSES_ODD`, two LPM tries of [`ClassKey`] to class.
pub const CLASSES_MAX: u32 = 524_288;
/// Entries of one verdict map, an LPM trie of [`VerdictKey`] to [`Verdict`].
pub const VERDICTS_MAX: u32 = 65_536;

/// The class of an address that no prefix matches.
pub const CLASS_OTHER: u32 = 0;
/// Stands for every class, in verdict maps only: what the address's own class does not allow, this may.
pub const CLASS_ANY: u32 = u32::MAX;

/// The table in force under `generation`: 0 (even) or 1 (odd).
#[inline(always)]
pub const fn table_of(generation: u32) -> u32 {
    generation & 1
}

/// The bit of [`crate::Pod::isolated`] for the table of `generation`.
#[inline(always)]
pub const fn isolated_bit(generation: u32) -> u32 {
    1 << table_of(generation)
}

/// The bit of [`crate::Pod::isolated`] that says that no policy is about the direction under the table of `generation`: the flow
/// is allowed, and by no rule. Without the bit the verdict map says so.
#[inline(always)]
pub const fn open_bit(generation: u32, direction: Direction) -> u32 {
    4 << (table_of(generation) + 2 * direction.0 as u32)
}

/// The bits of [`crate::Pod::isolated`] that are about the table of `generation`.
#[inline(always)]
pub const fn isolation_bits(generation: u32) -> u32 {
    isolated_bit(generation)
        | open_bit(generation, Direction::INGRESS)
        | open_bit(generation, Direction::EGRESS)
}

/// Key in `VERDICTS`, a hash of maps, of a pod's verdict map. A pod without a map there is under no policy, or closed if
/// [`crate::Pod::isolated`] says that it has one.
#[inline(always)]
pub const fn verdicts_index(slot: u32, generation: u32) -> u32 {
    slot * 2 + table_of(generation)
}

/// Key of a verdict map. The fields are in the order in which a prefix may stop: direction, class, protocol, port.
///
/// An entry of [`VerdictKey::DIRECTION_BITS`] is the direction's default: deny when a policy isolates the pod in
/// that direction, allow when none does. All other entries allow. A flow is allowed if the look-up with the class of its
/// peer allows it, or the one with [`CLASS_ANY`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct VerdictKey {
    /// As seen from the pod.
    pub direction: Direction,
    /// Always 0.
    pub reserved: u8,
    /// Always 0. One by one: three bytes together are a call of memset in the programs.
    pub reserved2: u16,
    /// Big-endian bytes, as an LPM trie compares from the first bit.
    pub class: [u8; 4],
    /// Always 0.
    pub reserved3: u8,
    /// The flow's protocol.
    pub proto: Proto,
    /// The port that the flow's opener addressed.
    pub port: Be16,
}

impl VerdictKey {
    /// Prefix length of a direction's default.
    pub const DIRECTION_BITS: u32 = 32;
    /// Prefix length of an entry for a whole class.
    pub const CLASS_BITS: u32 = 64;
    /// Prefix length of an entry for a class and a protocol.
    pub const PROTO_BITS: u32 = 80;
    /// Prefix length of an entry for one port; shorter than this by n covers 2^n ports.
    pub const PORT_BITS: u32 = 96;

    /// The key of one port; an entry's prefix length says how much of it counts.
    #[inline(always)]
    pub const fn new(direction: Direction, class: u32, proto: Proto, port: Be16) -> Self {
        VerdictKey {
            direction,
            reserved: 0,
            reserved2: 0,
            class: class.to_be_bytes(),
            reserved3: 0,
            proto,
            port,
        }
    }
}

/// As seen from the pod.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Direction(pub u8);

impl Direction {
    /// Towards the pod.
    pub const INGRESS: Direction = Direction(0);
    /// From the pod.
    pub const EGRESS: Direction = Direction(1);
}

/// What a verdict map holds.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Verdict {
    /// 1 allows, 0 denies.
    pub allow: u32,
    /// The rule that decided, for the flow log: a number in the agent's list; 0: a default.
    pub rule: u32,
}

/// Key of `CLASSES_EVEN` and `CLASSES_ODD`, after the trie's prefix length.
pub type ClassKey = Addr;

crate::layout::plain!(VerdictKey: 12, Direction: 1, Verdict: 8);
