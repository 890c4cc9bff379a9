//! Telling a client that nobody serves: the packet becomes its own answer, a TCP reset (RFC 9293, 3.10.7.1) or an ICMP
//! port unreachable (RFC 792, RFC 4443), from the address that the client asked.
//!
//! A packet whose checksum is left to the device (CHECKSUM_PARTIAL) keeps that mark whatever is written, so both answers
//! are made such that the sum the device will put there is right.

use aya_ebpf::helpers::generated::{bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes};
use aya_ebpf::programs::TcContext;
use skep_abi::logic::checksum::{add, fold};
use skep_abi::{Addr, Proto, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};

use crate::buffers::{QUOTED_MASK, Reply};
use crate::checksum::{self, is_partial};
use crate::maps::REPLY;
use crate::packet::{IPV4, IPV6, L3, Packet};

const BPF_ADJ_ROOM_MAC: u32 = 1;
const TTL: u8 = 64;
const TCP: usize = 20;
const ICMP: usize = 8;
/// Of the packet that is refused, so much is quoted: with headers less than 576 bytes (RFC 1812, 4.3.2.3).
const QUOTED_MAX: u32 = 508;
/// Turns the packet into its refusal; false if it gets none.
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
    done.is_some() && swap_stations(ctx).is_some()
}

#[inline(always)]
fn is_unicast(addr: &Addr) -> bool {
    if addr.is_v4() {
        let first = u32::from_be(addr.v4_word()) >> 24;
        return first != 0 && first < 224;
    }
    u32::from_be(addr.0[0]) >> 24 != 0xff && *addr != Addr::UNSPECIFIED
}

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

#[inline(always)]
fn reset(ctx: &TcContext, packet: &Packet, reply: &mut Reply) -> Option<()> {
    let asked: TcpHeader = ctx.load(packet.l4).ok()?;
    if asked.flags & TCP_RST != 0 {
        return None;
    }
    let (sequence, acknowledged, flags) = if asked.flags & TCP_ACK != 0 {
        (asked.acknowledged, 0, TCP_RST)
    } else {
        let data = packet.transport_len(ctx)?.checked_sub((asked.offset >> 4) as u32 * 4)?;
        let controls = (asked.flags & TCP_SYN != 0) as u32 + (asked.flags & TCP_FIN != 0) as u32;
        (0, u32::from_be(asked.sequence).wrapping_add(data + controls).to_be(), TCP_RST | TCP_ACK)
    };
    let ports = (asked.ports[1] as u32) | (asked.ports[0] as u32) << 16;
    let offset_flags = u32::from_ne_bytes([5 << 4, flags, 0, 0]);
    reply.header = [ports, sequence, acknowledged, offset_flags, 0];
    change_tail(ctx, packet.l4 + TCP)?;
    ctx.store(packet.l4, &reply.header, 0).ok()?;
    let check_at = packet.l4 + 16;
    let mut sum = pseudo(reply, Proto::TCP, TCP as u32);
    let check = if is_partial(ctx, check_at)? {
        fold(sum as u64)
    } else {
        sum = checksum::add(&reply.header, sum);
        !fold(sum as u64)
    };
    ctx.store(check_at, &check, 0).ok()?;
    ip_header(ctx, packet, reply, Proto::TCP, TCP as u32)
}

