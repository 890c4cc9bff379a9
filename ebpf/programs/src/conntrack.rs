//! Flow entries: find, open, touch. One symmetric entry serves both directions.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use skep_abi::{Addr, DropReason, End, Flow, FlowKey, Proto, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};

use crate::maps::{CONNTRACK, FRESH};
use crate::parse::Packet;

/// Makes `key` that of the flow between two ends; whether the source is the high one.
#[inline(always)]
pub(crate) fn locate(key: &mut FlowKey, source: &End, destination: &End, proto: Proto) -> bool {
    let from_high = higher(source, destination);
    if from_high {
        join(key, destination, source)
    } else {
        join(key, source, destination)
    }
    (key.proto, key.reserved) = (proto, [0; 3]);
    from_high
}

/// Word by word, each read anew: whole structures, or words held since they were compared, would go through the stack.
#[inline(always)]
fn join(key: &mut FlowKey, low: &End, high: &End) {
    // SAFETY: reads through valid references; volatile only keeps the compiler from remembering the values.
    let word = |addr: &Addr, i: usize| unsafe { core::ptr::read_volatile(&raw const addr.0[i]) };
    for i in 0..4 {
        key.low.0[i] = word(&low.addr, i);
        key.high.0[i] = word(&high.addr, i);
    }
    (key.low_port, key.high_port) = (low.port, high.port);
}

#[inline(always)]
fn higher(a: &End, b: &End) -> bool {
    for i in 0..4 {
        if a.addr.0[i] != b.addr.0[i] {
            return a.addr.0[i] > b.addr.0[i];
        }
    }
    a.port.0 > b.port.0
}

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
        (flow.tick, flow.last_seen) = (tick, now());
    }
    // Written only when it changes: the other direction may be another CPU's.
    let seen = if packet.from_high() { &mut flow.seen_high } else { &mut flow.seen_low };
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
    flow.flags & (Flow::SOURCE | Flow::DESTINATION | Flow::DIRECT) == 0
}

#[inline(always)]
fn closed(flow: &Flow) -> bool {
    let either = flow.seen_low | flow.seen_high;
    // An entry that leads to another sees one direction: whoever closed it and opens it again means a new one.
    let leads = flow.flags & (Flow::TRANSIT | Flow::ALIAS | Flow::DIRECT) != 0;
    let both = if leads { either } else { flow.seen_low & flow.seen_high };
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
pub(crate) fn differs(flow: &Flow, packet: &Packet, addressed: &End) -> bool {
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
    (flow.last_seen, flow.tick, flow.flags) = (now(), tick(), flags);
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

/// Changes when an entry's time is to be renewed, 64 jiffies being 64 to 640 ms: costs no call, unlike a clock.
#[inline(always)]
fn tick() -> u32 {
    // SAFETY: the helper has no preconditions.
    unsafe { (bpf_jiffies64() >> 6) as u32 }
}

/// The monotonic clock at the tick's resolution: enough for timeouts, cheaper than the exact one.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }
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
