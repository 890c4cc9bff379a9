//! Services: frontend to backend set, backend set and slot to backend.
//!
//! A backend set is immutable: a change of endpoints makes a new set, and one write of the frontend's value moves
//! to it, so a reader sees all of the old or all of the new. Identical sets may be shared between frontends.

use crate::{Addr, Be16, Proto};

/// `SERVICES`: hash of [`ServiceKey`] to [`ServiceValue`].
pub const SERVICES_MAX: u32 = 524_288;
/// `BACKENDS`: hash of [`BackendKey`] to [`Backend`]. The slots of a set are in the order of [`Backend`].
pub const BACKENDS_MAX: u32 = 1_048_576;
/// `RANGES`: LPM trie of [`RangeKey`] to nothing of interest: who may use a restricted frontend.
pub const RANGES_MAX: u32 = 131_072;
/// `AFFINITY`: LRU hash of [`AffinityKey`] to [`Affinity`].
pub const AFFINITY_MAX: u32 = 65_536;

/// A frontend: what a client addresses.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ServiceKey {
    pub addr: Addr,
    pub port: Be16,
    pub proto: Proto,
    pub scope: Scope,
}

impl ServiceKey {
    /// The frontend of all that a cluster IP has no port for: what is sent there is refused, as by kube-proxy (KEP-3866).
    #[inline(always)]
    pub const fn rest(addr: Addr) -> ServiceKey {
        ServiceKey { addr, port: Be16(0), proto: Proto(0), scope: Scope::INTERNAL }
    }
}

/// From where a frontend is looked up; traffic policies make the answers differ.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Scope(pub u8);

impl Scope {
    /// From pods of this node and from the node itself.
    pub const INTERNAL: Scope = Scope(0);
    /// From packets that arrive on the uplink.
    pub const EXTERNAL: Scope = Scope(1);
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ServiceValue {
    /// The backend set; its slots are `0..count`.
    pub set: u32,
    /// Backends in the set. 0: nothing to send to, see [`ServiceValue::REJECT`] and [`ServiceValue::DROP`].
    pub count: u32,
    /// Identity of the service port, the same in every frontend of it and over its whole life: affinity and flow log.
    pub service: u32,
    /// Session affinity timeout in seconds; 0: none.
    pub affinity: u32,
    pub flags: u32,
    /// loadBalancerSourceRanges: number of an immutable list in `RANGES`; 0: everybody may.
    pub ranges: u32,
}

impl ServiceValue {
    /// No backend at all: refuse at once (TCP reset or ICMP), as kube-proxy rejects.
    pub const REJECT: u32 = 1 << 0;
    /// No backend on this node under a Local traffic policy: drop silently, as kube-proxy does.
    pub const DROP: u32 = 1 << 1;
    /// externalTrafficPolicy Local: the client's address is kept.
    pub const KEEP_SOURCE: u32 = 1 << 2;
    /// A backend's own node answers the client, which keeps its address. Every node has such a frontend, that of other
    /// nodes' addresses too.
    pub const DIRECT: u32 = 1 << 3;
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BackendKey {
    pub set: u32,
    pub slot: u32,
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Backend {
    pub addr: Addr,
    pub port: Be16,
    pub reserved: u16,
}

/// A source prefix of a list; a look-up is for all 160 bits.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RangeKey {
    /// The list's number in big-endian bytes, as an LPM trie compares from the first bit.
    pub list: [u8; 4],
    pub addr: Addr,
}

impl RangeKey {
    /// Bits before the address; an IPv4 /24 has a prefix of 32 + 120.
    pub const LIST_BITS: u32 = 32;
    pub const BITS: u32 = 160;

    #[inline(always)]
    pub const fn new(list: u32, addr: Addr) -> Self {
        RangeKey { list: list.to_be_bytes(), addr }
    }
}

/// Whose connections to which service port stay with one backend.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct AffinityKey {
    pub client: Addr,
    /// [`ServiceValue::service`].
    pub service: u32,
}

impl AffinityKey {
    /// A client by its network namespace and the family that it uses, as the socket hooks know it; the form is that of
    /// no source address.
    #[inline(always)]
    pub const fn namespace(cookie: u64, v4: bool) -> Addr {
        Addr([u32::MAX, u32::MAX - !v4 as u32, (cookie >> 32) as u32, cookie as u32])
    }
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Affinity {
    /// Of the last new connection: nanoseconds of the monotonic clock.
    pub last_used: u64,
    pub backend: Backend,
    pub reserved: u32,
}

crate::plain!(
    Scope: 1, ServiceKey: 20, ServiceValue: 24, BackendKey: 8, Backend: 20, RangeKey: 20, AffinityKey: 20,
    Affinity: 32,
);
