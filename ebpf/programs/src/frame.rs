//! A plain frame before there is an skb: its headers to a [`Packet`], and rewriting by direct access.
//!
//! Plain is Ethernet, an IP header without options or extension headers, not a fragment, and TCP or UDP behind it.
//! Everything else is left to the hooks that see the skb, so nothing here drops.

use aya_ebpf::programs::XdpContext;
use skep_abi::{Addr, Be16, End, Flow, Proto};

use crate::parse::{self, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet};

/// Where the frame begins and ends.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    start: usize,
    end: usize,
}

/// Offsets in an IP header.
struct Header {
    size: usize,
    len: usize,
    ttl: usize,
    proto: usize,
    source: usize,
    destination: usize,
}

const V4: Header = Header { size: 20, len: 2, ttl: 8, proto: 9, source: 12, destination: 16 };
const V6: Header = Header { size: 40, len: 4, ttl: 7, proto: 6, source: 8, destination: 24 };
const V4_FRAGMENT: usize = ETHERNET + 6;
const V4_CHECK: usize = ETHERNET + 10;

const TCP_SIZE: usize = 20;
const UDP_SIZE: usize = 8;

const fn header(v4: bool) -> Header {
    if v4 { V4 } else { V6 }
}

const fn transport_at(v4: bool) -> usize {
    ETHERNET + header(v4).size
}

impl Frame {
    #[inline(always)]
    pub(crate) fn new(ctx: &XdpContext) -> Self {
        Frame { start: ctx.data(), end: ctx.data_end() }
    }

    #[inline(always)]
    fn reaches(&self, length: usize) -> Option<()> {
        (self.start + length <= self.end).then_some(())
    }

    #[inline(always)]
    fn load<T: Copy>(&self, offset: usize) -> T {
        // SAFETY: the verifier refuses a program that has not compared the bounds before; T is integers. Loads need no
        // alignment on BPF, and declaring none would make them byte by byte.
        unsafe { *((self.start + offset) as *const T) }
    }

    #[inline(always)]
    fn store<T>(&self, offset: usize, value: T) {
        // SAFETY: as in `load`; nobody holds a reference into the frame.
        unsafe { *((self.start + offset) as *mut T) = value }
    }

    /// Whether it is IPv4 or IPv6; `None`: neither.
    #[inline(always)]
    pub(crate) fn is_v4(&self) -> Option<bool> {
        self.reaches(ETHERNET)?;
        match self.load::<u16>(12) {
            ETHERTYPE_IPV4 => Some(true),
            ETHERTYPE_IPV6 => Some(false),
            _ => None,
        }
    }

    /// Whose MAC it is for. Only behind [`Frame::packet`].
    #[inline(always)]
    pub(crate) fn destination_mac(&self) -> [u16; 3] {
        self.load(0)
    }

    /// Bytes of the IP packet, as the header says. Only behind [`Frame::packet`].
    #[inline(always)]
    pub(crate) fn ip_len<const IS_V4: bool>(&self) -> u16 {
        let len = u16::from_be(self.load(ETHERNET + header(IS_V4).len));
        if IS_V4 { len } else { len.wrapping_add(V6.size as u16) }
    }

