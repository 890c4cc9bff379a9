//! New flows make room for themselves: they never take the entries of flows that both ends have accepted.
//!
//! In: keys under which entries were put, and packets that change what a flow has shown. Out: [`Flow::KEPT`]; entries that are
//! removed. Each CPU has a ring of the keys that it put last. A key that leaves the ring loses its entry unless the flow is kept,
//! so a flood of unanswered flows has the length of the rings and no more. The entry says where its key is noted, since the ring may
//! still have the key of an earlier flow. One pod keeps no more flows than its share;
//! those beyond it work, and lose their entries like unanswered ones.

use aya_ebpf::programs::TcContext;
use skep_abi::logic::flow_key::is_same;
use skep_abi::logic::gcra;
use skep_abi::logic::openers::{holder, is_settled};
use skep_abi::{DropReason, Flow, FlowKey, Omission};

use crate::clock::now_ns;
use crate::interface;
use crate::maps::{self, CONNTRACK, CURSOR, EVICTIONS, HELD, OPENED, OPENERS};
use crate::omission::omits;
use crate::packet::Packet;

const SECOND_NS: u64 = 1_000_000_000;

/// Keys in a ring, and the shares of a pod and of the outside. The agent sets them before it loads the programs.
#[unsafe(no_mangle)]
static OPENERS_LEN: u32 = 1;
#[unsafe(no_mangle)]
static POD_SHARE: u32 = 0;
#[unsafe(no_mangle)]
static OUTSIDE_SHARE: u32 = 0;

/// New flows a second of one pod, after a burst of as many; 0: no bound. The agent sets it before it loads the programs.
#[unsafe(no_mangle)]
static POD_NEW_FLOWS: u32 = 0;

/// Takes a new flow off the budget of the pod that opens it; an error if there is none left. CPUs that open at once may lose a count.
#[inline(always)]
pub(crate) fn admit(ctx: &TcContext) -> Result<(), DropReason> {
    let rate = value(&POD_NEW_FLOWS);
    if rate == 0 || charge(interface::here(ctx), rate) { Ok(()) } else { Err(DropReason::FlowRate) }
}

#[inline(never)]
fn charge(ifindex: u32, rate: u32) -> bool {
    const SLACK: gcra::Slack = gcra::Slack { burst_ns: SECOND_NS, wait_ns: 0 };
    let cost = SECOND_NS / rate as u64;
    // SAFETY: the kernel keeps the element valid until the program ends; it is a number.
    let opened = OPENED.get_ptr_mut(ifindex).map(|opened| unsafe { &mut *opened });
    let next = opened.as_deref().copied().unwrap_or(0);
    let Some(turn) = gcra::turn(next, now_ns(), cost, SLACK) else { return false };
    match opened {
        Some(opened) => *opened = turn.next,
        None => drop(OPENED.insert(ifindex, turn.next, 0)),
    }
    true
}

#[inline(always)]
fn value(global: &u32) -> u32 {
    // SAFETY: a read of a static that is set before the program is loaded and never written.
    unsafe { core::ptr::read_volatile(global) }
}

/// To be called before the entry is put and [`note`] is called.
#[inline(always)]
pub(crate) fn mark(flow: &mut Flow) {
    if let Some(cursor) = CURSOR.get_ptr_mut(0) {
        // SAFETY: a per-CPU element, and programs do not nest on one CPU.
        flow.flags = Flow::noted_at(flow.flags, unsafe { *cursor });
    }
}

/// Notes that an entry was put under the key.
#[inline(never)]
pub(crate) fn note(key: &FlowKey) {
    if omits(Omission::OPENERS) {
        return;
    }
    // SAFETY: per-CPU elements, and programs do not nest on one CPU; any bytes are a key.
    let Some(cursor) = CURSOR.get_ptr_mut(0).map(|cursor| unsafe { &mut *cursor }) else { return };
    let at = *cursor;
    *cursor = if at + 1 < value(&OPENERS_LEN) { at + 1 } else { 0 };
    // SAFETY: as above.
    let Some(noted) = OPENERS.get_ptr_mut(at).map(|noted| unsafe { &mut *noted }) else { return };
    if !is_same(noted, key)
        && maps::flow(noted).is_some_and(|flow| flow.flags & Flow::KEPT == 0 && flow.is_noted_at(at))
        && CONNTRACK.remove(&*noted).is_ok()
        && let Some(count) = EVICTIONS.get_ptr_mut(0)
    {
        // SAFETY: as above.
        unsafe { *count += 1 };
    }
    noted.copy(key);
}

/// Keeps the flow if it is settled and its holder has not too many. `flow` has the packet's key.
#[inline(never)]
pub(crate) fn settle(packet: &Packet, flow: &mut Flow) {
    if omits(Omission::OPENERS) {
        return;
    }
    let mut partner = None;
    if flow.flags & (Flow::SOURCE | Flow::DESTINATION) != 0 {
        let Some(search) = maps::search() else { return };
        flow.rewrite(&packet.key, &mut search.source, &mut search.destination);
        search.partner.locate(&search.source, &search.destination, packet.proto);
        partner =
            maps::flow(&search.partner).filter(|other| other.flags & (Flow::SOURCE | Flow::DESTINATION) != 0);
    }
    if !is_settled(packet.proto, flow, partner.as_deref()) {
        return;
    }
    let holder = holder(flow).or_else(|| holder(partner.as_deref()?)).unwrap_or(0);
    // An entry that was made again has a partner that is counted already.
    let counted = partner.as_ref().is_some_and(|partner| partner.flags & Flow::KEPT != 0);
    if !counted && !hold(holder) {
        return;
    }
    flow.flags |= Flow::KEPT;
    if let Some(partner) = partner {
        partner.flags |= Flow::KEPT;
    }
}

/// Counts a flow of the holder's; false: it has its share. A lost update is mended by the agent's next walk.
#[inline(always)]
fn hold(holder: u32) -> bool {
    let share = value(if holder == 0 { &OUTSIDE_SHARE } else { &POD_SHARE });
    match HELD.get_ptr_mut(holder) {
        // SAFETY: the kernel keeps the element valid until the program ends; it is a number.
        Some(count) if unsafe { *count } >= share => false,
        Some(count) => {
            // SAFETY: as above.
            unsafe { *count += 1 };
            true
        }
        None => share != 0 && HELD.insert(holder, 1, 0).is_ok(),
    }
}

/// Takes the flow, whose entry is about to be removed, off its holder's account.
#[inline(always)]
pub(crate) fn release(flow: &Flow) {
    if flow.flags & Flow::KEPT != 0
        && let Some(holder) = holder(flow)
        && let Some(count) = HELD.get_ptr_mut(holder)
    {
        // SAFETY: as in `hold`.
        unsafe { *count = (*count).saturating_sub(1) };
    }
}
