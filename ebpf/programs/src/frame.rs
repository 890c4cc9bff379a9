//! Plain frames by direct access: their headers to a [`Packet`], and their rewriting in XDP.
//!
//! A plain frame is Ethernet, then an IP header without options or extension headers that is no fragment, then TCP or UDP.
//! [`crate::parse`] and the TC hooks take all other frames, so nothing here drops.

use aya_ebpf::programs::{TcContext, XdpContext};
use skep_abi::logic::checksum::{Differences, updated};
use skep_abi::logic::signal;
use skep_abi::{Addr, Be16, Flow, Proto, SocketAddr};

use crate::checksum::pseudo_header;
use crate::maps::scratch;
use crate::packet::{ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4, IPV6, Packet};

/// The frame's first address and the one after its last.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    start: usize,
    end: usize,
}

/// Size of an IP header and offsets in it.
struct Header {
    size: usize,
    len: usize,
    ttl: usize,
    proto: usize,
    source: usize,
    destination: usize,
}

const V4: Header = Header { size: IPV4, len: 2, ttl: 8, proto: 9, source: 12, destination: 16 };
const V6: Header = Header { size: IPV6, len: 4, ttl: 7, proto: 6, source: 8, destination: 24 };
const V4_FRAGMENT: usize = ETHERNET + 6;
const V4_CHECK: usize = ETHERNET + 10;

const TCP_SIZE: usize = 20;
const UDP_SIZE: usize = 8;

const VLAN_ID_MASK: u32 = 0xfff;
const ETHERTYPE_ARP: u16 = 0x0806_u16.to_be();

/// The number of the VLAN whose tag the frame has, which the kernel keeps beside it; 0: the tag is for the priority only.
#[inline(always)]
pub(crate) fn vlan(ctx: &TcContext) -> Option<u32> {
    // SAFETY: the context is the kernel's; every classifier may read both fields.
    unsafe { ((*ctx.skb.skb).vlan_present != 0).then(|| (*ctx.skb.skb).vlan_tci & VLAN_ID_MASK) }
}

