//! Addresses, ports and protocols. The type says the byte order.

/// An IPv6 address, or an IPv4 address in its mapped form `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).
///
/// The words hold the bytes in network order, as a packet does, so that equality is four word compares.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Addr(pub [u32; 4]);

impl Addr {
    /// `::`, which stands for no address.
    pub const UNSPECIFIED: Addr = Addr([0; 4]);
    /// Bits before the address proper in an IPv4-mapped prefix: `10.0.0.0/8` is `::ffff:10.0.0.0/104`.
    pub const V4_PREFIX_BITS: u32 = 96;
    /// The third word of an IPv4 address in its mapped form.
    pub const V4_MARK: u32 = 0x0000_ffff_u32.to_be();

    /// `word` holds the four bytes in network order, as read from an IPv4 header.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Addr([0, 0, Self::V4_MARK, word])
    }

    /// Whether it is an IPv4 address in its mapped form.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == Self::V4_MARK
    }

    /// The IPv4 address in network order; meaningful if [`Addr::is_v4`].
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        self.0[3]
    }

    /// `127.0.0.1`, for which all of 127.0.0.0/8 stands here.
    pub const LOOPBACK_V4: Addr = Addr([0, 0, Self::V4_MARK, 0x7f00_0001_u32.to_be()]);
    /// `::1`.
    pub const LOOPBACK_V6: Addr = Addr([0, 0, 0, 1_u32.to_be()]);

    /// The loopback address of the family, if this is a loopback address (RFC 1122, 3.2.1.3; RFC 4291, 2.5.3).
    #[inline(always)]
    pub const fn loopback(&self) -> Option<Addr> {
        if self.is_v4() {
            let is_loopback = self.0[3] & 0xff00_0000_u32.to_be() == 0x7f00_0000_u32.to_be();
            return if is_loopback { Some(Self::LOOPBACK_V4) } else { None };
        }
        let [a, b, c, d] = self.0;
        if a | b | c == 0 && d == 1_u32.to_be() { Some(Self::LOOPBACK_V6) } else { None }
    }

    /// From the 16 bytes in network order.
    pub const fn from_octets(b: [u8; 16]) -> Self {
        Addr([
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        ])
    }

    /// The 16 bytes in network order.
    pub const fn octets(&self) -> [u8; 16] {
        let [a, b, c, d] = [
            self.0[0].to_ne_bytes(),
            self.0[1].to_ne_bytes(),
            self.0[2].to_ne_bytes(),
            self.0[3].to_ne_bytes(),
        ];
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
    }
}

impl From<core::net::IpAddr> for Addr {
    fn from(ip: core::net::IpAddr) -> Self {
        match ip {
            core::net::IpAddr::V4(v4) => Addr::from_v4_word(u32::from_ne_bytes(v4.octets())),
            core::net::IpAddr::V6(v6) => Addr::from_octets(v6.octets()),
        }
    }
}

impl From<Addr> for core::net::IpAddr {
    fn from(addr: Addr) -> Self {
        core::net::Ipv6Addr::from(addr.octets()).to_canonical()
    }
}

/// An address and a port. ICMP echo has its identifier as the port; a protocol without ports has 0.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SocketAddr {
    /// The IP address.
    pub addr: Addr,
    /// The port in network order.
    pub port: Be16,
    /// Always 0.
    pub reserved: u16,
}

impl SocketAddr {
    /// An address and a port.
    #[inline(always)]
    pub const fn new(addr: Addr, port: Be16) -> Self {
        SocketAddr { addr, port, reserved: 0 }
    }
}

/// A 16-bit number in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Be16(pub u16);

impl Be16 {
    /// From a number in host order.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Be16(host.to_be())
    }

    /// The number in host order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl PartialOrd for Be16 {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Be16 {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.get().cmp(&other.get())
    }
}

/// An IP protocol number (IANA).
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Proto(pub u8);

impl Proto {
    /// RFC 792.
    pub const ICMP: Proto = Proto(1);
    /// RFC 9293.
    pub const TCP: Proto = Proto(6);
    /// RFC 768.
    pub const UDP: Proto = Proto(17);
    /// RFC 4443.
    pub const ICMPV6: Proto = Proto(58);
    /// RFC 9260.
    pub const SCTP: Proto = Proto(132);
    /// RFC 4340.
    pub const DCCP: Proto = Proto(33);
    /// RFC 3828.
    pub const UDP_LITE: Proto = Proto(136);
}

crate::layout::plain!(Addr: 16, SocketAddr: 20, Be16: 2, Proto: 1);
