//! Flow entries: find, make, put, touch. One symmetric entry serves both directions.

use core::hint::cold_path;

use aya_ebpf::bindings::BPF_ANY;
use skep_abi::{DropReason, Flow, FlowKey, Proto, SocketAddr, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};

use crate::clock::{now_ns, tick};
use crate::maps::{self, CONNTRACK, FRESH};
use crate::openers;
use crate::packet::Packet;

/// The entry of the packet's flow, touched. An entry that the packet [`reopens`] is removed and not found.
#[inline(always)]
pub(crate) fn find(packet: &Packet) -> Option<&'static mut Flow> {
    advance(packet, entry(packet)?)
}

/// As [`find`], with the [`entry`] of the packet's flow. Where a packet arrives its source is checked in between: one that
/// will be dropped changes nothing.
#[inline(always)]
pub(crate) fn advance(packet: &Packet, flow: &'static mut Flow) -> Option<&'static mut Flow> {
    if is_foreign_request(packet, flow) {
        cold_path();
        return None;
    }
    if reopens(packet, flow) {
        cold_path();
        let _ = CONNTRACK.remove(&packet.key);
        return None;
    }
    // An ICMP error does not refresh the flow (RFC 5508, REQ-6).
    if !packet.is_error() {
        touch(packet, flow);
    }
    Some(flow)
}

/// The entry under the packet's key, not touched.
#[inline(always)]
pub(crate) fn entry(packet: &Packet) -> Option<&'static mut Flow> {
    maps::flow(&packet.key)
}

/// An error if the entry is no longer that of the packet's flow. The kernel reuses the memory of a removed entry at once, so
/// this is asked before anything but a packet's time and flags is written.
#[inline(always)]
pub(crate) fn confirm(packet: &Packet, flow: &Flow) -> Result<(), DropReason> {
    match CONNTRACK.get_ptr(&packet.key) {
        Some(present) if core::ptr::eq(present, flow) => Ok(()),
        _ => Err(DropReason::Rewrite),
    }
}

/// Notes the packet's time and TCP flags. A segment after a RST shows that the RST ended nothing: neither end accepted it
/// (RFC 5961, 3.2): then it does not count.
#[inline(always)]
pub(crate) fn touch(packet: &Packet, flow: &mut Flow) {
    touch_in(packet, flow, tick());
}

/// As [`touch`], in a [`tick`] that is known.
#[inline(always)]
pub(crate) fn touch_in(packet: &Packet, flow: &mut Flow, tick: u32) {
    if flow.tick != tick {
        cold_path();
        (flow.tick, flow.last_seen) = (tick, now_ns());
    }
    // Written only when it changes: another CPU may work on the other direction.
    let flags = if packet.from_high() { &mut flow.tcp_flags_high } else { &mut flow.tcp_flags_low };
    if packet.tcp_flags & !*flags != 0 {
        *flags |= packet.tcp_flags;
        if flow.flags & Flow::KEPT == 0 {
            openers::settle(packet, flow);
        }
    }
    if (flow.tcp_flags_low | flow.tcp_flags_high) & TCP_RST != 0
        && packet.tcp_flags & (TCP_ACK | TCP_RST | TCP_SYN) == TCP_ACK
    {
        cold_path();
        flow.tcp_flags_low &= !TCP_RST;
        flow.tcp_flags_high &= !TCP_RST;
    }
}

/// Whether the packet is an echo request of the end that was pinged: it belongs to another flow, although that has the same
/// identifier.
#[inline(always)]
fn is_foreign_request(packet: &Packet, flow: &Flow) -> bool {
    matches!(packet.proto, Proto::ICMP | Proto::ICMPV6) && begins(packet) && !from_opener(flow, packet)
}

/// Whether the packet opens a new flow under the key of an old one: the old one is closed, or was opened from the other
/// end, so that its verdict is about another flow.
#[inline(always)]
pub(crate) fn reopens(packet: &Packet, flow: &Flow) -> bool {
    begins(packet) && (closed(flow) || is_plain(flow) && !from_opener(flow, packet))
}

/// Whether the packet is the first of a TCP connection or an SCTP association, or an echo request.
#[inline(always)]
pub(crate) fn begins(packet: &Packet) -> bool {
    packet.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN
}

/// Whether the packet comes from the end that opened the flow.
#[inline(always)]
fn from_opener(flow: &Flow, packet: &Packet) -> bool {
    (flow.flags & Flow::FROM_HIGH != 0) == packet.from_high()
}

/// Whether the flow is neither translated nor forwarded.
#[inline(always)]
pub(crate) fn is_plain(flow: &Flow) -> bool {
    flow.flags & (Flow::SOURCE | Flow::DESTINATION | Flow::DSR) == 0
}

