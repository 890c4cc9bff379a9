//! Flow events: what the programs tell the agent through the ring buffer `FLOWS`, and why packets were dropped.

use crate::{Addr, Be16, Direction, Proto};

/// Bytes of the ring buffer `FLOWS`.
pub const FLOWS_BYTES: u32 = 1 << 20;

/// A decision about a flow: one when it opens, one whenever a packet of it is dropped.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowEvent {
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
    pub source: Addr,
    pub destination: Addr,
    pub source_port: Be16,
    pub destination_port: Be16,
    pub proto: Proto,
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
    /// Allowed; the place in `DROPS` stays 0.
    None = 0,
    /// Header truncated or wrong.
    Malformed = 1,
    /// The source address is not the sending pod's.
    Spoofed = 2,
    /// A policy of the sending pod.
    PolicyEgress = 3,
    /// A policy of the receiving pod.
    PolicyIngress = 4,
    /// A service without a backend.
    NoBackend = 5,
    /// A later fragment whose first one was not seen, not within its patience either.
    Fragment = 6,
    /// No free port to translate the source to.
    NoPort = 7,
    /// The packet could not be rewritten.
    Rewrite = 8,
    /// The client is in none of the service's loadBalancerSourceRanges.
    SourceRange = 9,
    /// An ICMP error about a flow that is not there any more.
    Unrelated = 10,
    /// More than the bandwidth of a pod.
    Bandwidth = 11,
}

impl DropReason {
    pub const COUNT: u32 = 12;

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
        }
    }

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
            _ => return None,
        })
    }
}

crate::plain!(FlowEvent: 56);
