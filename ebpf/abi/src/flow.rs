//! Flow events: what the programs report to the agent through the ring buffer `FLOWS`, and why packets were dropped.

use crate::{Addr, Be16, Proto};

/// Bytes of the ring buffer `FLOWS`.
pub const FLOWS_BYTES: u32 = 1 << 20;

/// Values of [`crate::NodeConfig::observe`]: no events, those of drops, those of drops and of flows that open.
pub const OBSERVE_NOTHING: u16 = 0;
pub const OBSERVE_DROPS: u16 = 1;
pub const OBSERVE_ALL: u16 = 2;

/// A flow that opened, or a packet that was dropped.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowEvent {
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
    /// The packet's source address; unspecified if its headers were not read, and at [`Hook::SOCKET`].
    pub source: Addr,
    /// The packet's destination address, after translation to a backend; unspecified if its headers were not read.
    pub destination: Addr,
    /// The packet's source port.
    pub source_port: Be16,
    /// The packet's destination port.
    pub destination_port: Be16,
    /// The packet's protocol.
    pub proto: Proto,
    /// Where it was decided.
    pub hook: Hook,
    /// [`DropReason`]; 0: the flow opened.
    pub reason: u16,
    /// As in [`crate::Verdict::rule`].
    pub rule: u32,
    /// As in [`crate::ServiceValue::service`].
    pub service: u32,
    /// Index of the interface of the hook; 0 at [`Hook::SOCKET`].
    pub ifindex: u32,
    /// Bytes of the packet, its Ethernet header included; 0 at [`Hook::SOCKET`].
    pub length: u32,
}

/// Kinds of events, each with an [`EventAccount`] of its own, so that a flood of one hides nothing of the other.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// A flow that opened.
    Opened = 0,
    /// A packet that was dropped.
    Dropped = 1,
}

impl EventKind {
    /// Every kind, in the order of `REPORTS`.
    pub const ALL: [EventKind; 2] = [EventKind::Opened, EventKind::Dropped];

    /// Events of the kind that one CPU sends in a second, after a burst of as many.
    pub const PER_SECOND: u64 = 1_000;

    /// For metrics.
    pub const fn name(self) -> &'static str {
        match self {
            EventKind::Opened => "opened",
            EventKind::Dropped => "dropped",
        }
    }
}

/// What became of one kind's events on one CPU: `REPORTS`, a per-CPU array by [`EventKind`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct EventAccount {
    /// The theoretical arrival time of the next event; see [`crate::logic::gcra`].
    pub next: u64,
    /// Events in the ring.
    pub sent: u64,
    /// Events above the rate, which were not sent.
    pub limited: u64,
    /// Events for which the ring had no room.
    pub full: u64,
}

/// The hooks at which packets are dropped and flows open.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Hook(pub u8);

impl Hook {
    /// A pod sent it.
    pub const FROM_POD: Hook = Hook(0);
    /// The node's stack sends it to a pod.
    pub const TO_POD: Hook = Hook(1);
    /// It came by the uplink or the overlay.
    pub const FROM_NETWORK: Hook = Hook(2);
    /// It leaves by the uplink.
    pub const TO_NETWORK: Hook = Hook(3);
    /// The node's own, on loopback.
    pub const LOOPBACK: Hook = Hook(4);
    /// A process connects or sends; there is no packet yet.
    pub const SOCKET: Hook = Hook(5);

    /// Number of hooks.
    pub const COUNT: u32 = 6;

    /// Every hook.
    pub const ALL: [Hook; Hook::COUNT as usize] =
        [Hook::FROM_POD, Hook::TO_POD, Hook::FROM_NETWORK, Hook::TO_NETWORK, Hook::LOOPBACK, Hook::SOCKET];

    /// The packet's direction, for the flow log and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Hook::FROM_POD => "from-pod",
            Hook::TO_POD => "to-pod",
            Hook::FROM_NETWORK => "from-network",
            Hook::TO_NETWORK => "to-network",
            Hook::LOOPBACK => "loopback",
            Hook::SOCKET => "socket",
            _ => "unknown",
        }
    }
}

/// Elements of `DROPS`, a per-CPU array of counters.
pub const DROPS_LEN: u32 = Hook::COUNT * DropReason::COUNT;

/// The element of `DROPS` for a hook and a reason.
#[inline(always)]
pub const fn drops_index(hook: Hook, reason: DropReason) -> u32 {
    hook.0 as u32 * DropReason::COUNT + reason as u32
}

/// Why a packet was dropped; `DROPS` counts by it and by [`Hook`].
///
/// As wide as a program's action, so that a `Result` of both is two defined words in the compiler's eyes: the verifier
/// does not accept arithmetic on what a narrower error would leave undefined.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u32)]
pub enum DropReason {
    /// Allowed; the elements of `DROPS` stay 0.
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
    /// The pod opens more flows a second than it may.
    FlowRate = 16,
}

impl DropReason {
    /// Number of reasons, [`DropReason::None`] included.
    pub const COUNT: u32 = 17;

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
            DropReason::FlowRate => "flow rate",
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
            16 => DropReason::FlowRate,
            _ => return None,
        })
    }
}

crate::layout::plain!(FlowEvent: 64, EventAccount: 32, Hook: 1);
