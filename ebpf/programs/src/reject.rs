//! Rejecting a packet for which there is no backend.
//!
//! In: a client's packet. Out: the packet is its own answer, a TCP reset (RFC 9293, 3.10.7.1) or an ICMP port unreachable
//! (RFC 792, RFC 4443), from the address that the client addressed.
//!
//! A packet whose checksum the device completes (CHECKSUM_PARTIAL) keeps that mark through all changes. Both answers are
//! made so that the sum which the device stores is right.

use aya_ebpf::helpers::generated::{bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes};
use aya_ebpf::programs::TcContext;
use skep_abi::logic::checksum::{add, fold};
use skep_abi::{Addr, Proto, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};

use crate::buffers::{QUOTED_MASK, Reply};
use crate::checksum::{self, UPDATE_SUM, is_partial};
use crate::maps::REPLY;
use crate::packet::{IPV4, IPV6, L3, Packet};

const BPF_ADJ_ROOM_MAC: u32 = 1;
/// Hop limit of answers.
const TTL: u8 = 64;
/// Bytes of a TCP header without options.
const TCP_SIZE: usize = 20;
/// Bytes of an ICMP header.
const ICMP_SIZE: usize = 8;
/// Quoted bytes of the rejected packet: with headers less than 576 (RFC 1812, 4.3.2.3).
const MAX_QUOTED: u32 = 508;

/// Turns the packet into the answer that rejects it; false: it gets no answer.
#[inline(never)]
pub(crate) fn answer(ctx: &TcContext, packet: &Packet) -> bool {
    let Some(reply) = REPLY.get_ptr_mut(0) else { return false };
    // SAFETY: the element is this CPU's, classifiers do not nest on one CPU, and any bytes are a Reply.
    let reply = unsafe { &mut *reply };
    if !packet.has_transport() || !is_unicast(&packet.source.addr) {
        return false;
    }
    reply.pseudo.source = packet.destination.addr;
    reply.pseudo.destination = packet.source.addr;
    let plain = L3 + if packet.is_v4() { IPV4 } else { IPV6 };
    let done = if packet.proto == Proto::TCP && packet.l4 == plain {
        reset(ctx, packet, reply)
    } else {
        unreachable(ctx, packet, reply)
    };
    done.is_some() && swap_macs(ctx).is_some()
}

/// Whether an answer may be sent to the address.
#[inline(always)]
fn is_unicast(addr: &Addr) -> bool {
    if addr.is_v4() {
        let first = u32::from_be(addr.v4_word()) >> 24;
        return first != 0 && first < 224;
    }
    u32::from_be(addr.0[0]) >> 24 != 0xff && *addr != Addr::UNSPECIFIED
}

/// A TCP header without options (RFC 9293, 3.1).
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpHeader {
    ports: [u16; 2],
    sequence: u32,
    acknowledged: u32,
    offset: u8,
    flags: u8,
    window: u16,
    check: u16,
    urgent: u16,
}

/// A TCP reset.
#[inline(always)]
fn reset(ctx: &TcContext, packet: &Packet, reply: &mut Reply) -> Option<()> {
    let rejected: TcpHeader = ctx.load(packet.l4).ok()?;
    if rejected.flags & TCP_RST != 0 {
        return None;
    }
    let (sequence, acknowledged, flags) = if rejected.flags & TCP_ACK != 0 {
        (rejected.acknowledged, 0, TCP_RST)
    } else {
        let data = packet.transport_len(ctx)?.checked_sub((rejected.offset >> 4) as u32 * 4)?;
        let controls = (rejected.flags & TCP_SYN != 0) as u32 + (rejected.flags & TCP_FIN != 0) as u32;
        (0, u32::from_be(rejected.sequence).wrapping_add(data + controls).to_be(), TCP_RST | TCP_ACK)
    };
    let ports = (rejected.ports[1] as u32) | (rejected.ports[0] as u32) << 16;
    let offset_flags = u32::from_ne_bytes([5 << 4, flags, 0, 0]);
    reply.header = [ports, sequence, acknowledged, offset_flags, 0];
    change_tail(ctx, packet.l4 + TCP_SIZE)?;
    ctx.store(packet.l4, &reply.header, UPDATE_SUM).ok()?;
    let check_at = packet.l4 + 16;
    let mut sum = pseudo(reply, Proto::TCP, TCP_SIZE as u32);
    let check = if is_partial(ctx, check_at)? {
        fold(sum as u64)
    } else {
        sum = checksum::add(&reply.header, sum);
        !fold(sum as u64)
    };
    ctx.store(check_at, &check, UPDATE_SUM).ok()?;
    ip_header(ctx, packet, reply, Proto::TCP, TCP_SIZE as u32)
}

