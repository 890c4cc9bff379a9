//! A packet as the programs decide on it, and the headers that it is read from.
//!
//! In: nothing; [`crate::parse`] and [`crate::frame`] fill it in. Out: the value that all steps work on.

use aya_ebpf::programs::TcContext;
use skep_abi::{Addr, FlowKey, Proto, SocketAddr};

/// Bytes of an Ethernet header without tags.
pub(crate) const ETHERNET: usize = 14;
/// Offset of the IP header.
pub(crate) const L3: usize = ETHERNET;
/// Bytes of an IPv4 header without options.
pub(crate) const IPV4: usize = 20;
/// Bytes of an IPv6 header without extension headers.
pub(crate) const IPV6: usize = 40;
/// EtherTypes as the header has them.
pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();

/// A packet's ends, its flow's key, and where its headers are. It lies in a per-CPU map, see [`crate::maps::scratch`].
pub(crate) struct Packet {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) proto: Proto,
    /// TCP flags, or what stands for them in another protocol: [`skep_abi::logic::signal`].
    pub(crate) tcp_flags: u8,
    /// The ICMP type, of ICMP only.
    pub(crate) kind: u8,
    /// 1: TCP or UDP behind an IP header without options or extension headers, and no fragment; see [`crate::frame`].
    pub(crate) plain: u8,
    /// 1: IPv4, 0: IPv6.
    pub(crate) v4: u8,
    /// 1: this packet has the transport header; 0: it is a later fragment.
    pub(crate) transport: u8,
    /// 1: a fragment, the first or a later one.
    pub(crate) fragment: u8,
    /// 1: an ICMP error; the ends are those of an answer to the packet that it quotes. See [`crate::icmp`].
    pub(crate) error: u8,
    /// 1: the packet comes from the high end of `key`.
    pub(crate) high: u8,
    /// The generation of policy under which this packet is decided on: read once, since a change may come meanwhile.
    pub(crate) generation: u32,
    /// For the flow log: the rule that decided ([`skep_abi::Verdict::rule`]), and the service
    /// ([`skep_abi::ServiceValue::service`]); 0: none.
    pub(crate) rule: u32,
    pub(crate) service: u32,
    /// Of a fragment only: its identification.
    pub(crate) fragment_id: u32,
    /// Offset of the transport header.
    pub(crate) l4: usize,
    /// Slots of the Maglev table that [`crate::maglev`] looks at.
    pub(crate) table: u32,
    /// Of an ICMP error only: its own addresses, and the offsets of the quoted headers.
    pub(crate) outer_source: Addr,
    pub(crate) outer_destination: Addr,
    pub(crate) quoted_l3: usize,
    pub(crate) quoted_l4: usize,
    /// Key of the packet's flow; [`Packet::locate`] makes it follow the ends.
    pub(crate) key: FlowKey,
}

impl Packet {
    #[inline(always)]
    pub(crate) fn is_v4(&self) -> bool {
        self.v4 != 0
    }

    #[inline(always)]
    pub(crate) fn has_transport(&self) -> bool {
        self.transport != 0
    }

    #[inline(always)]
    pub(crate) fn is_fragment(&self) -> bool {
        self.fragment != 0
    }

    #[inline(always)]
    pub(crate) fn is_plain(&self) -> bool {
        self.plain != 0
    }

    #[inline(always)]
    pub(crate) fn is_icmp(&self) -> bool {
        self.proto == Proto::ICMP || self.proto == Proto::ICMPV6
    }

    /// Whether the transport header has ports, or an identifier in their place.
    #[inline(always)]
    pub(crate) fn has_ports(&self) -> bool {
        match self.proto {
            Proto::TCP | Proto::UDP | Proto::SCTP | Proto::UDP_LITE | Proto::DCCP => true,
            Proto::ICMP | Proto::ICMPV6 => is_query(self.proto, self.kind),
            _ => false,
        }
    }

