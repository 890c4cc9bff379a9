//! Telling a client that nobody serves: the packet becomes its own answer, a TCP reset (RFC 9293, 3.10.7.1) or an ICMP
//! port unreachable (RFC 792, RFC 4443), from the address that the client asked.
//!
//! A packet whose checksum is left to the device (CHECKSUM_PARTIAL) keeps that mark whatever is written, so both answers
//! are made such that the sum the device will put there is right.

use aya_ebpf::helpers::generated::{
    bpf_csum_diff, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes,
};
use aya_ebpf::programs::TcContext;
use skep_abi::{Addr, Proto, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};

use crate::maps::REPLY;
use crate::parse::{L3, Packet};

const BPF_ADJ_ROOM_MAC: u32 = 1;
const TTL: u8 = 64;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;
const ICMP: usize = 8;
/// Of the packet that is refused, so much is quoted: with headers less than 576 bytes (RFC 1812, 4.3.2.3).
const QUOTED_MAX: u32 = 508;
/// Holds lengths in bounds that the verifier sees.
const LENGTH_MASK: u32 = 511;

/// Where an answer is made, apart from the stack.
#[repr(C)]
pub(crate) struct Reply {
    /// The pseudo-header of IPv6 (RFC 8200, 8.1). It serves for IPv4 too: what marks a mapped address is 0xffff, twice,
    /// which in this sum is nothing.
    source: Addr,
    destination: Addr,
    length: u32,
    proto: u32,
    /// The header behind IP's.
    header: [u32; 5],
    quoted_length: u32,
    quoted: [u8; LENGTH_MASK as usize + 5],
}

/// Turns the packet into its refusal; false if it gets none.
#[inline(never)]
pub(crate) fn refuse(ctx: &TcContext, packet: &Packet) -> bool {
    let Some(reply) = REPLY.get_ptr_mut(0) else { return false };
    // SAFETY: the element is this CPU's, classifiers do not nest on one CPU, and any bytes are a Reply.
    let reply = unsafe { &mut *reply };
    if !packet.has_transport() || !is_unicast(&packet.source.addr) {
        return false;
    }
    reply.source = packet.destination.addr;
    reply.destination = packet.source.addr;
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
        let data = packet.length(ctx)?.checked_sub((asked.offset >> 4) as u32 * 4)?;
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
    let check = if left_to_device(ctx, check_at)? {
        fold(sum)
    } else {
        sum = add(&reply.header, sum);
        !fold(sum)
    };
    ctx.store(check_at, &check, 0).ok()?;
    ip_header(ctx, packet, reply, Proto::TCP, TCP as u32)
}

#[inline(always)]
fn unreachable(ctx: &TcContext, packet: &Packet, reply: &mut Reply) -> Option<()> {
    let quoted = packet.length(ctx)? + (packet.l4 - L3) as u32;
    reply.quoted_length = if quoted > QUOTED_MAX { QUOTED_MAX } else { quoted };
    let header = if packet.is_v4() { IPV4 } else { IPV6 };
    let (kind, proto) =
        if packet.is_v4() { ([3, 3, 0, 0], Proto::ICMP) } else { ([1, 4, 0, 0], Proto::ICMPV6) };
    reply.header = [u32::from_ne_bytes(kind), 0, 0, 0, 0];
    // By way of memory, so that the mask below is one that the verifier sees.
    // SAFETY: a read through a valid reference.
    let length = unsafe { core::ptr::read_volatile(&raw const reply.quoted_length) } & LENGTH_MASK;
    let sum = quoted_sum(ctx, packet, reply, length)?;
    change_tail(ctx, L3 + length as usize)?;
    let room = header + ICMP;
    // SAFETY: the helper checks everything.
    if unsafe { bpf_skb_adjust_room(ctx.skb.skb, room as i32, BPF_ADJ_ROOM_MAC, 0) } != 0 {
        return None;
    }
    let mut sum = add(&reply.header, sum);
    let length = length + ICMP as u32;
    if !packet.is_v4() {
        sum = sum_of_two(sum, pseudo(reply, proto, length));
    }
    let message = [reply.header[0] | (!fold(sum) as u32) << 16, 0];
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
    let partial = check_at != 0 && left_to_device(ctx, check_at)?;
    let head = (packet.l4 - L3) as u32 & LENGTH_MASK;
    let summed = if partial { head } else { length };
    if summed < IPV4 as u32 {
        return None;
    }
    let end = summed as usize;
    reply.quoted[end..end + 4].fill(0);
    load(ctx, L3, &mut reply.quoted, summed)?;
    let sum = add_bytes(&reply.quoted, summed.next_multiple_of(4), 0);
    if !partial {
        return Some(sum);
    }
    let stands: u16 = ctx.load(check_at).ok()?;
    Some(sum_of_two(sum, !stands as u32))
}

/// Whether the device is to fill in the checksum at `check_at`: only then does the helper leave it alone.
#[inline(always)]
pub(crate) fn left_to_device(ctx: &TcContext, check_at: usize) -> Option<bool> {
    let before: u16 = ctx.load(check_at).ok()?;
    ctx.l4_csum_replace(check_at, 0, 1, 2).ok()?;
    let after: u16 = ctx.load(check_at).ok()?;
    if before == after {
        return Some(true);
    }
    ctx.store(check_at, &before, 0).ok()?;
    Some(false)
}

/// A fresh IP header from who was asked to who asked, without options.
#[inline(always)]
fn ip_header(ctx: &TcContext, packet: &Packet, reply: &Reply, proto: Proto, length: u32) -> Option<()> {
    let bytes = u32::from_ne_bytes;
    let (source, destination) = (reply.source.0, reply.destination.0);
    if packet.is_v4() {
        let [_, _, high, low] = (length + IPV4 as u32).to_be_bytes();
        // Not to be fragmented, so it needs no identification (RFC 6864).
        let first = [bytes([0x45, 0, high, low]), bytes([0, 0, 0x40, 0])];
        let mut header = [first[0], first[1], bytes([TTL, proto.0, 0, 0]), source[3], destination[3]];
        header[2] |= (!fold(add(&header, 0)) as u32) << 16;
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

#[inline(always)]
fn pseudo(reply: &mut Reply, proto: Proto, length: u32) -> u32 {
    reply.length = length.to_be();
    reply.proto = (proto.0 as u32).to_be();
    // SAFETY: the pseudo-header is the first 40 bytes of a Reply.
    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, (&raw mut *reply).cast(), 40, 0) as u32 }
}

#[inline(always)]
fn add(words: &[u32; 5], sum: u32) -> u32 {
    let words = words.as_ptr().cast_mut();
    // SAFETY: the array is 20 bytes, as said, and the helper only reads.
    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, words, 20, sum) as u32 }
}

#[inline(always)]
fn add_bytes(bytes: &[u8], length: u32, sum: u32) -> u32 {
    // SAFETY: the helper only reads; every caller's length is within `bytes`, and the verifier checks that.
    let result =
        unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, bytes.as_ptr().cast_mut().cast(), length, sum) };
    result as u32
}

#[inline(always)]
fn sum_of_two(a: u32, b: u32) -> u32 {
    let sum = a as u64 + b as u64;
    (sum as u32).wrapping_add((sum >> 32) as u32)
}

#[inline(always)]
fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}
