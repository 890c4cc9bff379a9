//! Pods of this node, by address.

use core::net::Ipv4Addr;
use core::net::Ipv6Addr;

/// Entries of `PODS`, a hash of [`crate::Addr`] to [`Pod`]. A pod with two addresses has two entries.
pub const PODS_MAX: u32 = 4_096;

/// Next hop of every pod's IPv4 default route: link-local, with a permanent neighbour entry for the host side.
pub const POD_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Next hop of every pod's IPv6 default route.
pub const POD_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// A pod of this node.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Pod {
    /// The host side of the pod's veth. A packet that leaves the pod with another pod's address is dropped.
    pub ifindex: u32,
    /// Number of the pod on this node, below [`crate::SLOTS_MAX`]; see [`crate::verdicts_index`] and
    /// [`crate::bucket_index`].
    pub slot: u32,
    /// MAC of the pod's own interface.
    pub mac: [u8; 6],
    /// MAC of the host side.
    pub host_mac: [u8; 6],
    /// The tables in which the pod has a verdict map, see [`crate::isolated_bit`]: without its map it is closed. Also the
    /// directions in which no policy is about it, see [`crate::open_bit`].
    pub isolated: u32,
    /// Limit of what is sent to the pod, in bits a second; 0: none.
    pub ingress_rate: u64,
    /// Limit of what the pod sends, in bits a second; 0: none.
    pub egress_rate: u64,
}

crate::layout::plain!(Pod: 40);