/// Whether the frame is of the address resolution protocol.
#[inline(always)]
pub(crate) fn is_arp(ctx: &TcContext) -> bool {
    ctx.load::<u16>(12).is_ok_and(|kind| kind == ETHERTYPE_ARP)
}

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

    /// The linear part of an skb.
    #[inline(always)]
    pub(crate) fn of(ctx: &TcContext) -> Self {
        Frame { start: ctx.data(), end: ctx.data_end() }
    }

    /// Compares the bounds, as the verifier asks before each access.
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
        // SAFETY: as in `load`; there is no reference into the frame.
        unsafe { *((self.start + offset) as *mut T) = value }
    }

    /// Stores the address in two words of eight bytes.
    #[inline(always)]
    fn store_pairs(&self, offset: usize, addr: &Addr) {
        let words: *const u64 = (&raw const *addr).cast();
        // SAFETY: an address is two such words; as to alignment, see `load`. One after the other, or it were a call of memmove.
        let (first, second) = unsafe { (*words, *words.add(1)) };
        self.store(offset, first);
        self.store(offset + 8, second);
    }

    /// IPv4 or IPv6; `None`: neither.
    #[inline(always)]
    pub(crate) fn is_v4(&self) -> Option<bool> {
        self.reaches(ETHERNET)?;
        match self.load::<u16>(12) {
            ETHERTYPE_IPV4 => Some(true),
            ETHERTYPE_IPV6 => Some(false),
            _ => None,
        }
    }

    /// The destination MAC. Call after [`Frame::packet`].
    #[inline(always)]
    pub(crate) fn destination_mac(&self) -> [u16; 3] {
        self.load(0)
    }

    /// Bytes of the IP packet by its header. Call after [`Frame::packet`].
    #[inline(always)]
    pub(crate) fn ip_len<const IS_V4: bool>(&self) -> u16 {
        let len = u16::from_be(self.load(ETHERNET + header(IS_V4).len));
        if IS_V4 { len } else { len.wrapping_add(V6.size as u16) }
    }

    /// Reads a plain frame's headers into `packet`, except the flow's key. False: the frame is not plain, and `packet` is
    /// undefined.
    #[inline(always)]
    pub(crate) fn read<const IS_V4: bool>(&self, packet: &mut Packet) -> bool {
        self.headers::<IS_V4>(packet).is_some()
    }

    #[inline(always)]
    fn headers<const IS_V4: bool>(&self, packet: &mut Packet) -> Option<()> {
        let (header, at) = (header(IS_V4), transport_at(IS_V4));
        self.reaches(at + UDP_SIZE)?;
        let version: u8 = self.load(ETHERNET);
        let plain = match IS_V4 {
            // Without options; neither "more fragments" nor an offset.
            true => version == 0x45 && self.load::<u16>(V4_FRAGMENT) & 0x3fff_u16.to_be() == 0,
            // An IPv4 address in its mapped form is on no wire (RFC 4038, 4.2). The parser looks at all of the address.
            false => {
                version >> 4 == 6
                    && self.load::<u32>(ETHERNET + 16) != Addr::V4_MARK
                    && self.load::<u32>(ETHERNET + 32) != Addr::V4_MARK
            }
        };
        if !plain {
            return None;
        }
        packet.proto = Proto(self.load(ETHERNET + header.proto));
        packet.tcp_flags = match packet.proto {
            Proto::TCP => {
                self.reaches(at + TCP_SIZE)?;
                self.load(at + 13)
            }
            Proto::UDP => signal::DATAGRAM,
            _ => return None,
        };
        self.end::<IS_V4>(header.source, at, &mut packet.source);
        self.end::<IS_V4>(header.destination, at + 2, &mut packet.destination);
        packet.v4 = IS_V4 as u8;
        packet.transport = 1;
        (packet.plain, packet.fragment, packet.error) = (1, 0, 0);
        packet.l4 = at;
        Some(())
    }

    /// The packet, if it is plain, may be forwarded once more, and its transport checksum is complete.
    #[inline(always)]
    pub(crate) fn packet<const IS_V4: bool>(&self) -> Option<&'static mut Packet> {
        let (header, at) = (header(IS_V4), transport_at(IS_V4));
        let packet = scratch()?;
        self.headers::<IS_V4>(packet)?;
        let len = self.ip_len::<IS_V4>().checked_sub(header.size as u16)?;
        let (check, min_len) = if packet.proto == Proto::TCP {
            // Compared again: the verifier lost it where the paths of both protocols joined.
            self.reaches(at + TCP_SIZE)?;
            (self.load::<u16>(at + 16), (self.load::<u8>(at + 12) >> 4) as u16 * 4)
        } else {
            let check: u16 = self.load(at + 6);
            // Over IPv6, UDP without a checksum is for tunnels only (RFC 8200, 8.1).
            if u16::from_be(self.load(at + 4)) != len || (!IS_V4 && check == 0) {
                return None;
            }
            (check, UDP_SIZE as u16)
        };
        if self.load::<u8>(ETHERNET + header.ttl) < 2 || len < min_len || check == pseudo_header(packet, len)
        {
            return None;
        }
        packet.locate_in::<IS_V4>();
        Some(packet)
    }

    #[inline(always)]
    fn end<const IS_V4: bool>(&self, addr_at: usize, port_at: usize, end: &mut SocketAddr) {
        (end.port, end.reserved) = (Be16(self.load(port_at)), 0);
        if IS_V4 {
            end.addr = Addr::from_v4_word(self.load(ETHERNET + addr_at));
            return;
        }
        for i in 0..4 {
            let word: u32 = self.load(ETHERNET + addr_at + i * 4);
            // SAFETY: writes through a valid reference; volatile only keeps the compiler from loading all words first,
            // which would need the stack.
            unsafe { core::ptr::write_volatile(&raw mut end.addr.0[i], word) };
        }
    }

    /// Sets ends and MACs as the flow says, and decrements the hop limit. Call after [`Frame::packet`].
    #[inline(always)]
    pub(crate) fn rewrite<const IS_V4: bool>(&self, packet: &Packet, flow: &Flow) -> Option<()> {
        let (header, at) = (header(IS_V4), transport_at(IS_V4));
        let Differences { addresses, ends } = Differences::of_word(flow.extra);
        if packet.proto == Proto::TCP {
            self.reaches(at + TCP_SIZE)?;
            self.store(at + 16, updated(self.load(at + 16), ends as u64));
        } else {
            let check: u16 = self.load(at + 6);
            // 0 means no checksum: it stays, and no computed checksum becomes 0.
            if check != 0 {
                let new = updated(check, ends as u64);
                self.store(at + 6, if new == 0 { u16::MAX } else { new });
            }
        }
        self.store(at, flow.source.port.0);
        self.store(at + 2, flow.destination.port.0);
        let ttl: u8 = self.load(ETHERNET + header.ttl);
        self.store(ETHERNET + header.ttl, ttl - 1);
        if IS_V4 {
            // The TTL is the first byte of its 16-bit word.
            let check = updated(self.load(V4_CHECK), addresses as u64 + !0x0100_u16.to_be() as u64);
            self.store(V4_CHECK, check);
            self.store(ETHERNET + header.source, flow.source.addr.v4_word());
            self.store(ETHERNET + header.destination, flow.destination.addr.v4_word());
        } else {
            self.store_pairs(ETHERNET + header.source, &flow.source.addr);
            self.store_pairs(ETHERNET + header.destination, &flow.destination.addr);
        }
        let hop: *const u64 = flow.hop.as_ptr().cast();
        // SAFETY: the MACs are twelve bytes; otherwise as in `store_pairs`.
        let (first, second) = unsafe { (*hop, *hop.add(1).cast::<u32>()) };
        self.store(0, first);
        self.store(8, second);
        Some(())
    }
}