    /// The packet, if it is plain, has life left, and its checksum is finished.
    #[inline(always)]
    pub(crate) fn packet<const IS_V4: bool>(&self) -> Option<&'static mut Packet> {
        let (header, at) = (header(IS_V4), transport_at(IS_V4));
        self.reaches(at + UDP_SIZE)?;
        let version: u8 = self.load(ETHERNET);
        let plain = match IS_V4 {
            // Without options; neither "more fragments" nor an offset.
            true => version == 0x45 && self.load::<u16>(V4_FRAGMENT) & 0x3fff_u16.to_be() == 0,
            false => version >> 4 == 6,
        };
        if !plain || self.load::<u8>(ETHERNET + header.ttl) < 2 {
            return None;
        }
        let len = self.ip_len::<IS_V4>().checked_sub(header.size as u16)?;
        let packet = parse::scratch()?;
        packet.proto = Proto(self.load(ETHERNET + header.proto));
        let (check, least) = match packet.proto {
            Proto::TCP => {
                self.reaches(at + TCP_SIZE)?;
                packet.tcp_flags = self.load(at + 13);
                (self.load::<u16>(at + 16), (self.load::<u8>(at + 12) >> 4) as u16 * 4)
            }
            Proto::UDP => {
                packet.tcp_flags = 0;
                let check: u16 = self.load(at + 6);
                // IPv6 has no UDP without a checksum (RFC 8200, 8.1), but for tunnels.
                if u16::from_be(self.load(at + 4)) != len || (!IS_V4 && check == 0) {
                    return None;
                }
                (check, UDP_SIZE as u16)
            }
            _ => return None,
        };
        packet.source =
            End { addr: self.addr::<IS_V4>(header.source), port: Be16(self.load(at)), reserved: 0 };
        packet.destination =
            End { addr: self.addr::<IS_V4>(header.destination), port: Be16(self.load(at + 2)), reserved: 0 };
        packet.v4 = IS_V4 as u8;
        packet.transport = 1;
        (packet.fragment, packet.error) = (0, 0);
        packet.l4 = at;
        if len < least || check == unfinished(packet, len) {
            return None;
        }
        packet.locate();
        Some(packet)
    }

    #[inline(always)]
    fn addr<const IS_V4: bool>(&self, at: usize) -> Addr {
        match IS_V4 {
            true => Addr::from_v4_word(self.load(ETHERNET + at)),
            false => Addr(self.load(ETHERNET + at)),
        }
    }

    /// Sets the ends and the MACs to the flow's, and one hop less. Only behind [`Frame::packet`].
    #[inline(always)]
    pub(crate) fn rewrite<const IS_V4: bool>(&self, packet: &Packet, flow: &Flow) -> Option<()> {
        let (header, at) = (header(IS_V4), transport_at(IS_V4));
        let addresses = replaced(&packet.source.addr, &flow.source.addr)
            + replaced(&packet.destination.addr, &flow.destination.addr);
        let ports = word(!packet.source.port.0, !packet.destination.port.0)
            + word(flow.source.port.0, flow.destination.port.0);
        if packet.proto == Proto::TCP {
            self.reaches(at + TCP_SIZE)?;
            self.store(at + 16, updated(self.load(at + 16), addresses + ports));
        } else {
            let check: u16 = self.load(at + 6);
            // A datagram without a checksum stays without, and none gets the mark of that.
            if check != 0 {
                let new = updated(check, addresses + ports);
                self.store(at + 6, if new == 0 { u16::MAX } else { new });
            }
        }
        self.store(at, flow.source.port.0);
        self.store(at + 2, flow.destination.port.0);
        let ttl: u8 = self.load(ETHERNET + header.ttl);
        self.store(ETHERNET + header.ttl, ttl - 1);
        if IS_V4 {
            // The time to live is the first byte of its 16 bits.
            let check = updated(self.load(V4_CHECK), addresses + !0x0100_u16.to_be() as u64);
            self.store(V4_CHECK, check);
            self.store(ETHERNET + header.source, flow.source.addr.v4_word());
            self.store(ETHERNET + header.destination, flow.destination.addr.v4_word());
        } else {
            self.store(ETHERNET + header.source, flow.source.addr.0);
            self.store(ETHERNET + header.destination, flow.destination.addr.0);
        }
        self.store(0, flow.hop);
        Some(())
    }
}

/// What stands in the checksum of a packet that a device is yet to finish: the sum of the pseudo header. On a virtual
/// link such packets arrive so; only the skb tells, and one packet in 65,536 looks so by chance.
#[inline(always)]
fn unfinished(packet: &Packet, len: u16) -> u16 {
    let mut sum = (packet.proto.0 as u16).to_be() as u64 + len.to_be() as u64;
    let from = if packet.is_v4() { 3 } else { 0 };
    for i in from..4 {
        sum += packet.source.addr.0[i] as u64 + packet.destination.addr.0[i] as u64;
    }
    fold(sum)
}

/// What replacing an address adds to a one's complement sum (RFC 1624, equation 3). Equal words add nothing to it.
#[inline(always)]
fn replaced(old: &Addr, new: &Addr) -> u64 {
    let mut sum = 0;
    for i in 0..4 {
        sum += !old.0[i] as u64 + new.0[i] as u64;
    }
    sum
}

#[inline(always)]
fn word(first: u16, second: u16) -> u64 {
    first as u64 + second as u64
}

#[inline(always)]
fn updated(check: u16, difference: u64) -> u16 {
    !fold(!check as u64 + difference)
}

#[inline(always)]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
