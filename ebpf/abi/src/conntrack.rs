//! Connection tracking: `CONNTRACK`, one symmetric entry a flow.
//!
//! Both directions of a flow find the same entry. It caches the verdict with the generation under which it was given,
//! where the ends are on this node, and what is to be rewritten. A translated flow has an entry for each pair of ends
//! that is seen on a wire: what the client addressed and what the backend sees.

use crate::{Addr, Be16, Proto};

/// `CONNTRACK`: LRU hash of [`FlowKey`] to [`Flow`]. LRU is the last resort: entries are removed by time.
pub const CONNTRACK_MAX: u32 = 262_144;

/// The two ends of a flow in a fixed order (the lower end first), so that both directions find the same entry.
/// ICMP echo has its identifier as both ports.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FlowKey {
    pub low: Addr,
    pub high: Addr,
    pub low_port: Be16,
    pub high_port: Be16,
    pub proto: Proto,
    pub reserved: [u8; 3],
}

/// One end of a flow.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct End {
    pub addr: Addr,
    pub port: Be16,
    pub reserved: u16,
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Flow {
    /// Nanoseconds of the monotonic clock, less than a second old.
    pub last_seen: u64,
    /// When `last_seen` was written, in 64 jiffies: it is renewed when that changes.
    pub tick: u32,
    /// Of a connection between two pods of this node: the number that acknowledges the later FIN so far, 0: none.
    pub fin: u32,
    /// The generation under which the flow was allowed; under [`Flow::LIMITED`] its complement.
    pub generation: u32,
    /// Identity of the service port, 0: none; see [`crate::ServiceValue::service`].
    pub service: u32,
    /// Host-side interfaces of the ends that are pods of this node, 0 for others; valid under `generation`.
    pub low_ifindex: u32,
    pub high_ifindex: u32,
    /// [`Flow::FROM_HIGH`] and the others.
    pub flags: u32,
    /// TCP flags seen in either direction, or-ed; [`TCP_FIN`], [`TCP_SYN`], [`TCP_RST`], [`TCP_ACK`].
    pub seen_low: u8,
    pub seen_high: u8,
    /// The largest packet that the way to `hop` takes, in bytes; 0: `hop` is not known.
    pub mtu: u16,
    /// What the source and the destination become in packets of the rewritten direction.
    pub source: End,
    pub destination: End,
    /// Of rewritten packets that XDP sends on: the MACs of the next hop and of the uplink, as they stood in the node's
    /// tables at `hop_time`, in units of 2^20 nanoseconds of the monotonic clock.
    pub hop: [[u16; 3]; 2],
    pub hop_time: u32,
}

impl Flow {
    /// The high end opened the flow; without it the low end did.
    pub const FROM_HIGH: u32 = 1 << 0;
    /// Packets from the high end are rewritten; without it those from the low end.
    pub const REWRITE_HIGH: u32 = 1 << 1;
    /// `source` is to be set in the rewritten direction.
    pub const SOURCE: u32 = 1 << 2;
    /// `destination` is to be set in the rewritten direction.
    pub const DESTINATION: u32 = 1 << 3;
    /// Opened by or towards the node itself: no policy applies.
    pub const NODE: u32 = 1 << 4;
    /// Rewriting leads to another entry, which holds the verdict.
    pub const ALIAS: u32 = 1 << 5;
    /// Rewriting is done at the uplink only: the source of a pod's packet to the outside, and back.
    pub const MASQUERADE: u32 = 1 << 6;
    /// Passes through this node from the outside to another node's pod and back: rewrite and send out.
    pub const TRANSIT: u32 = 1 << 7;
    /// The other end is elsewhere in the cluster: sent straight to the overlay or the uplink.
    pub const REMOTE: u32 = 1 << 8;
    /// Another node's own flow to a pod of this node, come by the overlay: its answers go there.
    pub const OVERLAY: u32 = 1 << 9;
    /// A pod reaches itself through a service: both ends are rewritten, in both directions, and it is always allowed.
    pub const HAIRPIN: u32 = 1 << 10;
    /// An end is a pod with a limited bandwidth. The generation is none that is ever in force, so that such packets alone
    /// leave the way of all others.
    pub const LIMITED: u32 = 1 << 11;
    /// From the outside to another node's pod, passed on as it is: `destination` is only where to. See
    /// [`crate::ServiceValue::DIRECT`].
    pub const DIRECT: u32 = 1 << 12;

    /// What stands in [`Flow::generation`] of a flow with such `flags` that is allowed under `generation`.
    #[inline(always)]
    pub const fn stamp(generation: u32, flags: u32) -> u32 {
        if flags & Flow::LIMITED == 0 { generation } else { !generation }
    }
}

pub const TCP_FIN: u8 = 0x01;
pub const TCP_SYN: u8 = 0x02;
pub const TCP_RST: u8 = 0x04;
pub const TCP_ACK: u8 = 0x10;

/// Ports that masquerading hands out, for each destination anew: above the kernel's own ephemeral ports.
pub const SNAT_PORT_MIN: u16 = 61_000;
pub const SNAT_PORT_MAX: u16 = 65_535;

/// `FRAGMENTS`: LRU hash of [`FragmentKey`] to [`FragmentPorts`], so that later fragments find the first one's ports.
pub const FRAGMENTS_MAX: u32 = 8_192;

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FragmentKey {
    pub source: Addr,
    pub destination: Addr,
    pub id: u32,
    pub proto: Proto,
    pub reserved: [u8; 3],
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FragmentPorts {
    pub source: Be16,
    pub destination: Be16,
}

crate::plain!(FlowKey: 40, End: 20, Flow: 96, FragmentKey: 40, FragmentPorts: 4);