/// Whether the connection is over: reset, or both ends sent a FIN.
#[inline(always)]
fn closed(flow: &Flow) -> bool {
    let either = flow.tcp_flags_low | flow.tcp_flags_high;
    // Such an entry sees one direction only, so one FIN suffices.
    let one_way = flow.flags & (Flow::TRANSIT | Flow::HAIRPIN | Flow::ALIAS | Flow::DSR) != 0;
    let both = if one_way { either } else { flow.tcp_flags_low & flow.tcp_flags_high };
    either & TCP_RST != 0 || both & TCP_FIN != 0
}

/// Whether the packet's sender addresses the backend itself, while the entry is of its translated flow to the same
/// backend. It belongs to a new flow, whose answers are not translated.
#[inline(always)]
pub(crate) fn bypasses_translation(flow: &Flow, packet: &Packet) -> bool {
    flow.flags & Flow::SOURCE != 0
        && !rewrites(flow, packet)
        && from_opener(flow, packet)
        && !packet.is_error()
}

/// The entry, unless the packet [`bypasses_translation`]. Then it is removed: what the node's own process answers makes no entry that
/// would replace it.
#[inline(always)]
pub(crate) fn unless_bypassed(packet: &Packet, flow: &'static mut Flow) -> Option<&'static mut Flow> {
    if !bypasses_translation(flow, packet) {
        return Some(flow);
    }
    let _ = CONNTRACK.remove(&packet.key);
    None
}

/// Whether the entry is of an open flow to a frontend other than `addressed`.
#[inline(always)]
pub(crate) fn is_of_other_frontend(flow: &Flow, packet: &Packet, addressed: &SocketAddr) -> bool {
    let same = flow.flags & Flow::SOURCE != 0 && flow.source == *addressed;
    !same && !reopens(packet, flow)
}

/// Puts an entry. False: the map is full or, under the flag BPF_NOEXIST, the key is taken.
#[inline(always)]
pub(crate) fn put(key: &FlowKey, flow: &mut Flow, flags: u32) -> bool {
    openers::mark(flow);
    let done = CONNTRACK.insert(key, flow, flags as u64).is_ok();
    if done {
        openers::note(key);
    }
    done
}

/// An empty entry to fill and put. It is this CPU's, in a map to spare the stack; only the last one is valid.
#[inline(always)]
pub(crate) fn fresh(flags: u32) -> Result<&'static mut Flow, DropReason> {
    let flow = last_fresh()?;
    clear(flow);
    (flow.last_seen, flow.tick, flow.flags) = (now_ns(), tick(), flags);
    Ok(flow)
}

/// Word by word: for the whole structure the compiler emits a loop over bytes.
#[inline(always)]
fn clear(flow: &mut Flow) {
    let words: *mut [u64; size_of::<Flow>() / 8] = (flow as *mut Flow).cast();
    for i in 0..size_of::<Flow>() / 8 {
        // SAFETY: the words are the flow's, which is integers and aligned to eight bytes; volatile keeps them apart.
        unsafe { core::ptr::write_volatile(&raw mut (*words)[i], 0) };
    }
}

/// The entry that [`fresh`] returned last.
#[inline(always)]
pub(crate) fn last_fresh() -> Result<&'static mut Flow, DropReason> {
    let flow = FRESH.get_ptr_mut(0).ok_or(DropReason::Rewrite)?;
    // SAFETY: the element is this CPU's and classifiers do not nest on one CPU.
    Ok(unsafe { &mut *flow })
}

/// Puts the entry under the packet's key, also if the key is taken.
#[inline(always)]
pub(crate) fn replace(packet: &Packet, flow: &mut Flow) {
    // Without an entry the flow's packets still pass, by the slow path.
    let _ = put(&packet.key, flow, BPF_ANY);
}

/// Host-side interface of the pod of this node that the packet goes to, or 0.
#[inline(always)]
pub(crate) fn receiver(flow: &Flow, packet: &Packet) -> u32 {
    if packet.from_high() { flow.low_ifindex } else { flow.high_ifindex }
}

/// Host-side interface of the pod of this node that sent the packet, or 0.
#[inline(always)]
pub(crate) fn sender(flow: &Flow, packet: &Packet) -> u32 {
    if packet.from_high() { flow.high_ifindex } else { flow.low_ifindex }
}

/// Whether the entry rewrites packets of this direction.
#[inline(always)]
pub(crate) fn rewrites(flow: &Flow, packet: &Packet) -> bool {
    flow.flags & (Flow::SOURCE | Flow::DESTINATION) != 0
        && (flow.flags & Flow::REWRITE_HIGH != 0) == packet.from_high()
}
