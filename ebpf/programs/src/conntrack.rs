//! Flow entries: find, open, touch. One symmetric entry serves both directions.

use aya_ebpf::bindings::BPF_ANY;
use skep_abi::{DropReason, Flow, FlowKey, SocketAddr, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};

use crate::clock::{now_ns, tick};
use crate::maps::{CONNTRACK, FRESH};
use crate::packet::Packet;

/// The entry of the packet's flow, touched. A SYN on a closed one opens a new flow, so the old one is not found.
#[inline(always)]
pub(crate) fn find(packet: &Packet) -> Option<&'static mut Flow> {
    let flow = entry(packet)?;
    if reopens(packet, flow) {
        let _ = CONNTRACK.remove(&packet.key);
        return None;
    }
    // An error is no sign of life (RFC 5508, REQ-6).
    if !packet.is_error() {
        touch(packet, flow);
    }
    Some(flow)
}

/// The entry under the packet's key, as it is.
#[inline(always)]
pub(crate) fn entry(packet: &Packet) -> Option<&'static mut Flow> {
    let flow = CONNTRACK.get_ptr_mut(&packet.key)?;
    // SAFETY: the kernel keeps the element valid until the program ends. Concurrent writers exist; every field is
    // written whole and a lost update costs at most a counter.
    Some(unsafe { &mut *flow })
}

#[inline(always)]
pub(crate) fn touch(packet: &Packet, flow: &mut Flow) {
    let tick = tick();
    if flow.tick != tick {
        (flow.tick, flow.last_seen) = (tick, now_ns());
    }
    // Written only when it changes: the other direction may be another CPU's.
    let seen = if packet.from_high() { &mut flow.tcp_flags_high } else { &mut flow.tcp_flags_low };
    if packet.tcp_flags & !*seen != 0 {
        *seen |= packet.tcp_flags;
    }
}

/// Whether the packet opens a new flow: where a closed one was, or the other way than the present one, whose verdict is
/// about something else.
#[inline(always)]
pub(crate) fn reopens(packet: &Packet, flow: &Flow) -> bool {
    begins(packet) && (closed(flow) || is_plain(flow) && !from_opener(flow, packet))
}

/// Whether the packet asks for a connection.
#[inline(always)]
pub(crate) fn begins(packet: &Packet) -> bool {
    packet.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN
}

#[inline(always)]
fn from_opener(flow: &Flow, packet: &Packet) -> bool {
    (flow.flags & Flow::FROM_HIGH != 0) == packet.from_high()
}

/// Whether the two ends talk to each other as they are, with nothing in between.
#[inline(always)]
pub(crate) fn is_plain(flow: &Flow) -> bool {
    flow.flags & (Flow::SOURCE | Flow::DESTINATION | Flow::DSR) == 0
}

#[inline(always)]
fn closed(flow: &Flow) -> bool {
    let either = flow.tcp_flags_low | flow.tcp_flags_high;
    // An entry that leads to another sees one direction: whoever closed it and opens it again means a new one.
    let leads = flow.flags & (Flow::TRANSIT | Flow::ALIAS | Flow::DSR) != 0;
    let both = if leads { either } else { flow.tcp_flags_low & flow.tcp_flags_high };
    either & TCP_RST != 0 || both & TCP_FIN != 0
}

/// Whether the packet goes straight to where the flow's opener is translated to: a new flow with the same ends, whose
/// answers come from nothing but the target itself.
#[inline(always)]
pub(crate) fn is_other(flow: &Flow, packet: &Packet) -> bool {
    flow.flags & Flow::SOURCE != 0
        && !rewrites(flow, packet)
        && from_opener(flow, packet)
        && !packet.is_error()
}

/// Whether the entry is that of a living flow of the packet's opener which is to something else than `addressed`.
#[inline(always)]
pub(crate) fn differs(flow: &Flow, packet: &Packet, addressed: &SocketAddr) -> bool {
    let same = flow.flags & Flow::SOURCE != 0 && flow.source == *addressed;
    !same && !reopens(packet, flow)
}

/// Puts an entry; false if there is no room or, under `flags` of BPF_NOEXIST, if there is one already.
#[inline(always)]
pub(crate) fn put(key: &FlowKey, flow: &Flow, flags: u32) -> bool {
    CONNTRACK.insert(key, flow, flags as u64).is_ok()
}

/// An empty entry to fill and put: this CPU's, in a map to spare the stack. One is in use at a time.
#[inline(always)]
pub(crate) fn fresh(flags: u32) -> Result<&'static mut Flow, DropReason> {
    let flow = made()?;
    clear(flow);
    (flow.last_seen, flow.tick, flow.flags) = (now_ns(), tick(), flags);
    Ok(flow)
}

/// Word by word: of a whole one the compiler makes a loop over bytes.
#[inline(always)]
fn clear(flow: &mut Flow) {
    let words: *mut [u64; size_of::<Flow>() / 8] = (flow as *mut Flow).cast();
    for i in 0..size_of::<Flow>() / 8 {
        // SAFETY: the words are the flow's, which is integers and aligned to eight bytes; volatile keeps them apart.
        unsafe { core::ptr::write_volatile(&raw mut (*words)[i], 0) };
    }
}

/// The entry that [`fresh`] gave last.
#[inline(always)]
pub(crate) fn made() -> Result<&'static mut Flow, DropReason> {
    let flow = FRESH.get_ptr_mut(0).ok_or(DropReason::Rewrite)?;
    // SAFETY: the element is this CPU's and classifiers do not nest on one CPU.
    Ok(unsafe { &mut *flow })
}

/// Puts the entry under the packet's key, replacing what was there.
#[inline(always)]
pub(crate) fn replace(packet: &Packet, flow: &Flow) {
    // A full table costs the flow its shortcut, not its packets.
    let _ = put(&packet.key, flow, BPF_ANY);
}

/// The interface of the end that the packet goes to, if it is a pod of this node.
#[inline(always)]
pub(crate) fn receiver(flow: &Flow, packet: &Packet) -> u32 {
    if packet.from_high() { flow.low_ifindex } else { flow.high_ifindex }
}

/// The interface of the end that the packet comes from, if it is a pod of this node.
#[inline(always)]
pub(crate) fn sender(flow: &Flow, packet: &Packet) -> u32 {
    if packet.from_high() { flow.high_ifindex } else { flow.low_ifindex }
}

/// Whether packets of this direction are to be rewritten.
#[inline(always)]
pub(crate) fn rewrites(flow: &Flow, packet: &Packet) -> bool {
    flow.flags & (Flow::SOURCE | Flow::DESTINATION) != 0
        && (flow.flags & Flow::REWRITE_HIGH != 0) == packet.from_high()
}
