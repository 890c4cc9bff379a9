//! Packets as values: a [`Frame`] to bytes with right checksums, and bytes back to a [`Frame`].
//!
//! What a program made of a packet is compared as bytes with what it should be, so a wrong checksum shows.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// What stands behind the IP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Tcp {
        flags: u8,
        sequence: u32,
        acknowledged: u32,
        window: u16,
        data: Vec<u8>,
    },
    Udp(Vec<u8>),
    UdpLite(Vec<u8>),
    /// Of a protocol without ports.
    Raw {
        proto: u8,
        message: Vec<u8>,
    },
    /// An INIT chunk or whatever else.
    Sctp(Vec<u8>),
    /// Echo request or answer; the identifier is the source's port.
    Echo {
        answer: bool,
    },
    /// An ICMP message of any kind: type, code, the four bytes behind the checksum, the rest. Ports do not matter.
    Icmp {
        kind: u8,
        code: u8,
        word: [u8; 4],
        rest: Vec<u8>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) body: Body,
    pub(crate) hops: u8,
    /// Ethernet's destination and source.
    pub(crate) stations: [[u8; 6]; 2],
}

impl Frame {
    pub(crate) fn new(source: SocketAddr, destination: SocketAddr, body: Body) -> Frame {
        Frame { source, destination, body, hops: 64, stations: [[2; 6], [4; 6]] }
    }

    pub(crate) fn from(&self, source: SocketAddr) -> Frame {
        Frame { source, ..self.clone() }
    }

    pub(crate) fn to(&self, destination: SocketAddr) -> Frame {
        Frame { destination, ..self.clone() }
    }

    /// The packet that answers this one: ends and stations swapped.
    pub(crate) fn answer(&self, body: Body) -> Frame {
        let stations = [self.stations[1], self.stations[0]];
        Frame { source: self.destination, destination: self.source, body, stations, hops: 64 }
    }

    pub(crate) fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.stations[0], self.stations[1]].concat();
        bytes.extend(if self.is_v4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        bytes.extend(self.packet());
        bytes
    }

    /// From the IP header on.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let (proto, message) = self.message();
        let ip = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), self.hops),
            (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), self.hops),
            _ => panic!("ends of two families: {self:?}"),
        };
        let mut packet = Vec::new();
        ip.write(&mut packet, proto.into(), &message).expect("a packet");
        packet
    }

    /// Protocol number and what stands behind the IP header, with its checksum.
    fn message(&self) -> (u8, Vec<u8>) {
        let ports = [self.source.port().to_be_bytes(), self.destination.port().to_be_bytes()].concat();
        let (proto, check_at, mut message) = match &self.body {
            Body::Tcp { flags, sequence, acknowledged, window, data } => {
                let numbers = [sequence.to_be_bytes(), acknowledged.to_be_bytes()].concat();
                let rest = [&[0x50, *flags][..], &window.to_be_bytes(), &[0; 4], data].concat();
                (6, 16, [ports, numbers, rest].concat())
            }
            Body::Udp(data) => {
                let length = (8 + data.len() as u16).to_be_bytes();
                (17, 6, [&ports, &length[..], &[0; 2], data].concat())
            }
            // A coverage of zero is all of the datagram (RFC 3828, 3.1).
            Body::UdpLite(data) => (136, 6, [&ports, &[0; 4][..], data].concat()),
            Body::Raw { proto, message } => return (*proto, message.clone()),
            Body::Sctp(chunks) => {
                // An INIT has no verification tag (RFC 9260, 8.5.1).
                let tag = if chunks.first() == Some(&1) { 0 } else { 7 };
                let mut message = [&ports, &[0, 0, 0, tag][..], &[0; 4], chunks].concat();
                let check = crc32c(&message).to_le_bytes();
                message[8..12].copy_from_slice(&check);
                return (132, message);
            }
            Body::Echo { answer } => {
                let kind = match (self.is_v4(), answer) {
                    (true, false) => 8,
                    (true, true) => 0,
                    (false, false) => 128,
                    (false, true) => 129,
                };
                let id = if *answer { self.destination.port() } else { self.source.port() };
                (self.icmp(), 2, [&[kind, 0, 0, 0][..], &id.to_be_bytes(), &[0, 1], b"echo"].concat())
            }
            Body::Icmp { kind, code, word, rest } => {
                (self.icmp(), 2, [&[*kind, *code, 0, 0][..], word, rest].concat())
            }
        };
        let pseudo = if proto == 1 { Vec::new() } else { self.pseudo(proto, message.len()) };
        let check = !sum(&[pseudo, message.clone()].concat());
        // A UDP checksum of zero means none (RFC 768).
        let check = if proto == 17 && check == 0 { 0xffff } else { check };
        message[check_at..check_at + 2].copy_from_slice(&check.to_be_bytes());
        (proto, message)
    }

    fn icmp(&self) -> u8 {
        if self.is_v4() { 1 } else { 58 }
    }

    fn pseudo(&self, proto: u8, length: usize) -> Vec<u8> {
        let addrs = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
            (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
            _ => panic!("ends of two families: {self:?}"),
        };
        [addrs, (length as u32).to_be_bytes().to_vec(), vec![0, 0, 0, proto]].concat()
    }

    /// The identifier of an echo without IP options.
    pub(crate) fn echo(bytes: &[u8]) -> Result<u16> {
        let at = if bytes.get(12..14) == Some(&[0x08, 0x00]) { 38 } else { 58 };
        let id = bytes.get(at..at + 2).context("no echo")?;
        Ok(u16::from_be_bytes([id[0], id[1]]))
    }

    /// The ports that a packet has behind its IP header, put into its ends.
    pub(crate) fn ends(bytes: &[u8]) -> Result<(SocketAddr, SocketAddr)> {
        let sliced = SlicedPacket::from_ethernet(bytes)?;
        let (from, to): (IpAddr, IpAddr) = match sliced.net.context("no IP")? {
            NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            _ => bail!("no IP"),
        };
        let l4 = match sliced.transport {
            Some(TransportSlice::Tcp(tcp)) => tcp.slice().to_vec(),
            Some(TransportSlice::Udp(udp)) => udp.slice().to_vec(),
            Some(_) => vec![0; 4],
            None => bytes.get(if from.is_ipv4() { 34 } else { 54 }..).context("no transport")?.to_vec(),
        };
        ensure!(l4.len() >= 4, "no ports");
        let port = |at: usize| u16::from_be_bytes([l4[at], l4[at + 1]]);
        Ok((SocketAddr::new(from, port(0)), SocketAddr::new(to, port(2))))
    }
}

/// The one's complement sum (RFC 1071).
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Bit by bit, as RFC 9260 (appendix A) defines it: no table to be wrong in.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}
