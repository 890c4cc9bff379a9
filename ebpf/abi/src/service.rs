//! Services: frontend to backend set, backend set and slot to backend.
//!
//! A backend set is immutable. A change of endpoints makes a new set, and one write of the frontend's value switches to
//! it, so a reader sees all of the old or all of the new. Frontends may share identical sets.

use crate::{Addr, Be16, Proto};

/// Entries of `SERVICES`, a hash of [`ServiceKey`] to [`ServiceValue`].
pub const SERVICES_MAX: u32 = 262_144;
/// Entries of `BACKEND_PAGES`, a hash of [`BackendKey`] to [`BackendPage`]. The slots of a set are in the order of [`Backend`].
pub const BACKEND_PAGES_MAX: u32 = 262_144;
/// Slots of a page: few services have more backends, and with them an element of the map fills an allocation of 128 bytes.
pub const BACKEND_SLOTS: u32 = 3;
/// Entries of `RANGES`, an LPM trie of [`RangeKey`], the clients that may use a restricted frontend. Values are unused.
pub const RANGES_MAX: u32 = 131_072;
/// Entries of `AFFINITY`, an LRU hash of [`AffinityKey`] to [`Affinity`].
pub const AFFINITY_MAX: u32 = 65_536;

/// A frontend: what a client addresses.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ServiceKey {
    /// The cluster IP, external IP, load balancer's address or, for node ports and host ports, the node's address or
    /// [`Addr::loopback`].
    pub addr: Addr,
    /// The port, or the first of a block of ports.
    pub port: Be16,
    /// The protocol.
    pub proto: Proto,
    /// Where the look-up comes from.
    pub scope: Scope,
}

impl ServiceKey {
    /// The frontend of the aligned block of 16^`level` ports that `port` is in; level 0 is the port alone.
    #[inline(always)]
    pub const fn block(addr: Addr, port: Be16, proto: Proto, scope: Scope, level: u8) -> ServiceKey {
        ServiceKey { addr, port: Self::first_of_block(port, level), proto, scope: scope.at(level) }
    }

    /// The first port of that block.
    #[inline(always)]
    pub const fn first_of_block(port: Be16, level: u8) -> Be16 {
        let mask = (u16::MAX as u32) << (level as u32 * Scope::LEVEL_BITS);
        Be16(port.0 & (mask as u16).to_be())
    }
}

/// Where a look-up of a frontend comes from, in the lower half of the byte; traffic policies make the answers differ. The upper half
/// is the level of a block of ports, see [`ServiceKey::block`].
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Scope(pub u8);

impl Scope {
    /// From pods of this node and from the node itself.
    pub const INTERNAL: Scope = Scope(0);
    /// From packets that arrive on the uplink.
    pub const EXTERNAL: Scope = Scope(1);
    /// From the node's own sockets to a loopback address. Pods have loopback addresses of their own.
    pub const LOOPBACK: Scope = Scope(2);

    /// Levels of blocks of several ports: 1 to this one, which is all ports.
    pub const LEVELS: u8 = 4;
    /// Bits of a port that a level adds.
    pub const LEVEL_BITS: u32 = 4;

    /// The scope for blocks of that level.
    #[inline(always)]
    pub const fn at(self, level: u8) -> Scope {
        Scope(self.0 & 15 | level << 4)
    }

    /// The level of the block.
    #[inline(always)]
    pub const fn level(self) -> u8 {
        self.0 >> 4
    }

    /// Whether it is [`Scope::EXTERNAL`], for a block of any level.
    #[inline(always)]
    pub const fn is_external(self) -> bool {
        self.0 & 15 == Scope::EXTERNAL.0
    }
}

/// Where a frontend's flows go.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ServiceValue {
    /// Number of the backend set; its slots are `0..count`.
    pub set: u32,
    /// Backends in the set. 0: no backend, see [`ServiceValue::REJECT`] and [`ServiceValue::DROP`].
    pub count: u32,
    /// Identity of the service port for affinity and flow log: the same in all its frontends and over its whole life.
    pub service: u32,
    /// Session affinity timeout in seconds; 0: none.
    pub affinity_seconds: u32,
    /// [`ServiceValue::REJECT`] and the others.
    pub flags: u32,
    /// loadBalancerSourceRanges: number of an immutable list in `RANGES`; 0: any client.
    pub ranges: u32,
}

impl ServiceValue {
    /// No backend at all: reject at once (TCP reset or ICMP error), as kube-proxy does.
    pub const REJECT: u32 = 1 << 0;
    /// No backend on this node under a Local traffic policy: drop silently, as kube-proxy does.
    pub const DROP: u32 = 1 << 1;
    /// externalTrafficPolicy Local: the backend sees the client's address.
    pub const KEEP_SOURCE: u32 = 1 << 2;
    /// Direct server return: the backend's own node answers the client, and the backend sees the client's address.
    /// Every node has every such frontend, also those of other nodes' addresses.
    pub const DSR: u32 = 1 << 3;
    /// The node itself serves the frontend, at this very address, for its own pods and processes: packets are neither
    /// translated nor do they have an entry; each gets the verdict of the sender's policies.
    pub const NODE: u32 = 1 << 4;
    /// Backends serve at the port that the client addressed: those of the set have port 0.
    pub const SAME_PORT: u32 = 1 << 6;
}

/// A page of a backend set.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BackendKey {
    /// As in [`ServiceValue::set`].
    pub set: u32,
    /// The slot, which is below [`ServiceValue::count`], divided by [`BACKEND_SLOTS`].
    pub page: u32,
}

/// [`BACKEND_SLOTS`] slots of a backend set. Those after the set's end are empty and never read.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BackendPage {
    pub backends: [Backend; BACKEND_SLOTS as usize],
}

