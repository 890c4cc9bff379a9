//! Frames to send and frames to look at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, NetHeaders, PacketHeaders, TcpHeader,
    TransportHeader, UdpHeader,
};

use super::uplink::{NODE_MAC, ROUTER_MAC};

/// The node port of the plain service.
pub(crate) const PORT: u16 = 30_080;
/// Where the IP header begins.
pub(crate) const L3: usize = 14;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const ALL: [Family; 2] = [Family::V4, Family::V6];

    pub(crate) fn node(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::new(10, 78, 0, 1).into(),
            Family::V6 => Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 1).into(),
        }
    }

    pub(crate) fn client(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::new(192, 0, 2, 33).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x33).into(),
        }
    }

    /// Of the plain service, on another node.
    pub(crate) fn backend(self) -> SocketAddr {
        match self {
            Family::V4 => (Ipv4Addr::new(10, 77, 2, 2), 8080).into(),
            Family::V6 => (Ipv6Addr::new(0xfd77, 2, 0, 0, 0, 0, 0, 2), 8080).into(),
        }
    }

    pub(crate) fn header(self) -> usize {
        match self {
            Family::V4 => 20,
            Family::V6 => 40,
        }
    }

    /// Offset of the time to live.
    pub(crate) fn ttl(self) -> usize {
        match self {
            Family::V4 => L3 + 8,
            Family::V6 => L3 + 7,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    pub(crate) const ALL: [Transport; 2] = [Transport::Tcp, Transport::Udp];

    pub(crate) fn header(self) -> usize {
        match self {
            Transport::Tcp => 20,
            Transport::Udp => 8,
        }
    }

    fn number(self) -> IpNumber {
        match self {
            Transport::Tcp => IpNumber::TCP,
            Transport::Udp => IpNumber::UDP,
        }
    }
}

/// A frame in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wire {
    pub(crate) family: Family,
    pub(crate) transport: Transport,
    pub(crate) macs: [[u8; 6]; 2],
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) ttl: u8,
    pub(crate) syn: bool,
    pub(crate) fin: bool,
    pub(crate) payload: Vec<u8>,
}

impl Wire {
    /// From the client to the plain service, with a client's port that no other frame of the test has.
    pub(crate) fn new(family: Family, transport: Transport, client_port: u16) -> Wire {
        Wire {
            family,
            transport,
            macs: [NODE_MAC, ROUTER_MAC],
            source: SocketAddr::new(family.client(), client_port),
            destination: SocketAddr::new(family.node(), PORT),
            ttl: 64,
            syn: transport == Transport::Tcp,
            fin: false,
            payload: b"some bytes".to_vec(),
        }
    }

    /// The frame that answers this one.
    pub(crate) fn answer(&self) -> Wire {
        let [to, from] = self.macs;
        Wire {
            macs: [from, to],
            source: self.destination,
            destination: self.source,
            syn: false,
            ttl: 61,
            payload: b"an answer".to_vec(),
            ..self.clone()
        }
    }

    pub(crate) fn bytes(&self) -> Result<Vec<u8>> {
        let [to, from] = self.macs;
        let ethertype: [u8; 2] = if self.family == Family::V4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        let mut frame = [&to[..], &from[..], &ethertype[..]].concat();
        let length = (self.transport.header() + self.payload.len()) as u16;
        let (sport, dport) = (self.source.port(), self.destination.port());
        let mut tcp = TcpHeader::new(sport, dport, 7, 1024);
        (tcp.syn, tcp.fin, tcp.ack) = (self.syn, self.fin, !self.syn);
        let mut udp = UdpHeader { source_port: sport, destination_port: dport, length, checksum: 0 };
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let number = self.transport.number();
                let mut ip = Ipv4Header::new(length, self.ttl, number, from.octets(), to.octets())?;
                ip.identification = 0x1234;
                ip.dont_fragment = true;
                ip.fragment_offset = IpFragOffset::ZERO;
                ip.header_checksum = ip.calc_header_checksum();
                ip.write(&mut frame)?;
                tcp.checksum = tcp.calc_checksum_ipv4(&ip, &self.payload)?;
                udp.checksum = udp.calc_checksum_ipv4(&ip, &self.payload)?;
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let ip = Ipv6Header {
                    traffic_class: 0x20,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: length,
                    next_header: self.transport.number(),
                    hop_limit: self.ttl,
                    source: from.octets(),
                    destination: to.octets(),
                };
                ip.write(&mut frame)?;
                tcp.checksum = tcp.calc_checksum_ipv6(&ip, &self.payload)?;
                udp.checksum = udp.calc_checksum_ipv6(&ip, &self.payload)?;
            }
            _ => bail!("two families in one packet"),
        }
        match self.transport {
            Transport::Tcp => tcp.write(&mut frame)?,
            Transport::Udp => udp.write(&mut frame)?,
        }
        frame.extend_from_slice(&self.payload);
        Ok(frame)
    }

    /// Reads a frame, each checksum of which must equal a freshly computed one.
    pub(crate) fn read(frame: &[u8]) -> Result<Wire> {
        let headers = PacketHeaders::from_ethernet_slice(frame).context("parse the frame")?;
        let ethernet = headers.link.and_then(|link| link.ethernet2()).context("no Ethernet header")?;
        let payload = headers.payload.slice();
        let transport = headers.transport.context("no transport header")?;
        let mut again = transport.clone();
        let (from, to, ttl): (IpAddr, IpAddr, u8) = match headers.net.context("no IP header")? {
            NetHeaders::Ipv4(ip, _) => {
                ensure!(ip.header_checksum == ip.calc_header_checksum(), "checksum of the IP header");
                again.update_checksum_ipv4(&ip, payload)?;
                (ip.source.into(), ip.destination.into(), ip.time_to_live)
            }
            NetHeaders::Ipv6(ip, _) => {
                again.update_checksum_ipv6(&ip, payload)?;
                (ip.source.into(), ip.destination.into(), ip.hop_limit)
            }
            NetHeaders::Arp(_) => bail!("ARP"),
        };
        ensure!(transport == again, "checksum: {transport:?}, recomputed {again:?}");
        let (kind, sport, dport, syn, fin) = match transport {
            TransportHeader::Tcp(tcp) => {
                (Transport::Tcp, tcp.source_port, tcp.destination_port, tcp.syn, tcp.fin)
            }
            TransportHeader::Udp(udp) => {
                (Transport::Udp, udp.source_port, udp.destination_port, false, false)
            }
            other => bail!("transport {other:?}"),
        };
        Ok(Wire {
            family: if from.is_ipv4() { Family::V4 } else { Family::V6 },
            transport: kind,
            macs: [ethernet.destination, ethernet.source],
            source: SocketAddr::new(from, sport),
            destination: SocketAddr::new(to, dport),
            ttl,
            syn,
            fin,
            payload: payload.to_vec(),
        })
    }
}
