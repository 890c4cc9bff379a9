//! Rewriting a packet's ends, with checksums, and finding a free source port.

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_NOEXIST};
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use aya_ebpf::programs::TcContext;
use skep_abi::{Be16, DropReason, Flow, FlowKey, Proto, SNAT_PORT_MAX, SNAT_PORT_MIN, SocketAddr};

use crate::conntrack::{self, put};
use crate::packet::{L3, Packet};
use crate::{checksum, icmp, sctp};

/// Ports that are tried for one flow before it is refused; each try is one insertion.
pub(crate) const PORT_TRIES: u32 = 48;

/// Applies what the entry says to a packet of the rewritten direction.
#[inline(always)]
pub(crate) fn apply(ctx: &TcContext, packet: &mut Packet, flow: &Flow) -> Result<(), DropReason> {
    if packet.is_error() {
        return if icmp::rewrite(ctx, packet, flow) { Ok(()) } else { Err(DropReason::Rewrite) };
    }
    if flow.flags & Flow::SOURCE != 0 {
        set_source(ctx, packet, &flow.source)?;
    }
    if flow.flags & Flow::DESTINATION != 0 {
        set_destination(ctx, packet, &flow.destination)?;
    }
    Ok(())
}

#[inline(always)]
pub(crate) fn set_source(ctx: &TcContext, packet: &mut Packet, to: &SocketAddr) -> Result<(), DropReason> {
    let offset = if packet.is_v4() { 12 } else { 8 };
    set(ctx, packet, offset, 0, &packet.source, to).map_err(|()| DropReason::Rewrite)?;
    packet.source = *to;
    Ok(())
}

#[inline(always)]
pub(crate) fn set_destination(
    ctx: &TcContext,
    packet: &mut Packet,
    to: &SocketAddr,
) -> Result<(), DropReason> {
    let offset = if packet.is_v4() { 16 } else { 24 };
    set(ctx, packet, offset, 2, &packet.destination, to).map_err(|()| DropReason::Rewrite)?;
    packet.destination = *to;
    Ok(())
}

/// `addr_at`: offset of the address in the IP header; `port_at`: of the port in the transport header.
#[inline(always)]
fn set(
    ctx: &TcContext,
    packet: &Packet,
    addr_at: usize,
    port_at: usize,
    from: &SocketAddr,
    to: &SocketAddr,
) -> Result<(), ()> {
    let check = checksum_at(packet);
    let flags = if packet.proto == Proto::UDP { BPF_F_MARK_MANGLED_0 as u64 } else { 0 };
    if packet.is_v4() {
        let (old, new) = (from.addr.v4_word() as u64, to.addr.v4_word());
        if let Some(check) = check
            && packet.proto != Proto::ICMP
        {
            ctx.l4_csum_replace(check, old, new as u64, flags | BPF_F_PSEUDO_HDR as u64 | 4).map_err(drop)?;
        }
        ctx.l3_csum_replace(L3 + 10, old, new as u64, 4).map_err(drop)?;
        ctx.store(L3 + addr_at, &new, 0).map_err(drop)?;
    } else {
        if let Some(check) = check {
            let difference = checksum::difference(&from.addr, &to.addr);
            ctx.l4_csum_replace(check, 0, difference, flags | BPF_F_PSEUDO_HDR as u64).map_err(drop)?;
        }
        ctx.store(L3 + addr_at, &to.addr, 0).map_err(drop)?;
    }
    set_port(ctx, packet, port_at, check, flags, from.port, to.port)
}

#[inline(always)]
fn set_port(
    ctx: &TcContext,
    packet: &Packet,
    port_at: usize,
    check: Option<usize>,
    flags: u64,
    from: Be16,
    to: Be16,
) -> Result<(), ()> {
    if from == to || !packet.has_transport() {
        return Ok(());
    }
    let at = match packet.proto {
        Proto::ICMP | Proto::ICMPV6 => packet.l4 + 4,
        _ => packet.l4 + port_at,
    };
    match check {
        Some(check) => ctx.l4_csum_replace(check, from.0 as u64, to.0 as u64, flags | 2).map_err(drop)?,
        None if packet.proto == Proto::SCTP => {
            // Of a fragmented message the length is not known, and so neither is the checksum.
            let difference = ((from.0 ^ to.0) as u32) << (port_at * 8);
            if packet.is_fragment() || !sctp::correct(ctx, packet, difference) {
                return Err(());
            }
        }
        None => return Err(()),
    }
    ctx.store(at, &to.0, 0).map_err(drop)
}

