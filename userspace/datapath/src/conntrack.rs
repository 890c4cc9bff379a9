//! Expiry of flow entries, so that LRU remains the last resort.
//!
//! In: the conntrack map, the clock, the services in force. Out: entries removed.

use aya::maps::MapError;
use skep_abi::{Backend, Flow, FlowKey, Proto, TCP_ACK, TCP_FIN, TCP_RST};
use skep_netplan::Observed;

use crate::Datapath;
use crate::error::DatapathError;

const SECOND_NS: u64 = 1_000_000_000;

/// Result of one walk over the map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Entries that remain.
    pub live: usize,
    /// Entries that were removed.
    pub removed: usize,
}

impl Datapath {
    /// Removes the expired entries, and those that send datagrams to a backend which the service in `maps` no longer has:
    /// UDP clients would not notice. Rare calls suffice: an idle entry costs only memory.
    pub fn collect_flows(&mut self, maps: &Observed) -> Result<Collected, DatapathError> {
        let now = monotonic_ns();
        let is_expired = |key: &FlowKey, flow: &Flow| {
            now.saturating_sub(flow.last_seen) > timeout_ns(key, flow) || is_stale(key, flow, maps)
        };
        let mut expired = Vec::new();
        let mut live = 0;
        for entry in self.maps.conntrack.iter() {
            match entry {
                Ok((key, flow)) if is_expired(&key, &flow) => expired.push(key),
                Ok(_) => live += 1,
                Err(error) => return Err(DatapathError::map("CONNTRACK", "walk")(error)),
            }
        }
        let mut removed = 0;
        for key in &expired {
            // The client may have reused the port during the walk.
            if self.maps.conntrack.get(key, 0).is_ok_and(|flow| !is_expired(key, &flow)) {
                live += 1;
                continue;
            }
            match self.maps.conntrack.remove(key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {
                }
                Err(error) => return Err(DatapathError::map("CONNTRACK", "remove entry")(error)),
            }
            removed += 1;
        }
        Ok(Collected { live, removed })
    }
}

/// Whether the entry translates from a frontend to an address that is none of its backends, or was made before the address
/// that it is to became a frontend.
fn is_stale(key: &FlowKey, flow: &Flow, maps: &Observed) -> bool {
    let is = |flags| flow.flags & flags != 0;
    let translates =
        is(Flow::DESTINATION) && is(Flow::ALIAS | Flow::TRANSIT | Flow::HAIRPIN) || is(Flow::DSR);
    let bypasses = !is(Flow::SOURCE | Flow::DESTINATION) || is(Flow::MASQUERADE);
    if key.proto != Proto::UDP || !translates && !bypasses {
        return false;
    }
    let to_low = if translates { is(Flow::REWRITE_HIGH) } else { is(Flow::FROM_HIGH) };
    let (addr, port) = if to_low { (key.low, key.low_port) } else { (key.high, key.high_port) };
    let backend = match translates {
        true => Backend { addr: flow.destination.addr, port: flow.destination.port, reserved: 0 },
        false => Backend { addr, port, reserved: 0 },
    };
    maps.serves(addr, port, key.proto, &backend) == Some(false)
}

/// Nanoseconds without a packet after which an entry expires. RFC 5382 asks for at least 2 h 4 min for established TCP, RFC
/// 4787 for 2 min for UDP, RFC 5508 for 60 s for ICMP.
fn timeout_ns(key: &FlowKey, flow: &Flow) -> u64 {
    let seconds = match key.proto {
        Proto::TCP => {
            let flags = flow.tcp_flags_low | flow.tcp_flags_high;
            // Each of the two entries of a forwarded flow sees one direction only.
            let established_one_way =
                flow.flags & (Flow::TRANSIT | Flow::DSR) != 0 && flags & TCP_ACK != 0 && flags & TCP_FIN == 0;
            if flags & TCP_RST != 0
                || flags & TCP_FIN != 0 && flow.tcp_flags_low & flow.tcp_flags_high & TCP_FIN != 0
            {
                10
            } else if flow.tcp_flags_low & TCP_ACK != 0 && flow.tcp_flags_high & TCP_ACK != 0
                || flow.flags & Flow::ALIAS != 0
                || established_one_way
            {
                8_000
            } else {
                120
            }
        }
        Proto::UDP => 180,
        Proto::SCTP => 3_600,
        _ => 60,
    };
    seconds * SECOND_NS
}

/// The programs' clock, in nanoseconds.
fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * SECOND_NS + now.tv_nsec as u64
}
