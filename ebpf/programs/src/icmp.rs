//! ICMP errors: the flow that an error is about, and the translation of the packet that it quotes (RFC 5508, RFC 792,
//! RFC 4443).
//!
//! An error travels against the packet that it quotes. So [`relate`] makes the quoted ends, swapped, the packet's ends:
//! look-up, verdict and direction are then those of an answer, and only the rewriting differs. An error about no known
//! flow remains a packet without ports, subject to policy. Extensions (RFC 4884) are not rewritten.

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::programs::TcContext;
use skep_abi::{Addr, Be16, DropReason, Flow, Proto, SocketAddr};

use crate::buffers::QUOTE_WINDOW;
use crate::checksum::{self, UPDATE_SUM};
use crate::maps::{CONNTRACK, QUOTE};
use crate::packet::{Ipv4, Ipv6, L3, Packet, is_query};

/// Offset of the checksum in an ICMP message.
const CHECK_AT: usize = 2;
/// Holds lengths within bounds that the verifier sees.
const LENGTH_MASK: u32 = QUOTE_WINDOW as u32 - 1;

/// Makes the packet look like an answer of the flow that the error is about. False: the flow is not known, and the packet
/// keeps its own ends.
#[inline(never)]
pub(crate) fn relate(ctx: &TcContext, packet: &mut Packet) -> bool {
    packet.outer_source = packet.source.addr;
    packet.outer_destination = packet.destination.addr;
    packet.quoted_l3 = packet.l4 + 8;
    let (own, kind) = (packet.proto, packet.kind);
    // An error goes to the source of the packet that it quotes.
    if quoted(ctx, packet).is_some() && packet.destination.addr == packet.outer_destination {
        packet.locate();
        if CONNTRACK.get_ptr(&packet.key).is_some() {
            return true;
        }
    }
    packet.error = 0;
    (packet.proto, packet.kind) = (own, kind);
    packet.source = SocketAddr::new(packet.outer_source, Be16(0));
    packet.destination = SocketAddr::new(packet.outer_destination, Be16(0));
    false
}

/// Reads the quoted packet's ends, swapped, and its protocol.
#[inline(always)]
fn quoted(ctx: &TcContext, packet: &mut Packet) -> Option<()> {
    let l3 = packet.quoted_l3;
    if packet.is_v4() {
        let ip: Ipv4 = ctx.load(l3).ok()?;
        let words = (ip.version_ihl & 0x0f) as usize;
        // Only a first fragment has ports.
        if ip.version_ihl >> 4 != 4 || words < 5 || u16::from_be(ip.fragment) & 0x1fff != 0 {
            return None;
        }
        packet.destination.addr = Addr::from_v4_word(ip.source);
        packet.source.addr = Addr::from_v4_word(ip.destination);
        packet.proto = Proto(ip.proto);
        packet.quoted_l4 = l3 + words * 4;
    } else {
        let ip: Ipv6 = ctx.load(l3).ok()?;
        if u32::from_be(ip.version_class_flow) >> 28 != 6 {
            return None;
        }
        packet.destination.addr = Addr(ip.source);
        packet.source.addr = Addr(ip.destination);
        packet.proto = Proto(ip.next);
        packet.quoted_l4 = l3 + 40;
        if ip.next == 44 {
            let first = u32::from_be(ctx.load(l3 + 40).ok()?);
            if first & 0xfff8 != 0 {
                return None;
            }
            packet.proto = Proto((first >> 24) as u8);
            packet.quoted_l4 = l3 + 48;
        }
    }
    let words: [u16; 4] = ctx.load(packet.quoted_l4).ok()?;
    let (from, to) = match packet.proto {
        Proto::TCP | Proto::UDP | Proto::SCTP => (words[0], words[1]),
        Proto::ICMP | Proto::ICMPV6 if is_query(packet.proto, words[0] as u8) => {
            packet.kind = words[0] as u8;
            (words[2], words[2])
        }
        _ => return None,
    };
    (packet.source.port, packet.destination.port) = (Be16(to), Be16(from));
    Some(())
}

/// [`crate::nat::apply`] for an error. The ends of the quoted packet are swapped: its destination is the source of answers.
///
/// The verifier would carry what it knows of one end through the branches of the other, so both read the packet again.
#[inline(never)]
pub(crate) fn rewrite(ctx: &TcContext, packet: &mut Packet, flow: &Flow) -> bool {
    let Some(quote) = QUOTE.get_ptr_mut(0) else { return false };
    // SAFETY: the element is this CPU's, classifiers do not nest on one CPU, and any bytes are a Quote.
    let quote = unsafe { &mut *quote };
    let rest = ctx.len().saturating_sub(packet.l4 as u32);
    quote.len = if rest > LENGTH_MASK { LENGTH_MASK } else { rest };
    if load(ctx, packet.l4, &mut quote.before, &quote.len).is_none() {
        return false;
    }
    // Bytes that the second load does not reach are equal in both.
    quote.after = quote.before;
    if flow.flags & Flow::SOURCE != 0 {
        let (from, to) = (packet.source, &flow.source);
        if set_quoted(ctx, packet, Which::Destination, &from, to).is_none() {
            return false;
        }
        // An error of a router on the path keeps the router's address (RFC 5508, REQ-4).
        if packet.outer_source == from.addr && set_outer(ctx, packet, Which::Source, &from, to).is_none() {
            return false;
        }
        packet.source = *to;
    }
    if flow.flags & Flow::DESTINATION != 0 {
        let (from, to) = (packet.destination, &flow.destination);
        if set_quoted(ctx, packet, Which::Source, &from, to).is_none()
            || set_outer(ctx, packet, Which::Destination, &from, to).is_none()
        {
            return false;
        }
        packet.destination = *to;
    }
    if load(ctx, packet.l4, &mut quote.after, &quote.len).is_none() {
        return false;
    }
    // The correction does not cover the checksum itself.
    quote.before[CHECK_AT..CHECK_AT + 2].fill(0);
    quote.after[CHECK_AT..CHECK_AT + 2].fill(0);
    let difference = checksum::difference(&quote.before, &quote.after);
    ctx.l4_csum_replace(packet.l4 + CHECK_AT, 0, difference, 0).is_ok()
}

