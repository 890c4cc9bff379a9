//! Connection tracking: `CONNTRACK`, one symmetric entry for each flow.
//!
//! Both directions of a flow find the same entry. It caches the verdict with the generation under which it was given,
//! the interfaces of the ends on this node, and the translation. A translated flow has an entry for each pair of ends
//! that packets on a wire carry: one with what the client addressed, one with what the backend sees.

use crate::{Addr, Be16, Proto, SocketAddr};

/// Entries of `CONNTRACK`, an LRU hash of [`FlowKey`] to [`Flow`], unless the agent makes it of another size. Entries expire by
/// time; those of flows that are not [`Flow::KEPT`] also make room for newer ones ([`crate::logic::openers`]); LRU is the last
/// resort.
pub const CONNTRACK_MAX: u32 = 262_144;

/// Entries of `OPENED`, by a pod's interface: the theoretical arrival time of its next new flow ([`crate::logic::gcra`]).
pub const OPENED_MAX: u32 = 4_096;

/// Entries of `HELD`, a hash of a pod's host-side interface, 0 for the outside, to the number of its flows that are
/// [`Flow::KEPT`]. The agent counts them again whenever it walks over `CONNTRACK`.
pub const HELD_MAX: u32 = 4_096;

/// The two ends of a flow, the lower one first ([`crate::logic::flow_key`]), so that both directions have the same key.
/// ICMP echo has its identifier as both ports.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FlowKey {
    /// Address of the low end.
    pub low: Addr,
    /// Address of the high end.
    pub high: Addr,
    /// Port of the low end.
    pub low_port: Be16,
    /// Port of the high end.
    pub high_port: Be16,
    /// The protocol.
    pub proto: Proto,
    /// Always 0.
    pub reserved: [u8; 3],
}

/// The state of a flow.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Flow {
    /// Time of the last packet in nanoseconds of the monotonic clock; up to a second old.
    pub last_seen: u64,
    /// When `last_seen` was written, in units of 64 jiffies. A packet in another unit renews both.
    pub tick: u32,
    /// Of a connection between two pods of this node: the acknowledgement number that covers the later FIN so far; 0:
    /// none. Of a flow in transit: [`crate::logic::checksum::Differences`] of its rewriting, valid with `hop`; 0: not
    /// known.
    pub extra: u32,
    /// The generation under which the flow was allowed, as [`Flow::stamp`] puts it.
    pub generation: u32,
    /// Identity of the service port, 0: none; see [`crate::ServiceValue::service`].
    pub service: u32,
    /// Host-side interface of the low end if it is a pod of this node, or else 0; valid under `generation`.
    pub low_ifindex: u32,
    /// Host-side interface of the high end if it is a pod of this node, or else 0; valid under `generation`.
    pub high_ifindex: u32,
    /// [`Flow::FROM_HIGH`] and the others.
    pub flags: u32,
    /// TCP flags that packets from the low end had, or-ed; [`TCP_FIN`], [`TCP_SYN`], [`TCP_RST`], [`TCP_ACK`]. In other
    /// protocols what stands for them: [`crate::logic::signal`].
    pub tcp_flags_low: u8,
    /// TCP flags that packets from the high end had, or-ed.
    pub tcp_flags_high: u8,
    /// The largest packet for the route to `hop`, in bytes; 0: `hop` is not known.
    pub mtu: u16,
    /// What the source becomes in packets of the rewritten direction, under [`Flow::SOURCE`].
    pub source: SocketAddr,
    /// What the destination becomes in packets of the rewritten direction, under [`Flow::DESTINATION`].
    pub destination: SocketAddr,
    /// For packets that XDP forwards: the MACs of the next hop and of the uplink, from the node's tables at `hop_time`.
    pub hop: [[u16; 3]; 2],
    /// When `hop` was looked up, in units of 2^20 nanoseconds of the monotonic clock.
    pub hop_time: u32,
}

