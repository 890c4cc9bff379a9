//! Pods of this node, by address.

/// `PODS`: hash of [`crate::Addr`] to [`Pod`]. A pod with two addresses has two entries.
pub const PODS_MAX: u32 = 4_096;

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Pod {
    /// The host side of the pod's veth. A packet that leaves the pod with another pod's address is dropped.
    pub ifindex: u32,
    /// Where the pod's verdict maps stand; see [`crate::verdicts_index`].
    pub slot: u32,
    /// The pod's own interface.
    pub mac: [u8; 6],
    /// The host side.
    pub host_mac: [u8; 6],
    pub reserved: u32,
    /// What may be sent to the pod and what it may send, in bits a second; 0: no limit.
    pub ingress_rate: u64,
    pub egress_rate: u64,
}

crate::plain!(Pod: 40);
