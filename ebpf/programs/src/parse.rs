//! An skb's headers to a [`Packet`].
//!
//! In: any bytes; every access is checked. Out: both families in one form, later fragments with the first one's ports.
//! Nothing is written but the packet: its source is not yet known to be right.
//!
//! The packet is in a per-CPU map, not on the stack. The verifier tracks no values there, so the many paths through the
//! headers join after the parser, and what follows is verified once.

use core::hint::cold_path;

use aya_ebpf::programs::TcContext;
use skep_abi::logic::signal;
use skep_abi::{Addr, Be16, DropReason, NodeConfig, Proto, SocketAddr};

use crate::frame::Frame;
use crate::maps::scratch;
use crate::packet::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV6, Ipv4, Ipv6, L3, Packet, is_icmp_error, is_query, is_request,
};
use crate::{delay, fragments, icmp};

/// Extension headers before a transport header; RFC 8200, 4.1 lists no more of them in use.
const MAX_EXTENSION_HEADERS: usize = 4;

/// The largest offset of a transport header in bytes.
const MAX_L4: usize = 255;

/// Reads the packet. `Ok(None)`: it is neither IPv4 nor IPv6.
#[inline(always)]
pub(crate) fn parse(ctx: &TcContext, config: &NodeConfig) -> Result<Option<&'static mut Packet>, DropReason> {
    let Some(packet) = scratch() else { return Ok(None) };
    // SAFETY: a read through a valid reference; volatile keeps the compiler from reading it again later.
    packet.generation = unsafe { core::ptr::read_volatile(&raw const config.generation) };
    (packet.rule, packet.service) = (0, 0);
    let frame = Frame::of(ctx);
    match frame.is_v4() {
        // One call for each family: the key then costs only what that family needs.
        Some(true) if frame.read::<true>(packet) => packet.locate_in::<true>(),
        Some(false) if frame.read::<false>(packet) => packet.locate(),
        _ => {
            cold_path();
            match read_any(ctx, packet) {
                DropReason::None if packet.l4 == 0 => return Ok(None),
                DropReason::None => {
                    if packet.is_error() {
                        icmp::relate(ctx, packet);
                    }
                    packet.locate();
                }
                reason => return Err(reason),
            }
        }
    }
    Ok(Some(packet))
}

/// Reads the headers of a packet that is not plain; see [`crate::frame`]. An `l4` of 0: it is not IP.
#[inline(never)]
fn read_any(ctx: &TcContext, packet: &mut Packet) -> DropReason {
    (packet.l4, packet.plain, packet.kind) = (0, 0, 0);
    let read = match read(ctx, 12) {
        Some(ETHERTYPE_IPV4) => ipv4(ctx, packet),
        Some(ETHERTYPE_IPV6) => ipv6(ctx, packet),
        Some(_) => Ok(()),
        None => Err(DropReason::Malformed),
    };
    match read {
        Ok(()) => DropReason::None,
        Err(reason) => reason,
    }
}

/// Reads `T` at `offset`, without pulling data into the linear part: headers that a socket of this node made are there
/// already, and pulling would copy the head of every segment, since TCP keeps a clone for retransmission.
#[inline(always)]
fn read<T: Copy>(ctx: &TcContext, offset: usize) -> Option<T> {
    let at = ctx.data() + offset;
    if at + core::mem::size_of::<T>() > ctx.data_end() {
        return ctx.load(offset).ok();
    }
    // SAFETY: the bytes `at..at + size_of::<T>()` lie before data_end, as just compared; T is integers. Loads need no
    // alignment on BPF, and declaring none would make them byte by byte.
    Some(unsafe { *(at as *const T) })
}

#[inline(always)]
fn ipv4(ctx: &TcContext, packet: &mut Packet) -> Result<(), DropReason> {
    let ip: Ipv4 = read(ctx, L3).ok_or(DropReason::Malformed)?;
    let words = (ip.version_ihl & 0x0f) as usize;
    if ip.version_ihl >> 4 != 4 || words < 5 {
        return Err(DropReason::Malformed);
    }
    let fragment = u16::from_be(ip.fragment);
    packet.source = SocketAddr::new(Addr::from_v4_word(ip.source), Be16(0));
    packet.destination = SocketAddr::new(Addr::from_v4_word(ip.destination), Be16(0));
    packet.proto = Proto(ip.proto);
    packet.tcp_flags = 0;
    packet.v4 = 1;
    packet.transport = (fragment & 0x1fff == 0) as u8;
    packet.l4 = L3 + words * 4;
    packet.fragment_id = ip.id as u32;
    finish(ctx, packet, fragment & 0x3fff != 0)
}