#[inline(always)]
fn unreachable(ctx: &TcContext, packet: &Packet, reply: &mut Reply) -> Option<()> {
    let quoted = packet.transport_len(ctx)? + (packet.l4 - L3) as u32;
    reply.quoted_len = if quoted > QUOTED_MAX { QUOTED_MAX } else { quoted };
    let header = if packet.is_v4() { IPV4 } else { IPV6 };
    let (kind, proto) =
        if packet.is_v4() { ([3, 3, 0, 0], Proto::ICMP) } else { ([1, 4, 0, 0], Proto::ICMPV6) };
    reply.header = [u32::from_ne_bytes(kind), 0, 0, 0, 0];
    // By way of memory, so that the mask below is one that the verifier sees.
    // SAFETY: a read through a valid reference.
    let length = unsafe { core::ptr::read_volatile(&raw const reply.quoted_len) } & QUOTED_MASK;
    let sum = quoted_sum(ctx, packet, reply, length)?;
    change_tail(ctx, L3 + length as usize)?;
    let room = header + ICMP;
    // SAFETY: the helper checks everything.
    if unsafe { bpf_skb_adjust_room(ctx.skb.skb, room as i32, BPF_ADJ_ROOM_MAC, 0) } != 0 {
        return None;
    }
    let mut sum = checksum::add(&reply.header, sum);
    let length = length + ICMP as u32;
    if !packet.is_v4() {
        sum = add(sum, pseudo(reply, proto, length));
    }
    let message = [reply.header[0] | (!fold(sum as u64) as u32) << 16, 0];
    ctx.store(L3 + header, &message, 0).ok()?;
    ip_header(ctx, packet, reply, proto, length)
}

/// The sum of what is quoted, as it will be when it leaves: behind a checksum that the device fills in, the whole
/// transport part sums up to the complement of what stands there now.
#[inline(always)]
fn quoted_sum(ctx: &TcContext, packet: &Packet, reply: &mut Reply, length: u32) -> Option<u32> {
    let check_at = match packet.proto {
        Proto::TCP => packet.l4 + 16,
        Proto::UDP => packet.l4 + 6,
        _ => 0,
    };
    let partial = check_at != 0 && is_partial(ctx, check_at)?;
    let head = (packet.l4 - L3) as u32 & QUOTED_MASK;
    let summed = if partial { head } else { length };
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
    let stands: u16 = ctx.load(check_at).ok()?;
    Some(add(sum, !stands as u32))
}

/// A fresh IP header from who was asked to who asked, without options.
#[inline(always)]
fn ip_header(ctx: &TcContext, packet: &Packet, reply: &Reply, proto: Proto, length: u32) -> Option<()> {
    let bytes = u32::from_ne_bytes;
    let (source, destination) = (reply.pseudo.source.0, reply.pseudo.destination.0);
    if packet.is_v4() {
        let [_, _, high, low] = (length + IPV4 as u32).to_be_bytes();
        // Not to be fragmented, so it needs no identification (RFC 6864).
        let first = [bytes([0x45, 0, high, low]), bytes([0, 0, 0x40, 0])];
        let mut header = [first[0], first[1], bytes([TTL, proto.0, 0, 0]), source[3], destination[3]];
        header[2] |= (!fold(checksum::add(&header, 0) as u64) as u32) << 16;
        return ctx.store(L3, &header, 0).ok();
    }
    let [_, _, high, low] = length.to_be_bytes();
    let first = [bytes([0x60, 0, 0, 0]), bytes([high, low, proto.0, TTL])];
    ctx.store(L3, &first, 0).ok()?;
    ctx.store(L3 + 8, &source, 0).ok()?;
    ctx.store(L3 + 24, &destination, 0).ok()
}

#[inline(always)]
fn swap_stations(ctx: &TcContext) -> Option<()> {
    let [a, b, c, d, e, f]: [u16; 6] = ctx.load(0).ok()?;
    ctx.store(0, &[d, e, f, a, b, c], 0).ok()
}

#[inline(always)]
fn change_tail(ctx: &TcContext, length: usize) -> Option<()> {
    // SAFETY: the helper checks everything.
    (unsafe { bpf_skb_change_tail(ctx.skb.skb, length as u32, 0) } == 0).then_some(())
}

#[inline(always)]
fn load(ctx: &TcContext, offset: usize, to: &mut [u8], length: u32) -> Option<()> {
    // SAFETY: every caller's length is within `to`, and the verifier checks that.
    let result =
        unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), offset as u32, to.as_mut_ptr().cast(), length) };
    (result == 0).then_some(())
}

/// The sum of the pseudo-header.
#[inline(always)]
fn pseudo(reply: &mut Reply, proto: Proto, len: u32) -> u32 {
    reply.pseudo.len = len.to_be();
    reply.pseudo.proto = (proto.0 as u32).to_be();
    checksum::add(&reply.pseudo, 0)
}
