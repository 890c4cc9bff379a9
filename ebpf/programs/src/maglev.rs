//! Which backend a flow from outside goes to: the same on every node that its packets may arrive at.

use core::hint::black_box;

use skep_abi::logic::hash::{flow_hash, scale};
use skep_abi::{MAGLEV_SLOTS, MaglevKey, ServiceValue, maglev_size};

use crate::maps::MAGLEV;
use crate::packet::Packet;

/// The slot of the service's set for the client that sent the packet; 0 if the service has no backend.
#[inline(always)]
pub(crate) fn slot(service: &ServiceValue, packet: &mut Packet) -> u32 {
    let (set, count) = (service.set, service.count);
    let hash = flow_hash(&packet.source.addr, packet.source.port, packet.proto);
    // A set that is too small or too large for a table, or whose table did not fit, is shared out evenly all the same.
    by_table(set, size(count, packet), hash).unwrap_or(scale(hash, count))
}

/// The table's size, by way of the packet's map: so what follows is verified once and not for each size there is.
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
    // The verifier does not see the bound that the compiler sees, and wants the comparison.
    let place = black_box(at % MAGLEV_SLOTS);
    page.slots.get(place as usize).map(|slot| *slot as u32)
}
