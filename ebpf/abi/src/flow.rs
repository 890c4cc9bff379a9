//! Flow events: what the programs report to the agent through the ring buffer `FLOWS`, and why packets were dropped.

use crate::{Addr, Be16, Direction, Proto};

/// Bytes of the ring buffer `FLOWS`.
pub const FLOWS_BYTES: u32 = 1 << 20;

/// A decision about a flow: one when it opens, one whenever a packet of it is dropped.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowEvent {
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
    /// The packet's source address.
    pub source: Addr,
    /// The packet's destination address.
    pub destination: Addr,
    /// The packet's source port.
    pub source_port: Be16,
    /// The packet's destination port.
    pub destination_port: Be16,
    /// The packet's protocol.
    pub proto: Proto,
    /// Which pod's policy decided: the sender's (egress) or the receiver's (ingress).
    pub direction: Direction,
    /// [`DropReason`]; 0: allowed.
    pub reason: u16,
    /// As in [`crate::Verdict::policy`].
    pub policy: u32,
    /// As in [`crate::ServiceValue::service`].
    pub service: u32,
}

/// Why a packet was dropped; `DROPS`, a per-CPU array, counts by it.
///
/// As wide as a program's action, so that a `Result` of both is two defined words in the compiler's eyes: the verifier
/// does not accept arithmetic on what a narrower error would leave undefined.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u32)]
pub enum DropReason {
    /// Allowed; the element of `DROPS` stays 0.
    None = 0,
    /// A header is truncated or wrong.
    Malformed = 1,
    /// The source address is not the sending pod's.
    Spoofed = 2,
    /// A policy of the sending pod denies the flow.
    PolicyEgress = 3,
    /// A policy of the receiving pod denies the flow.
    PolicyIngress = 4,
    /// The service has no backend.
    NoBackend = 5,
    /// A later fragment whose first one did not come in time.
    Fragment = 6,
    /// No source port is free for the translation.
    NoPort = 7,
    /// The packet could not be rewritten.
    Rewrite = 8,
    /// The client is in none of the service's loadBalancerSourceRanges.
    SourceRange = 9,
    /// An ICMP error about a flow that is no longer known.
    Unrelated = 10,
    /// The packet exceeds a pod's bandwidth.
    Bandwidth = 11,
    /// Addressed to the overlay's port, and not from one node to another.
    Overlay = 12,
    /// A pod's frame that has a VLAN tag, or is none of IPv4, IPv6 and ARP.
    Frame = 13,
    /// A pod's router advertisement or redirect.
    Router = 14,
    /// Addressed to the network of cluster addresses, at one that no service has.
    NoService = 15,
}

impl DropReason {
    /// Number of reasons, [`DropReason::None`] included.
    pub const COUNT: u32 = 16;

    /// The reason in words, for the flow log and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            DropReason::None => "none",
            DropReason::Malformed => "malformed",
            DropReason::Spoofed => "spoofed source",
            DropReason::PolicyEgress => "egress policy",
            DropReason::PolicyIngress => "ingress policy",
            DropReason::NoBackend => "no backend",
            DropReason::Fragment => "fragment",
            DropReason::NoPort => "no port",
            DropReason::Rewrite => "rewrite",
            DropReason::SourceRange => "source range",
            DropReason::Unrelated => "unrelated error",
            DropReason::Bandwidth => "bandwidth",
            DropReason::Overlay => "overlay port",
            DropReason::Frame => "frame type",
            DropReason::Router => "router message",
            DropReason::NoService => "no service",
        }
    }

    /// The reason with the number `code`; `None` for an unknown one.
    pub const fn from_code(code: u16) -> Option<DropReason> {
        Some(match code {
            0 => DropReason::None,
            1 => DropReason::Malformed,
            2 => DropReason::Spoofed,
            3 => DropReason::PolicyEgress,
            4 => DropReason::PolicyIngress,
            5 => DropReason::NoBackend,
            6 => DropReason::Fragment,
            7 => DropReason::NoPort,
            8 => DropReason::Rewrite,
            9 => DropReason::SourceRange,
            10 => DropReason::Unrelated,
            11 => DropReason::Bandwidth,
            12 => DropReason::Overlay,
            13 => DropReason::Frame,
            14 => DropReason::Router,
            15 => DropReason::NoService,
            _ => return None,
        })
    }
}

crate::layout::plain!(FlowEvent: 56);