impl Flow {
    /// The high end opened the flow; without it the low end did.
    pub const FROM_HIGH: u32 = 1 << 0;
    /// Packets from the high end are rewritten; without it those from the low end.
    pub const REWRITE_HIGH: u32 = 1 << 1;
    /// The rewritten direction gets [`Flow::source`].
    pub const SOURCE: u32 = 1 << 2;
    /// The rewritten direction gets [`Flow::destination`].
    pub const DESTINATION: u32 = 1 << 3;
    /// The node itself is an end: no policy applies.
    pub const NODE: u32 = 1 << 4;
    /// The rewritten packet belongs to another entry, which holds the verdict.
    pub const ALIAS: u32 = 1 << 5;
    /// Rewritten at the uplink only: the source of a pod's packet to the outside, and back.
    pub const MASQUERADE: u32 = 1 << 6;
    /// From the outside through this node to another node's pod, and back: rewritten and sent out again.
    pub const TRANSIT: u32 = 1 << 7;
    /// The other end is elsewhere in the cluster: packets go straight to the overlay or the uplink.
    pub const REMOTE: u32 = 1 << 8;
    /// Another node's own flow to a pod of this node that came by the overlay; its answers go back there.
    pub const OVERLAY: u32 = 1 << 9;
    /// A pod reaches itself through a service: both ends are rewritten, in both directions, and it is always allowed.
    pub const HAIRPIN: u32 = 1 << 10;
    /// An end is a pod with a limited bandwidth. [`Flow::stamp`] then keeps the entry off the fast path, so that only
    /// such flows pay for the limit.
    pub const LIMITED: u32 = 1 << 11;
    /// Direct server return: from the outside to another node's pod, forwarded without rewriting; `destination` is the
    /// backend. See [`crate::ServiceValue::DSR`].
    pub const DSR: u32 = 1 << 12;

    /// A pod's flow through a service to an endpoint outside the cluster, which sees the node's address. The pod's own is
    /// `destination`.
    pub const OUTSIDE: u32 = 1 << 16;
    /// Both ends have accepted the flow: its entries make no room for those of newer flows.
    pub const KEPT: u32 = 1 << 17;
    /// The bits from here on are the lowest of the position at which the entry's key is noted; see [`crate::logic::openers`].
    const POSITION_SHIFT: u32 = 18;

    /// The flags of an entry whose key is noted at `position`.
    #[inline(always)]
    pub const fn noted_at(flags: u32, position: u32) -> u32 {
        flags & ((1 << Flow::POSITION_SHIFT) - 1) | position << Flow::POSITION_SHIFT
    }

    /// Whether the entry's key is noted at `position`. If not, the key at that position is an ended flow's, and the entry under it
    /// belongs to a newer flow with the same addresses and ports.
    #[inline(always)]
    pub const fn is_noted_at(&self, position: u32) -> bool {
        self.flags == Flow::noted_at(self.flags, position)
    }

    /// The value of [`Flow::generation`] for a flow with `flags` that is allowed under `generation`. Under
    /// [`Flow::LIMITED`] it is the complement, which never equals the generation in force.
    #[inline(always)]
    pub const fn stamp(generation: u32, flags: u32) -> u32 {
        if flags & Flow::LIMITED == 0 { generation } else { !generation }
    }
}

/// TCP's FIN flag (RFC 9293, 3.1).
pub const TCP_FIN: u8 = 0x01;
/// TCP's SYN flag.
pub const TCP_SYN: u8 = 0x02;
/// TCP's RST flag.
pub const TCP_RST: u8 = 0x04;
/// TCP's ACK flag.
pub const TCP_ACK: u8 = 0x10;

/// The first of the source ports that masquerading allocates, for each destination separately, unless the node's own sockets
/// need it: the agent keeps the kernel from using those ports for them.
pub const SNAT_PORT_MIN: u16 = 32_768;
/// The last of the source ports that masquerading allocates.
pub const SNAT_PORT_MAX: u16 = 65_535;

/// Entries of `FRAGMENTS`, an LRU hash of [`FragmentKey`] to [`FragmentPorts`]: later fragments find the ports that only
/// the first one carries.
pub const FRAGMENTS_MAX: u32 = 8_192;

/// A fragmented datagram. In IPv6 the protocol is not part of it (RFC 8200, 4.5), and 0.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FragmentKey {
    /// The datagram's source address.
    pub source: Addr,
    /// The datagram's destination address.
    pub destination: Addr,
    /// The IP identification, as the header has it.
    pub id: u32,
    /// Of IPv4 the protocol, or else 0.
    pub proto: Proto,
    /// Always 0.
    pub reserved: [u8; 3],
}

/// The protocol and the ports of a fragmented datagram.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FragmentPorts {
    /// The source port.
    pub source: Be16,
    /// The destination port.
    pub destination: Be16,
    /// The protocol behind all extension headers.
    pub proto: Proto,
    /// The ICMP type; of other protocols 0.
    pub kind: u8,
    /// Always 0.
    pub reserved: u16,
}

crate::layout::plain!(FlowKey: 40, Flow: 96, FragmentKey: 40, FragmentPorts: 8);
