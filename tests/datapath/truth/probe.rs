//! Questions over TCP, UDP and SCTP, and endpoints that answer with who they are and whom they see.
//!
//! The kernel of the build machine has no SCTP: its packets are made by hand on raw sockets, with their checksum, which
//! is looked at on both ends.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto};
use skep_tests::netns::NetNs;

use super::rules::Endpoint;
use super::world::TARGET;
use crate::packets::frame::crc32c;

/// How long a server waits for the end of a connection that was answered.
const IDLE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proto {
    Tcp,
    Udp,
    Sctp,
}

impl Proto {
    pub(super) const ALL: [Proto; 3] = [Proto::Tcp, Proto::Udp, Proto::Sctp];
}

/// What came of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Answer(Endpoint, IpAddr),
    Refused,
    /// The system call says that nothing was sent.
    Forbidden,
    Nothing,
}

/// Asks once. `named`: a datagram's addressee is given with it, not by connecting.
pub(super) fn ask(proto: Proto, to: SocketAddr, patience: Duration, named: bool) -> Result<Heard> {
    let answer = match proto {
        Proto::Tcp => over_tcp(to, patience),
        Proto::Udp => over_udp(to, patience, named),
        Proto::Sctp => over_sctp(to, patience),
    };
    match answer {
        Ok(text) => heard(&text),
        // A packet that is dropped on the way out of its own node is so much as no room for it.
        Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => Ok(Heard::Forbidden),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => Ok(Heard::Refused),
            ErrorKind::PermissionDenied => Ok(Heard::Forbidden),
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Ok(Heard::Nothing),
            _ => Err(error).with_context(|| format!("ask {to}")),
        },
    }
}

fn heard(text: &str) -> Result<Heard> {
    let words: Vec<&str> = text.split(' ').collect();
    let [node, host, source] = words[..] else { bail!("an answer {text:?}") };
    Ok(Heard::Answer(Endpoint { node: node.parse()?, host: host.parse()? }, source.parse()?))
}

fn answer(endpoint: Endpoint, from: IpAddr) -> String {
    format!("{} {} {from}", endpoint.node, endpoint.host)
}

fn over_tcp(to: SocketAddr, patience: Duration) -> std::io::Result<String> {
    let stream = TcpStream::connect_timeout(&to, patience)?;
    if stream.peer_addr()? != to {
        return Err(std::io::Error::other("the peer has another name than was asked"));
    }
    stream.set_read_timeout(Some(patience))?;
    let mut text = String::new();
    BufReader::new(&stream).read_line(&mut text)?;
    Ok(text.trim_end().to_owned())
}

fn over_udp(to: SocketAddr, patience: Duration, named: bool) -> std::io::Result<String> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(patience))?;
    if named {
        socket.send_to(b"?", to)?;
    } else {
        socket.connect(to)?;
        socket.send(b"?")?;
    }
    let mut buffer = [0; 128];
    let (length, from) = socket.recv_from(&mut buffer)?;
    if from != to {
        return Err(std::io::Error::other(format!("{from} answered instead of {to}")));
    }
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn over_sctp(to: SocketAddr, patience: Duration) -> std::io::Result<String> {
    static PORT: AtomicU16 = AtomicU16::new(20_000);
    let port = PORT.fetch_add(1, Ordering::Relaxed);
    let socket = raw(to.is_ipv4(), patience)?;
    rustix::net::connect(&socket, &SocketAddr::new(to.ip(), 0))?;
    rustix::net::send(&socket, &message(port, to.port(), b"?"), SendFlags::empty())?;
    let deadline = Instant::now() + patience;
    let mut buffer = [0; 256];
    while Instant::now() < deadline {
        let (length, _) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let Some(message) = Message::parse(&buffer[..length], to.is_ipv4()) else { continue };
        if (message.from, message.to) == (to.port(), port) {
            return Ok(String::from_utf8_lossy(message.data).into_owned());
        }
    }
    Err(ErrorKind::TimedOut.into())
}

