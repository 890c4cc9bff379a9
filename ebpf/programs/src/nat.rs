//! Rewriting a packet's ends with its checksums.
//!
//! In: a packet and what its entry says. Out: the rewritten packet; entries for both directions of a flow whose two ends
//! are rewritten.

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::programs::TcContext;
use skep_abi::logic::lifetime::copy;
use skep_abi::{Be16, DropReason, Flow, Proto, SocketAddr};

use crate::checksum::{self, UPDATE_SUM};
use crate::packet::{L3, Packet};
use crate::ports::{self, PORT_TRIES};
use crate::{conntrack, icmp, sctp};

/// Rewrites a packet of the entry's rewritten direction.
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
    copy(&mut packet.source, &to.addr, to.port);
    if is_echo(packet) {
        packet.destination.port = to.port;
    }
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
    copy(&mut packet.destination, &to.addr, to.port);
    if is_echo(packet) {
        packet.source.port = to.port;
    }
    Ok(())
}

/// Whether the packet has one identifier in place of two ports.
#[inline(always)]
fn is_echo(packet: &Packet) -> bool {
    matches!(packet.proto, Proto::ICMP | Proto::ICMPV6)
}

/// Replaces the end `from` by `to`. `addr_at` is the offset of the address in the IP header, `port_at` that of the port
/// in the transport header.
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
        // The flag above takes from the card's sum what the transport checksum lost.
        ctx.store(L3 + addr_at, &to.addr, UPDATE_SUM).map_err(drop)?;
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
    let sum = match check {
        Some(check) => {
            ctx.l4_csum_replace(check, from.0 as u64, to.0 as u64, flags | 2).map_err(drop)?;
            0
        }
        None if packet.proto == Proto::SCTP => {
            // The checksum's correction depends on the message's length, which a fragment does not have.
            let difference = ((from.0 ^ to.0) as u32) << (port_at * 8);
            if packet.is_fragment() || !sctp::correct(ctx, packet, difference) {
                return Err(());
            }
            UPDATE_SUM
        }
        None => return Err(()),
    };
    ctx.store(at, &to.0, sum).map_err(drop)
}

/// Offset of the transport checksum; `None`: this packet has none that can be updated.
#[inline(always)]
fn checksum_at(packet: &Packet) -> Option<usize> {
    if !packet.has_transport() {
        return None;
    }
    match packet.proto {
        Proto::TCP => Some(packet.l4 + 16),
        Proto::UDP | Proto::UDP_LITE | Proto::DCCP => Some(packet.l4 + 6),
        Proto::ICMP | Proto::ICMPV6 => Some(packet.l4 + 2),
        _ => None,
    }
}

/// A flow whose two ends are rewritten: the backend answers to `source`, and the client gets the answers from what it
/// addressed.
pub(crate) struct FullNat {
    /// What replaces the client's address; the port is claimed.
    pub(crate) source: SocketAddr,
    pub(crate) backend: SocketAddr,
    /// [`Flow`] flags of both entries.
    pub(crate) flags: u32,
    /// Further [`Flow`] flags of the entry towards the backend.
    pub(crate) forward_flags: u32,
    /// Host-side interface of both ends, or 0.
    pub(crate) ifindex: u32,
    /// As in [`Flow::generation`].
    pub(crate) generation: u32,
}

/// Makes both entries and rewrites the packet that opens the flow.
#[inline(always)]
pub(crate) fn open_and_rewrite(
    ctx: &TcContext,
    packet: &mut Packet,
    nat: &FullNat,
) -> Result<(), DropReason> {
    let flow = open(packet, nat, PORT_TRIES)?;
    match set_both(ctx, packet, flow) {
        DropReason::None => Ok(()),
        reason => Err(reason),
    }
}

#[inline(never)]
fn set_both(ctx: &TcContext, packet: &mut Packet, flow: &Flow) -> DropReason {
    let done =
        set_source(ctx, packet, &flow.source).and_then(|()| set_destination(ctx, packet, &flow.destination));
    done.err().unwrap_or(DropReason::None)
}

/// Makes both entries, trying `tries` ports. Returns the entry of the packet's direction, valid until the next
/// [`conntrack::fresh`].
#[inline(always)]
pub(crate) fn open(packet: &Packet, nat: &FullNat, tries: u32) -> Result<&'static mut Flow, DropReason> {
    let answers = entry(nat)?;
    copy(&mut answers.source, &packet.destination.addr, packet.destination.port);
    copy(&mut answers.destination, &packet.source.addr, packet.source.port);
    let own = packet.source.port;
    let source = ports::claim(own, &nat.source, &nat.backend, packet.proto, answers, tries)
        .ok_or(DropReason::NoPort)?;
    let flow = entry(nat)?;
    flow.flags |= nat.forward_flags;
    if packet.from_high() {
        flow.flags |= Flow::REWRITE_HIGH | Flow::FROM_HIGH;
    }
    copy(&mut flow.source, &source.addr, source.port);
    copy(&mut flow.destination, &nat.backend.addr, nat.backend.port);
    conntrack::replace(packet, flow);
    Ok(flow)
}

/// The entry of one direction, without its ends.
#[inline(always)]
fn entry(nat: &FullNat) -> Result<&'static mut Flow, DropReason> {
    let flow = conntrack::fresh(nat.flags | Flow::SOURCE | Flow::DESTINATION)?;
    flow.generation = nat.generation;
    (flow.low_ifindex, flow.high_ifindex) = (nat.ifindex, nat.ifindex);
    Ok(flow)
}