/// Where the transport checksum stands, if this packet has one that can be replaced.
#[inline(always)]
fn checksum_at(packet: &Packet) -> Option<usize> {
    if !packet.has_transport() {
        return None;
    }
    match packet.proto {
        Proto::TCP => Some(packet.l4 + 16),
        Proto::UDP => Some(packet.l4 + 6),
        Proto::ICMP | Proto::ICMPV6 => Some(packet.l4 + 2),
        _ => None,
    }
}

/// Both ends of a flow rewritten: the backend's answers come to `node` and from there back to the client, as from what
/// it addressed.
pub(crate) struct Relay {
    pub(crate) node: SocketAddr,
    pub(crate) backend: SocketAddr,
    /// Flags of both entries, and of the one towards the backend only.
    pub(crate) kind: u32,
    pub(crate) onward: u32,
    /// The interface of both ends.
    pub(crate) ifindex: u32,
    pub(crate) generation: u32,
}

/// Makes both entries and rewrites the packet, which opens the flow.
#[inline(never)]
pub(crate) fn relay(ctx: &TcContext, packet: &mut Packet, relay: &Relay) -> DropReason {
    match relayed(ctx, packet, relay) {
        Ok(()) => DropReason::None,
        Err(reason) => reason,
    }
}

#[inline(always)]
fn relayed(ctx: &TcContext, packet: &mut Packet, relay: &Relay) -> Result<(), DropReason> {
    let flow = open(packet, relay, PORT_TRIES)?;
    set_source(ctx, packet, &flow.source)?;
    set_destination(ctx, packet, &flow.destination)
}

/// Makes both entries, looking at `tries` ports at most. Returns the packet's own, good until another is made.
#[inline(always)]
pub(crate) fn open(packet: &Packet, relay: &Relay, tries: u32) -> Result<&'static mut Flow, DropReason> {
    let answers = entry(relay)?;
    answers.source = packet.destination;
    answers.destination = packet.source;
    let port = claim(&relay.node, &relay.backend, packet.proto, answers, tries).ok_or(DropReason::NoPort)?;
    let flow = entry(relay)?;
    flow.flags |= relay.onward;
    if packet.from_high() {
        flow.flags |= Flow::REWRITE_HIGH | Flow::FROM_HIGH;
    }
    flow.source = SocketAddr { port, ..relay.node };
    flow.destination = relay.backend;
    conntrack::replace(packet, flow);
    Ok(flow)
}

#[inline(always)]
fn entry(relay: &Relay) -> Result<&'static mut Flow, DropReason> {
    let flow = conntrack::fresh(relay.kind | Flow::SOURCE | Flow::DESTINATION)?;
    flow.generation = relay.generation;
    (flow.low_ifindex, flow.high_ifindex) = (relay.ifindex, relay.ifindex);
    Ok(flow)
}

/// Claims a source port of `node` towards `remote` by putting `reverse` under the ends that answers will have.
/// Ports are per remote end, so flows to different places share them. At most `tries` of them are looked at.
#[inline(always)]
pub(crate) fn claim(
    node: &SocketAddr,
    remote: &SocketAddr,
    proto: Proto,
    reverse: &mut Flow,
    tries: u32,
) -> Option<Be16> {
    let port = Be16(search(node, remote, proto, reverse, tries));
    (port.0 != 0).then_some(port)
}

/// 0 for none: an `Option` would be one argument more than a BPF function can have.
#[inline(never)]
fn search(node: &SocketAddr, remote: &SocketAddr, proto: Proto, reverse: &mut Flow, tries: u32) -> u16 {
    let range = (SNAT_PORT_MAX - SNAT_PORT_MIN) as u32 + 1;
    // SAFETY: the helper has no preconditions.
    let start = unsafe { bpf_get_prandom_u32() };
    // The addresses differ, so which end is the higher one does not hang on the port.
    let mut key = FlowKey::default();
    // Answers come from the remote end: theirs is the rewritten direction.
    reverse.flags &= !Flow::REWRITE_HIGH;
    if key.locate(remote, node, proto) {
        reverse.flags |= Flow::REWRITE_HIGH;
    }
    for i in 0..tries {
        let port = Be16::new(SNAT_PORT_MIN + (start.wrapping_add(i * 97) % range) as u16);
        // Asked anew each time: the stack is short where this is called. An echo has one identifier, not two ports.
        let from_high = reverse.flags & Flow::REWRITE_HIGH != 0;
        let both = key.proto == Proto::ICMP || key.proto == Proto::ICMPV6;
        if from_high || both {
            key.low_port = port;
        }
        if !from_high || both {
            key.high_port = port;
        }
        if put(&key, reverse, BPF_NOEXIST) {
            return port.0;
        }
    }
    0
}