#[inline(always)]
fn ipv6(ctx: &TcContext, packet: &mut Packet) -> Result<(), DropReason> {
    let ip: Ipv6 = read(ctx, L3).ok_or(DropReason::Malformed)?;
    if u32::from_be(ip.version_class_flow) >> 28 != 6 {
        return Err(DropReason::Malformed);
    }
    packet.source = SocketAddr::new(Addr(ip.source), Be16(0));
    packet.destination = SocketAddr::new(Addr(ip.destination), Be16(0));
    // The form of an IPv4 address that the maps use: on no wire (RFC 4038, 4.2).
    if packet.source.addr.is_v4() || packet.destination.addr.is_v4() {
        return Err(DropReason::Malformed);
    }
    packet.proto = Proto(ip.next);
    packet.tcp_flags = 0;
    packet.v4 = 0;
    packet.transport = 1;
    packet.l4 = L3 + IPV6;
    let mut fragmented = false;
    for _ in 0..MAX_EXTENSION_HEADERS {
        // Read from the map, so that the verifier does not multiply the rounds of this loop.
        let (proto, l4) = read_back(packet);
        match proto {
            // Hop-by-hop options, routing, destination options: length in units of eight bytes, less the first.
            0 | 43 | 60 => {
                let header: [u8; 2] = ctx.load(l4).map_err(|_| DropReason::Malformed)?;
                packet.proto = Proto(header[0]);
                packet.l4 = l4 + 8 + header[1] as usize * 8;
            }
            44 => {
                let header: [u32; 2] = ctx.load(l4).map_err(|_| DropReason::Malformed)?;
                let first = u32::from_be(header[0]);
                packet.proto = Proto((first >> 24) as u8);
                packet.transport = (first & 0xfff8 == 0) as u8;
                packet.l4 = l4 + 8;
                (fragmented, packet.fragment_id) = (true, header[1]);
                // What follows in a later fragment is data.
                if !packet.has_transport() {
                    break;
                }
            }
            _ => break,
        }
    }
    // More of them would hide the transport header from policy.
    if packet.has_transport() && is_extension(read_back(packet).0) {
        return Err(DropReason::Malformed);
    }
    finish(ctx, packet, fragmented)
}

/// Whether the parser reads on behind such a header.
#[inline(always)]
fn is_extension(proto: u8) -> bool {
    matches!(proto, 0 | 43 | 44 | 60)
}

/// The packet's protocol and transport offset, as values that the verifier knows nothing about.
#[inline(always)]
fn read_back(packet: &Packet) -> (u8, usize) {
    // SAFETY: reads through valid references; volatile only keeps the compiler from remembering the values.
    unsafe {
        (core::ptr::read_volatile(&raw const packet.proto.0), core::ptr::read_volatile(&raw const packet.l4))
    }
}

/// Fills in the ports: from the transport header, or for a later fragment from the entry that the first one made.
#[inline(always)]
fn finish(ctx: &TcContext, packet: &mut Packet, fragmented: bool) -> Result<(), DropReason> {
    packet.fragment = fragmented as u8;
    packet.error = 0;
    if packet.has_transport() {
        return transport(ctx, packet);
    }
    fragments::complete(packet)?;
    delay::end(ctx);
    Ok(())
}

#[inline(always)]
fn transport(ctx: &TcContext, packet: &mut Packet) -> Result<(), DropReason> {
    let (_, l4) = read_back(packet);
    if l4 > MAX_L4 {
        return Err(DropReason::Malformed);
    }
    match packet.proto {
        Proto::TCP => {
            let ports: [u16; 2] = read(ctx, l4).ok_or(DropReason::Malformed)?;
            let offset_flags: [u8; 2] = read(ctx, l4 + 12).ok_or(DropReason::Malformed)?;
            packet.source.port = Be16(ports[0]);
            packet.destination.port = Be16(ports[1]);
            packet.tcp_flags = offset_flags[1];
        }
        Proto::UDP | Proto::SCTP | Proto::UDP_LITE | Proto::DCCP => {
            let header: [u16; 4] = read(ctx, l4).ok_or(DropReason::Malformed)?;
            packet.source.port = Be16(header[0]);
            packet.destination.port = Be16(header[1]);
            packet.tcp_flags = match packet.proto {
                // Type and flags of the first chunk; without one it says nothing.
                Proto::SCTP => read::<[u8; 2]>(ctx, l4 + 12)
                    .map_or(0, |[kind, _]| signal::sctp((header[2] | header[3]).into(), kind)),
                _ => signal::DATAGRAM,
            };
        }
        Proto::ICMP | Proto::ICMPV6 => {
            let header: [u16; 4] = read(ctx, l4).ok_or(DropReason::Malformed)?;
            packet.kind = header[0] as u8;
            if is_query(packet.proto, packet.kind) {
                packet.source.port = Be16(header[2]);
                packet.destination.port = Be16(header[2]);
                packet.tcp_flags = signal::echo(is_request(packet.proto, packet.kind));
            } else if is_icmp_error(packet.proto, packet.kind) && !packet.is_fragment() {
                // The caller relates the error to its flow: here the stack would not suffice.
                packet.error = 1;
            }
        }
        _ => {}
    }
    Ok(())
}