/// A backend: the pod or host process that serves.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Backend {
    /// The address.
    pub addr: Addr,
    /// The target port; 0 under [`ServiceValue::SAME_PORT`].
    pub port: Be16,
    /// Always 0.
    pub reserved: u16,
}

/// Entries of `OTHER_PORTS`, a hash of [`OtherPorts::block`] to [`OtherPorts`].
pub const OTHER_PORTS_MAX: u32 = 16_384;

/// What 256 neighbouring addresses do with ports that have no frontend of their own; a bit for each address, by its last byte.
/// Cluster addresses are dense, so this takes less than an entry of each.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct OtherPorts {
    /// Addresses that have [`OtherPorts::REFUSED`].
    pub refused: [u32; 8],
    /// Addresses that have [`OtherPorts::BLOCKS`].
    pub blocks: [u32; 8],
}

impl OtherPorts {
    /// Packets from inside to a port that is in no frontend are rejected, as by kube-proxy (KEP-3866): a cluster IP.
    pub const REFUSED: u32 = 1 << 0;
    /// The address may have frontends of blocks of ports.
    pub const BLOCKS: u32 = 1 << 1;

    /// The key: the first of the 256 addresses.
    #[inline(always)]
    pub const fn block(addr: Addr) -> Addr {
        let [a, b, c, d] = addr.0;
        Addr([a, b, c, d & 0xffff_ff00_u32.to_be()])
    }

    /// Flags of the address, which is in the block.
    #[inline(always)]
    pub const fn of(&self, addr: &Addr) -> u32 {
        let last = u32::from_be(addr.0[3]) & 0xff;
        let (word, bit) = ((last >> 5 & 7) as usize, last & 31);
        ((self.refused[word] >> bit & 1) * Self::REFUSED) | ((self.blocks[word] >> bit & 1) * Self::BLOCKS)
    }

    /// Makes the flags of the address these.
    pub const fn set(&mut self, addr: &Addr, flags: u32) {
        let last = u32::from_be(addr.0[3]) & 0xff;
        let (word, bit) = ((last >> 5) as usize, 1 << (last & 31));
        self.refused[word] = self.refused[word] & !bit | if flags & Self::REFUSED != 0 { bit } else { 0 };
        self.blocks[word] = self.blocks[word] & !bit | if flags & Self::BLOCKS != 0 { bit } else { 0 };
    }

    /// Whether no address of the block has a flag.
    pub fn is_empty(&self) -> bool {
        self.refused.iter().chain(&self.blocks).all(|word| *word == 0)
    }

    /// The addresses of the block that have flags, with these.
    pub fn addrs(&self, block: Addr) -> impl Iterator<Item = (Addr, u32)> + '_ {
        let [a, b, c, d] = block.0;
        let addrs = (0..256_u32).map(move |last| Addr([a, b, c, d | last.to_be()]));
        addrs.map(|addr| (addr, self.of(&addr))).filter(|(_, flags)| *flags != 0)
    }
}

/// A source prefix of a list. A look-up is for all [`RangeKey::BITS`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RangeKey {
    /// The list's number in big-endian bytes, as an LPM trie compares from the first bit.
    pub list: [u8; 4],
    /// The prefix's, or the client's, address.
    pub addr: Addr,
}

impl RangeKey {
    /// Bits before the address: an IPv4 /24 has a prefix of 32 + 120.
    pub const LIST_BITS: u32 = 32;
    /// Bits of the whole key.
    pub const BITS: u32 = 160;

    /// An address in the list with that number, as in [`ServiceValue::ranges`].
    #[inline(always)]
    pub const fn new(list: u32, addr: Addr) -> Self {
        RangeKey { list: list.to_be_bytes(), addr }
    }
}

/// A client and a service port whose connections stay with one backend.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct AffinityKey {
    /// The client's address, or [`AffinityKey::namespace`].
    pub client: Addr,
    /// [`ServiceValue::service`].
    pub service: u32,
}

impl AffinityKey {
    /// The socket hooks know a client by its network namespace's cookie and the family that it uses. No source address
    /// has this form.
    #[inline(always)]
    pub const fn namespace(cookie: u64, v4: bool) -> Addr {
        Addr([u32::MAX, u32::MAX - !v4 as u32, (cookie >> 32) as u32, cookie as u32])
    }
}

/// The backend of a client.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Affinity {
    /// Time of the client's last new connection, in nanoseconds of the monotonic clock.
    pub last_used: u64,
    /// The backend that it went to.
    pub backend: Backend,
    /// Always 0.
    pub reserved: u32,
}

crate::layout::plain!(
    Scope: 1, ServiceKey: 20, ServiceValue: 24, BackendKey: 8, Backend: 20, BackendPage: 60, OtherPorts: 64, RangeKey: 20,
    AffinityKey: 20, Affinity: 32,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_the_flags_of_each_of_its_addresses() {
        let addr = |last| Addr::from(core::net::IpAddr::from([10, 96, 3, last]));
        let mut block = OtherPorts::default();
        assert!(block.is_empty());
        let all = OtherPorts::REFUSED | OtherPorts::BLOCKS;
        let flags = [(0, OtherPorts::BLOCKS), (7, all), (31, OtherPorts::REFUSED), (32, all), (255, all)];
        for (last, flags) in flags {
            assert_eq!(OtherPorts::block(addr(last)), addr(0));
            block.set(&addr(last), flags);
        }
        assert!(block.addrs(addr(0)).eq(flags.map(|(last, flags)| (addr(last), flags))));
        block.set(&addr(7), 0);
        assert_eq!([6, 7, 8, 32].map(|last| block.of(&addr(last))), [0, 0, 0, all]);
    }
}
