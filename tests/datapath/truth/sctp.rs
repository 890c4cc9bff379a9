//! SCTP of the kernel where it has it. Elsewhere its packets are made by hand on raw sockets, with their checksum, which is
//! looked at on both ends.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_error};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto};

use crate::packets::frame::crc32c;

const BACKLOG: i32 = 128;
/// How often a client that waits looks for what ICMP said.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

pub(super) fn is_the_kernels() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| socket(true, SocketType::STREAM).is_ok())
}

/// A one-to-one association (RFC 6458, 4), which is used as a TCP connection is.
pub(super) fn connect(to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let socket = socket(to.is_ipv4(), SocketType::STREAM)?;
    ioctl_fionbio(&socket, true)?;
    match rustix::net::connect(&socket, &to) {
        Err(Errno::INPROGRESS) | Ok(()) => {}
        Err(error) => return Err(error.into()),
    }
    let deadline = Instant::now() + timeout;
    loop {
        let mut waiting = [PollFd::new(&socket, PollFlags::OUT)];
        poll(&mut waiting, Some(&TICK))?;
        let events = waiting[0].revents();
        // An unreachable error ends no association, but must be read.
        socket_error(&socket)??;
        if events.contains(PollFlags::OUT) {
            break;
        }
        if Instant::now() > deadline {
            return Err(ErrorKind::TimedOut.into());
        }
    }
    ioctl_fionbio(&socket, false)?;
    Ok(TcpStream::from(socket))
}

pub(super) fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(at.is_ipv4(), SocketType::STREAM)?;
    rustix::net::bind(&socket, &at)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// Asks once with a packet of its own.
pub(super) fn ask_by_hand(to: SocketAddr, timeout: Duration) -> io::Result<String> {
    static PORT: AtomicU16 = AtomicU16::new(20_000);
    let port = PORT.fetch_add(1, Ordering::Relaxed);
    let socket = raw(to.is_ipv4(), timeout)?;
    rustix::net::connect(&socket, &SocketAddr::new(to.ip(), 0))?;
    rustix::net::send(&socket, &message(port, to.port(), b"?"), SendFlags::empty())?;
    let deadline = Instant::now() + timeout;
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

/// Answers every packet to the address, for as long as the process lives, with what `answer` says to its sender.
pub(super) fn answer_by_hand(
    at: SocketAddr,
    answer: impl Fn(IpAddr) -> String + Send + 'static,
) -> Result<()> {
    let socket = raw(at.is_ipv4(), Duration::ZERO)?;
    rustix::net::bind(&socket, &SocketAddr::new(at.ip(), 0))?;
    std::thread::spawn(move || while answer_one(&socket, at, &answer).is_ok() {});
    Ok(())
}

fn answer_one(socket: &OwnedFd, at: SocketAddr, answer: impl Fn(IpAddr) -> String) -> Result<()> {
    let mut buffer = [0; 256];
    let (_, length, from) = rustix::net::recvfrom(socket, &mut buffer[..], RecvFlags::empty())?;
    let from = SocketAddr::try_from(from.context("no sender")?)?.ip();
    let Some(question) = Message::parse(&buffer[..length], at.is_ipv4()) else { return Ok(()) };
    if question.to == at.port() {
        let packet = message(at.port(), question.from, answer(from).as_bytes());
        let _ = rustix::net::sendto(socket, &packet, SendFlags::empty(), &SocketAddr::new(from, 0));
    }
    Ok(())
}

/// A socket for SCTP's packets; a zero timeout waits for ever.
fn raw(v4: bool, timeout: Duration) -> io::Result<OwnedFd> {
    let socket = socket(v4, SocketType::RAW)?;
    set_socket_timeout(&socket, Timeout::Recv, (!timeout.is_zero()).then_some(timeout))?;
    Ok(socket)
}

fn socket(v4: bool, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if v4 { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(rustix::net::socket(family, kind, Some(ipproto::SCTP))?)
}

struct Message<'a> {
    from: u16,
    to: u16,
    data: &'a [u8],
}

/// Common header, and the data as one chunk of an unknown type.
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