    /// Whether it is one of several segments together that IPv6 has no length for (RFC 2675).
    #[inline(always)]
    pub(crate) fn is_jumbo(&self, ctx: &TcContext) -> bool {
        !self.is_v4() && ctx.len() > (L3 + IPV6) as u32 + u16::MAX as u32
    }

    #[inline(always)]
    pub(crate) fn is_error(&self) -> bool {
        self.error != 0
    }

    /// The source address of the packet's own IP header.
    #[inline(always)]
    pub(crate) fn sender_addr(&self) -> &Addr {
        if self.is_error() { &self.outer_source } else { &self.source.addr }
    }

    #[inline(always)]
    pub(crate) fn from_high(&self) -> bool {
        self.high != 0
    }

    /// Bytes of the transport part by the length in the IP header; `None` if the packet has fewer.
    #[inline(always)]
    pub(crate) fn transport_len(&self, ctx: &TcContext) -> Option<u32> {
        let (len_at, len_from) = if self.is_v4() { (L3 + 2, L3) } else { (L3 + 4, L3 + IPV6) };
        let len: u16 = ctx.load(len_at).ok()?;
        let end = len_from as u32 + u16::from_be(len) as u32;
        if end > ctx.len() { None } else { end.checked_sub(self.l4 as u32) }
    }

    /// As [`Packet::locate`], where the family is known at compile time.
    #[inline(always)]
    pub(crate) fn locate_in<const IS_V4: bool>(&mut self) {
        if IS_V4 {
            self.high = self.key.locate_v4(&self.source, &self.destination, self.proto) as u8;
        } else {
            self.locate();
        }
    }

    /// Makes the key that of the present ends.
    #[inline(always)]
    pub(crate) fn locate(&mut self) {
        self.high = self.key.locate(&self.source, &self.destination, self.proto) as u8;
    }
}

/// An IPv4 header without options (RFC 791, 3.1).
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Ipv4 {
    pub(crate) version_ihl: u8,
    tos: u8,
    len: u16,
    pub(crate) id: u16,
    pub(crate) fragment: u16,
    ttl: u8,
    pub(crate) proto: u8,
    check: u16,
    pub(crate) source: u32,
    pub(crate) destination: u32,
}

/// An IPv6 header (RFC 8200, 3).
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Ipv6 {
    pub(crate) version_class_flow: u32,
    len: u16,
    pub(crate) next: u8,
    hops: u8,
    pub(crate) source: [u32; 4],
    pub(crate) destination: [u32; 4],
}

/// Whether an ICMP message of type `kind` is a query or its answer (RFC 5508, 3.1): those have an identifier.
#[inline(always)]
pub(crate) fn is_query(proto: Proto, kind: u8) -> bool {
    match proto {
        // Echo; timestamp, information and address mask.
        Proto::ICMP => kind == 8 || kind == 0 || matches!(kind, 13..=18),
        _ => kind == 128 || kind == 129,
    }
}

/// Whether a query is a request.
#[inline(always)]
pub(crate) fn is_request(proto: Proto, kind: u8) -> bool {
    match proto {
        Proto::ICMP => matches!(kind, 8 | 13 | 15 | 17),
        _ => kind == 128,
    }
}

/// Whether an ICMP message of type `kind` is a router's: an advertisement or a redirect.
#[inline(always)]
pub(crate) fn is_of_router(proto: Proto, kind: u8) -> bool {
    match proto {
        Proto::ICMP => kind == 5 || kind == 9,
        _ => kind == 134 || kind == 137,
    }
}

/// Whether an ICMP message of type `kind` is an error. Redirects are for the sender's own routes and count as none.
#[inline(always)]
pub(crate) fn is_icmp_error(proto: Proto, kind: u8) -> bool {
    match proto {
        Proto::ICMP => matches!(kind, 3 | 4 | 11 | 12),
        _ => matches!(kind, 1..=4),
    }
}