/// Answers in the namespace under the address for as long as the process lives.
pub(super) fn serve(netns: &NetNs, endpoint: Endpoint, addr: IpAddr) -> Result<()> {
    let at = SocketAddr::new(addr, TARGET);
    netns.run(|| -> Result<()> {
        let listener = TcpListener::bind(at)?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer_tcp(stream, endpoint));
            }
        });
        let socket = UdpSocket::bind(at)?;
        std::thread::spawn(move || {
            let mut buffer = [0; 16];
            // An error here is a client's that went away.
            loop {
                let Ok((_, from)) = socket.recv_from(&mut buffer) else { continue };
                let _ = socket.send_to(answer(endpoint, from.ip()).as_bytes(), from);
            }
        });
        let socket = raw(addr.is_ipv4(), Duration::ZERO)?;
        rustix::net::bind(&socket, &SocketAddr::new(addr, 0))?;
        std::thread::spawn(move || while answer_sctp(&socket, endpoint, addr).is_ok() {});
        Ok(())
    })?
}

/// The client ends the connection: else its port could not come back soon through another service.
fn answer_tcp(mut stream: TcpStream, endpoint: Endpoint) -> std::io::Result<()> {
    let text = answer(endpoint, stream.peer_addr()?.ip());
    stream.set_read_timeout(Some(IDLE))?;
    stream.write_all(text.as_bytes())?;
    stream.write_all(b"\n")?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}

fn answer_sctp(socket: &OwnedFd, endpoint: Endpoint, addr: IpAddr) -> Result<()> {
    let mut buffer = [0; 256];
    let (_, length, from) = rustix::net::recvfrom(socket, &mut buffer[..], RecvFlags::empty())?;
    let from = SocketAddr::try_from(from.context("no sender")?)?.ip();
    let Some(question) = Message::parse(&buffer[..length], addr.is_ipv4()) else { return Ok(()) };
    if question.to == TARGET {
        let text = answer(endpoint, from);
        let packet = message(TARGET, question.from, text.as_bytes());
        let _ = rustix::net::sendto(socket, &packet, SendFlags::empty(), &SocketAddr::new(from, 0));
    }
    Ok(())
}

/// A socket for SCTP's packets; no patience is endless patience.
fn raw(v4: bool, patience: Duration) -> std::io::Result<OwnedFd> {
    let family = if v4 { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::RAW, Some(ipproto::SCTP))?;
    set_socket_timeout(&socket, Timeout::Recv, (!patience.is_zero()).then_some(patience))?;
    Ok(socket)
}

struct Message<'a> {
    from: u16,
    to: u16,
    data: &'a [u8],
}

/// Common header, and the data as one chunk of a kind that nobody knows.
fn message(from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    let length = (4 + data.len() as u16).to_be_bytes();
    let mut message = [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 0, 0, 7], &[0; 4]].concat();
    message.extend([&[0x3f, 0][..], &length, data].concat());
    let check = crc32c(&message).to_le_bytes();
    message[8..12].copy_from_slice(&check);
    message
}

impl Message<'_> {
    /// `None`: too short, or its checksum is wrong. A raw IPv4 socket gives the IP header too.
    fn parse(packet: &[u8], v4: bool) -> Option<Message<'_>> {
        let header = if v4 { usize::from(*packet.first()? & 0x0f) * 4 } else { 0 };
        let message = packet.get(header..)?;
        let port = |at: usize| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?));
        let mut zeroed = message.to_vec();
        zeroed.get_mut(8..12)?.fill(0);
        let right = message.get(8..12)? == crc32c(&zeroed).to_le_bytes();
        let length = usize::from(port(14)?);
        let data = message.get(16..12 + length)?;
        right.then_some(Message { from: port(0)?, to: port(2)?, data })
    }
}
