//! The backend of a flow from outside.
//!
//! In: a frontend and a packet. Out: a slot of the frontend's backend set, the same on every node that packets of the flow
//! may arrive at.

use core::hint::black_box;

use skep_abi::logic::hash::{flow_hash, scale};
use skep_abi::{MAGLEV_SLOTS, MaglevKey, ServiceValue, maglev_size};

use crate::maps::MAGLEV;
use crate::packet::Packet;

/// The slot for the client that sent the packet; 0 if the set is empty.
#[inline(always)]
pub(crate) fn slot(service: &ServiceValue, packet: &mut Packet) -> u32 {
    let (set, count) = (service.set, service.count);
    let hash = flow_hash(&packet.source.addr, packet.source.port, packet.proto);
    // A set too small or too large for a table, or whose table did not fit, is split evenly by the hash alone.
    by_table(set, size(count, packet), hash).unwrap_or(scale(hash, count))
}

/// The table's size, read back from the packet's map: so what follows is verified once, not once for each size.
#[inline(always)]
fn size(count: u32, packet: &mut Packet) -> u32 {
    packet.table = maglev_size(count);
    // SAFETY: reads through a valid reference; volatile keeps the compiler from remembering the value.
    unsafe { core::ptr::read_volatile(&raw const packet.table) }
}

#[inline(always)]
fn by_table(set: u32, size: u32, hash: u32) -> Option<u32> {
    if size == 0 {
        return None;
    }
    let at = scale(hash, size);
    // SAFETY: read-only use within the program's run; the agent never changes a table that is in use.
    let page = unsafe { MAGLEV.get(MaglevKey { set, page: at / MAGLEV_SLOTS }) }?;
    // The verifier does not see the bound that the compiler sees, and needs the comparison.
    let slot = black_box(at % MAGLEV_SLOTS);
    page.slots.get(slot as usize).map(|slot| *slot as u32)
}
