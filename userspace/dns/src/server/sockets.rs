//! The sockets of the server: a UDP socket and a TCP listener at each address.
//!
//! They are bound with SO_REUSEPORT: the sockets of the next agent are bound before those of this one close. IP_FREEBIND lets
//! them be bound before the address is on a link.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::sockopt;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};

/// Bytes of questions that wait in a socket: those of an agent's restart.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
const BACKLOG: i32 = 1024;

/// Bound sockets.
#[derive(Debug, Default)]
pub struct Sockets {
    pub(super) udp: Vec<UdpSocket>,
    pub(super) tcp: Vec<TcpListener>,
}

/// Why an address cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("bind {protocol} at {addr}: {source}")]
pub struct BindError {
    protocol: &'static str,
    addr: SocketAddr,
    source: io::Error,
}

/// The same sockets as tokio uses them.
pub(super) struct TokioSockets {
    pub(super) udp: Vec<tokio::net::UdpSocket>,
    pub(super) tcp: Vec<tokio::net::TcpListener>,
}

impl Sockets {
    /// Binds new sockets.
    pub fn bind(addrs: impl IntoIterator<Item = SocketAddr>) -> Result<Self, BindError> {
        let mut sockets = Sockets::default();
        for addr in addrs {
            let error = |protocol| move |source| BindError { protocol, addr, source };
            sockets.udp.push(bind(addr, SocketType::DGRAM).map_err(error("UDP"))?.into());
            sockets.tcp.push(bind(addr, SocketType::STREAM).map_err(error("TCP"))?.into());
        }
        Ok(sockets)
    }

    /// Sockets of an earlier agent. Other descriptors are closed.
    pub fn adopt(descriptors: impl IntoIterator<Item = OwnedFd>) -> Self {
        let mut sockets = Sockets::default();
        for descriptor in descriptors {
            match sockopt::socket_type(&descriptor) {
                Ok(SocketType::DGRAM) => sockets.udp.push(descriptor.into()),
                Ok(SocketType::STREAM) => sockets.tcp.push(descriptor.into()),
                _ => {}
            }
        }
        sockets
    }

    /// Takes the sockets at the address out.
    pub fn take(&mut self, ip: IpAddr) -> Sockets {
        let is_there = |addr: io::Result<SocketAddr>| addr.is_ok_and(|addr| addr.ip() == ip);
        Sockets {
            udp: self.udp.extract_if(.., |socket| is_there(socket.local_addr())).collect(),
            tcp: self.tcp.extract_if(.., |listener| is_there(listener.local_addr())).collect(),
        }
    }

    pub fn addrs(&self) -> BTreeSet<IpAddr> {
        let udp = self.udp.iter().map(UdpSocket::local_addr);
        let all = udp.chain(self.tcp.iter().map(TcpListener::local_addr));
        all.flatten().map(|addr| addr.ip()).collect()
    }

    /// Whether there are sockets of both protocols.
    pub fn is_complete(&self) -> bool {
        !self.udp.is_empty() && !self.tcp.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.udp.is_empty() && self.tcp.is_empty()
    }

    pub fn append(&mut self, mut other: Sockets) {
        self.udp.append(&mut other.udp);
        self.tcp.append(&mut other.tcp);
    }

    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.udp.iter().map(AsFd::as_fd).chain(self.tcp.iter().map(AsFd::as_fd)).collect()
    }

    pub(super) fn into_tokio(self) -> io::Result<TokioSockets> {
        Ok(TokioSockets {
            udp: self.udp.into_iter().map(tokio::net::UdpSocket::from_std).collect::<io::Result<_>>()?,
            tcp: self.tcp.into_iter().map(tokio::net::TcpListener::from_std).collect::<io::Result<_>>()?,
        })
    }
}

fn bind(addr: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(family, kind, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    match addr {
        SocketAddr::V4(_) => sockopt::set_ip_freebind(&socket, true)?,
        SocketAddr::V6(_) => {
            sockopt::set_ipv6_v6only(&socket, true)?;
            sockopt::set_ipv6_freebind(&socket, true)?;
        }
    }
    if kind == SocketType::DGRAM {
        // Beyond the system's bound (net.core.rmem_max) only with CAP_NET_ADMIN.
        if sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES)?;
        }
    }
    net::bind(&socket, &addr)?;
    if kind == SocketType::STREAM {
        net::listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}
