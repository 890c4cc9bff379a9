//! Removing flow entries by time, so that LRU stays the last resort.

use aya::maps::MapError;
use skep_abi::{Backend, Flow, FlowKey, Proto, TCP_ACK, TCP_FIN, TCP_RST};
use skep_netplan::Observed;

use crate::Datapath;
use crate::error::DatapathError;

const SECOND: u64 = 1_000_000_000;

/// What one walk found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub live: usize,
    pub removed: usize,
}

impl Datapath {
    /// Removes the entries whose time is over, and those that lead datagrams to backends which the service, as `maps`
    /// have it, lost: their clients would not notice. The caller walks seldom: an idle flow more costs only memory.
    pub fn collect_flows(&mut self, maps: &Observed) -> Result<Collected, DatapathError> {
        let now = monotonic();
        let is_over = |key: &FlowKey, flow: &Flow| {
            now.saturating_sub(flow.last_seen) > timeout(key, flow) || is_misled(key, flow, maps)
        };
        let mut expired = Vec::new();
        let mut live = 0;
        for entry in self.maps.conntrack.iter() {
            match entry {
                Ok((key, flow)) if is_over(&key, &flow) => expired.push(key),
                Ok(_) => live += 1,
                Err(error) => return Err(DatapathError::map("CONNTRACK", "walk")(error)),
            }
        }
        let mut removed = 0;
        for key in &expired {
            // The walk takes long enough for a client to use a port again.
            if self.maps.conntrack.get(key, 0).is_ok_and(|flow| !is_over(key, &flow)) {
                live += 1;
                continue;
            }
            match self.maps.conntrack.remove(key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {
                }
                Err(error) => return Err(DatapathError::map("CONNTRACK", "remove from")(error)),
            }
            removed += 1;
        }
        Ok(Collected { live, removed })
    }
}

/// An entry whose packets are led from a frontend to what is none of its backends, or past a frontend that was not known
/// when it was made.
fn is_misled(key: &FlowKey, flow: &Flow, maps: &Observed) -> bool {
    let is = |flags| flow.flags & flags != 0;
    let leads = is(Flow::DESTINATION) && is(Flow::ALIAS | Flow::TRANSIT | Flow::HAIRPIN) || is(Flow::DSR);
    let passes = !is(Flow::SOURCE | Flow::DESTINATION) || is(Flow::MASQUERADE);
    if key.proto != Proto::UDP || !leads && !passes {
        return false;
    }
    let to_low = if leads { is(Flow::REWRITE_HIGH) } else { is(Flow::FROM_HIGH) };
    let (addr, port) = if to_low { (key.low, key.low_port) } else { (key.high, key.high_port) };
    let backend = match leads {
        true => Backend { addr: flow.destination.addr, port: flow.destination.port, reserved: 0 },
        false => Backend { addr, port, reserved: 0 },
    };
    maps.serves(addr, port, key.proto, &backend) == Some(false)
}

/// Nanoseconds without a packet after which an entry is removed. TCP as RFC 5382 asks (at least 2 h 4 min when
/// established), UDP as RFC 4787 (at least 2 min), ICMP as RFC 5508 (at least 60 s).
fn timeout(key: &FlowKey, flow: &Flow) -> u64 {
    let seconds = match key.proto {
        Proto::TCP => {
            let seen = flow.tcp_flags_low | flow.tcp_flags_high;
            // Each of the two entries of a flow that passes through sees one direction only.
            let passes =
                flow.flags & (Flow::TRANSIT | Flow::DSR) != 0 && seen & TCP_ACK != 0 && seen & TCP_FIN == 0;
            if seen & TCP_RST != 0
                || seen & TCP_FIN != 0 && flow.tcp_flags_low & flow.tcp_flags_high & TCP_FIN != 0
            {
                10
            } else if flow.tcp_flags_low & TCP_ACK != 0 && flow.tcp_flags_high & TCP_ACK != 0
                || flow.flags & Flow::ALIAS != 0
                || passes
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
    seconds * SECOND
}

/// The clock that the programs stamp entries with.
fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * SECOND + now.tv_nsec as u64
}
