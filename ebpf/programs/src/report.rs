//! Reports to the agent: a counter for every drop, and an event for every decision while the agent reads them.

use skep_abi::{Direction, DropReason, FlowEvent, NodeConfig};

use crate::clock;
use crate::maps::{DROPS, FLOWS};
use crate::packet::Packet;

/// Counts a drop.
#[inline(always)]
pub(crate) fn dropped(reason: DropReason) {
    if let Some(count) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: a per-CPU element: no other program writes it while this one runs.
        unsafe { *count += 1 };
    }
}

/// Sends the decision about a flow to `FLOWS`, if the agent reads it.
#[inline(never)]
pub(crate) fn decided(config: &NodeConfig, packet: &Packet, reason: DropReason, policy: u32, service: u32) {
    if config.observe == 0 {
        return;
    }
    let direction = match reason {
        DropReason::PolicyEgress => Direction::EGRESS,
        _ => Direction::INGRESS,
    };
    // A full ring loses the event, never the packet.
    let Some(mut event) = FLOWS.reserve(0) else { return };
    event.write(FlowEvent {
        time: clock::now_ns(),
        source: packet.source.addr,
        destination: packet.destination.addr,
        source_port: packet.source.port,
        destination_port: packet.destination.port,
        proto: packet.proto,
        direction,
        reason: reason as u16,
        policy,
        service,
    });
    event.submit(0);
}