/// An end of a packet.
#[derive(Clone, Copy)]
enum Which {
    Source,
    Destination,
}

impl Which {
    /// Offset of the address in an IPv4 and in an IPv6 header, and of the port in the transport header.
    #[inline(always)]
    const fn offsets(self) -> (usize, usize, usize) {
        match self {
            Which::Source => (12, 8, 0),
            Which::Destination => (16, 24, 2),
        }
    }
}

/// Replaces an end in the quoted headers, with their checksums. SCTP's checksum stays: no receiver can verify it in a
/// quote, which is a part of the message.
#[inline(never)]
fn set_quoted(
    ctx: &TcContext,
    packet: &Packet,
    which: Which,
    from: &SocketAddr,
    to: &SocketAddr,
) -> Option<()> {
    let (v4_at, v6_at, port_at) = which.offsets();
    let (l3, l4) = (packet.quoted_l3, packet.quoted_l4);
    let (port_at, check_at) = match present(&packet.proto.0) {
        6 => (port_at, 16),
        17 => (port_at, 6),
        132 => (port_at, usize::MAX),
        _ => (4, 2),
    };
    ctx.store(l4 + port_at, &to.port.0, 0).ok()?;
    if check_at != usize::MAX && l4 + check_at + 2 <= ctx.len() as usize {
        let difference = if present(&packet.proto.0) == Proto::ICMP.0 {
            // ICMP has no pseudo-header, so only the identifier counts.
            to.port.0 as u64 + (!from.port.0) as u64
        } else {
            // Both sides have the mark of a mapped address, which cancels out.
            checksum::difference(from, to)
        };
        let flags = if check_at == 6 { BPF_F_MARK_MANGLED_0 as u64 } else { 0 };
        ctx.l4_csum_replace(l4 + check_at, 0, difference, flags).ok()?;
    }
    if present(&packet.v4) == 0 {
        return ctx.store(l3 + v6_at, &to.addr, 0).ok();
    }
    let (old, new) = (from.addr.v4_word() as u64, to.addr.v4_word() as u64);
    ctx.l3_csum_replace(l3 + 10, old, new, 4).ok()?;
    ctx.store(l3 + v4_at, &to.addr.0[3], 0).ok()
}

/// Replaces an address of the error itself. In IPv6 the message's checksum covers it.
#[inline(always)]
fn set_outer(
    ctx: &TcContext,
    packet: &mut Packet,
    which: Which,
    from: &SocketAddr,
    to: &SocketAddr,
) -> Option<()> {
    let (v4_at, v6_at, _) = which.offsets();
    match which {
        Which::Source => packet.outer_source = to.addr,
        Which::Destination => packet.outer_destination = to.addr,
    }
    if present(&packet.v4) == 0 {
        let difference = checksum::difference(&from.addr, &to.addr);
        ctx.l4_csum_replace(packet.l4 + CHECK_AT, 0, difference, BPF_F_PSEUDO_HDR as u64).ok()?;
        return ctx.store(L3 + v6_at, &to.addr, UPDATE_SUM).ok();
    }
    let (old, new) = (from.addr.v4_word() as u64, to.addr.v4_word() as u64);
    ctx.l3_csum_replace(L3 + 10, old, new, 4).ok()?;
    ctx.store(L3 + v4_at, &to.addr.0[3], 0).ok()
}

/// The value in memory, of which the verifier knows nothing.
#[inline(always)]
fn present(value: &u8) -> u8 {
    // SAFETY: a read through a valid reference.
    unsafe { core::ptr::read_volatile(value) }
}

/// Loads the first bytes of the message; `None`: it is shorter than an error with a quoted IP header and ports can be.
#[inline(always)]
fn load(ctx: &TcContext, offset: usize, to: &mut [u8; QUOTE_WINDOW], length: &u32) -> Option<()> {
    // Read from memory, so that the compiler keeps the mask.
    // SAFETY: a read through a valid reference.
    let length = unsafe { core::ptr::read_volatile(length) } & LENGTH_MASK;
    if length < 36 {
        return None;
    }
    // SAFETY: the length is within the buffer.
    let result =
        unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), offset as u32, to.as_mut_ptr().cast(), length) };
    (result == 0).then_some(())
}

/// An error for an error whose flow was removed between two look-ups: no flow may be opened for it.
#[inline(always)]
pub(crate) fn unrelated(packet: &Packet) -> Result<(), DropReason> {
    if packet.is_error() { Err(DropReason::Unrelated) } else { Ok(()) }
}