/// An ICMP port unreachable.
#[inline(always)]
fn unreachable(ctx: &TcContext, packet: &Packet, reply: &mut Reply) -> Option<()> {
    let quoted = packet.transport_len(ctx)? + (packet.l4 - L3) as u32;
    reply.quoted_len = if quoted > MAX_QUOTED { MAX_QUOTED } else { quoted };
    let header = if packet.is_v4() { IPV4 } else { IPV6 };
    let (kind, proto) =
        if packet.is_v4() { ([3, 3, 0, 0], Proto::ICMP) } else { ([1, 4, 0, 0], Proto::ICMPV6) };
    reply.header = [u32::from_ne_bytes(kind), 0, 0, 0, 0];
    // Read from memory, so that the compiler keeps the mask, which the verifier needs.
    // SAFETY: a read through a valid reference.
    let len = unsafe { core::ptr::read_volatile(&raw const reply.quoted_len) } & QUOTED_MASK;
    let sum = quoted_sum(ctx, packet, reply, len)?;
    change_tail(ctx, L3 + len as usize)?;
    let room = header + ICMP_SIZE;
    // SAFETY: the helper checks everything.
    if unsafe { bpf_skb_adjust_room(ctx.skb.skb, room as i32, BPF_ADJ_ROOM_MAC, 0) } != 0 {
        return None;
    }
    let mut sum = checksum::add(&reply.header, sum);
    let len = len + ICMP_SIZE as u32;
    if !packet.is_v4() {
        sum = add(sum, pseudo(reply, proto, len));
    }
    let message = [reply.header[0] | (!fold(sum as u64) as u32) << 16, 0];
    ctx.store(L3 + header, &message, UPDATE_SUM).ok()?;
    ip_header(ctx, packet, reply, proto, len)
}

/// The sum of the quoted bytes as they are when they leave. Once the device has completed the checksum, the transport part
/// sums up to the complement of the checksum's present value.
#[inline(always)]
fn quoted_sum(ctx: &TcContext, packet: &Packet, reply: &mut Reply, len: u32) -> Option<u32> {
    let check_at = match packet.proto {
        Proto::TCP => packet.l4 + 16,
        Proto::UDP => packet.l4 + 6,
        _ => 0,
    };
    let partial = check_at != 0 && is_partial(ctx, check_at)?;
    let head = (packet.l4 - L3) as u32 & QUOTED_MASK;
    let summed = if partial { head } else { len };
    if summed < IPV4 as u32 {
        return None;
    }
    let end = summed as usize;
    reply.quoted[end..end + 4].fill(0);
    load(ctx, L3, &mut reply.quoted, summed)?;
    let sum = checksum::add_bytes(&reply.quoted, summed.next_multiple_of(4), 0);
    if !partial {
        return Some(sum);
    }
    let present: u16 = ctx.load(check_at).ok()?;
    Some(add(sum, !present as u32))
}

/// Writes the answer's IP header, without options.
#[inline(always)]
fn ip_header(ctx: &TcContext, packet: &Packet, reply: &Reply, proto: Proto, len: u32) -> Option<()> {
    let bytes = u32::from_ne_bytes;
    let (source, destination) = (reply.pseudo.source.0, reply.pseudo.destination.0);
    if packet.is_v4() {
        let [_, _, high, low] = (len + IPV4 as u32).to_be_bytes();
        // It is not fragmented, so it needs no identification (RFC 6864).
        let first = [bytes([0x45, 0, high, low]), bytes([0, 0, 0x40, 0])];
        let mut header = [first[0], first[1], bytes([TTL, proto.0, 0, 0]), source[3], destination[3]];
        header[2] |= (!fold(checksum::add(&header, 0) as u64) as u32) << 16;
        return ctx.store(L3, &header, UPDATE_SUM).ok();
    }
    let [_, _, high, low] = len.to_be_bytes();
    let first = [bytes([0x60, 0, 0, 0]), bytes([high, low, proto.0, TTL])];
    ctx.store(L3, &first, UPDATE_SUM).ok()?;
    ctx.store(L3 + 8, &source, UPDATE_SUM).ok()?;
    ctx.store(L3 + 24, &destination, UPDATE_SUM).ok()
}

#[inline(always)]
fn swap_macs(ctx: &TcContext) -> Option<()> {
    let [a, b, c, d, e, f]: [u16; 6] = ctx.load(0).ok()?;
    ctx.store(0, &[d, e, f, a, b, c], 0).ok()
}

#[inline(always)]
fn change_tail(ctx: &TcContext, len: usize) -> Option<()> {
    // SAFETY: the helper checks everything.
    (unsafe { bpf_skb_change_tail(ctx.skb.skb, len as u32, 0) } == 0).then_some(())
}

#[inline(always)]
fn load(ctx: &TcContext, offset: usize, to: &mut [u8], len: u32) -> Option<()> {
    // SAFETY: every caller's length is within `to`, and the verifier checks that.
    let result =
        unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), offset as u32, to.as_mut_ptr().cast(), len) };
    (result == 0).then_some(())
}

/// The sum of the pseudo-header.
#[inline(always)]
fn pseudo(reply: &mut Reply, proto: Proto, len: u32) -> u32 {
    reply.pseudo.len = len.to_be();
    reply.pseudo.proto = (proto.0 as u32).to_be();
    checksum::add(&reply.pseudo, 0)
}
