//! Questions over TCP, UDP and SCTP, and endpoints that answer with who they are and whom they see.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use skep_tests::netns::NetNs;

use super::rules::Endpoint;
use super::sctp;
use super::world::TARGET;

/// How long a server waits for the next question on a connection, or its end.
const IDLE: Duration = Duration::from_secs(900);

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
pub(super) enum Reply {
    Answer(Endpoint, IpAddr),
    Refused,
    /// The system call says that nothing was sent.
    Forbidden,
    Nothing,
}

/// Asks once. `named`: a datagram's addressee is given with it, not by connecting.
pub(super) fn ask(proto: Proto, to: SocketAddr, timeout: Duration, named: bool) -> Result<Reply> {
    let answer = match proto {
        Proto::Tcp => connect(proto, to, timeout).and_then(|stream| over_stream(stream, to, timeout)),
        Proto::Udp => over_udp(to, timeout, named),
        Proto::Sctp => over_sctp(to, timeout),
    };
    match answer {
        Ok(text) => reply(&text),
        // A packet that is dropped on the way out of its own node is so much as no room for it.
        Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => Ok(Reply::Forbidden),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => Ok(Reply::Refused),
            ErrorKind::PermissionDenied => Ok(Reply::Forbidden),
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Ok(Reply::Nothing),
            _ => Err(error).with_context(|| format!("ask {to}")),
        },
    }
}

fn reply(text: &str) -> Result<Reply> {
    let words: Vec<&str> = text.split(' ').collect();
    let [node, host, source] = words[..] else { bail!("an answer {text:?}") };
    Ok(Reply::Answer(Endpoint { node: node.parse()?, host: host.parse()? }, source.parse()?))
}

fn answer(endpoint: Endpoint, from: IpAddr) -> String {
    format!("{} {} {from}", endpoint.node, endpoint.host)
}

/// A connection over TCP or SCTP.
pub(super) fn connect(proto: Proto, to: SocketAddr, timeout: Duration) -> std::io::Result<TcpStream> {
    if proto == Proto::Sctp { sctp::connect(to, timeout) } else { TcpStream::connect_timeout(&to, timeout) }
}

fn over_sctp(to: SocketAddr, timeout: Duration) -> std::io::Result<String> {
    if sctp::is_the_kernels() {
        return over_stream(connect(Proto::Sctp, to, timeout)?, to, timeout);
    }
    sctp::ask_by_hand(to, timeout)
}

fn over_stream(mut stream: TcpStream, to: SocketAddr, timeout: Duration) -> std::io::Result<String> {
    let peer = stream.peer_addr()?;
    if peer != to {
        return Err(std::io::Error::other(format!("the peer of a connection to {to} is {peer}")));
    }
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(b"?")?;
    let mut text = String::new();
    BufReader::new(&stream).read_line(&mut text)?;
    Ok(text.trim_end().to_owned())
}

fn over_udp(to: SocketAddr, timeout: Duration, named: bool) -> std::io::Result<String> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(timeout))?;
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

/// Answers in the namespace under the address for as long as the process lives.
pub(super) fn serve(netns: &NetNs, endpoint: Endpoint, addr: IpAddr) -> Result<()> {
    let at = SocketAddr::new(addr, TARGET);
    netns.run(|| -> Result<()> {
        answer_streams(TcpListener::bind(at)?, endpoint);
        let socket = UdpSocket::bind(at)?;
        std::thread::spawn(move || {
            let mut buffer = [0; 16];
            // An error here is a client's that went away.
            loop {
                let Ok((_, from)) = socket.recv_from(&mut buffer) else { continue };
                let _ = socket.send_to(answer(endpoint, from.ip()).as_bytes(), from);
            }
        });
        if sctp::is_the_kernels() {
            answer_streams(sctp::listen(at)?, endpoint);
            return Ok(());
        }
        sctp::answer_by_hand(at, move |from| answer(endpoint, from))
    })?
}

fn answer_streams(listener: TcpListener, endpoint: Endpoint) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer_stream(stream, endpoint));
        }
    });
}

/// Answers each byte with a line. The client ends the connection: else its port could not come back soon through another service.
fn answer_stream(mut stream: TcpStream, endpoint: Endpoint) -> std::io::Result<()> {
    let line = format!("{}\n", answer(endpoint, stream.peer_addr()?.ip()));
    stream.set_read_timeout(Some(IDLE))?;
    loop {
        stream.read_exact(&mut [0])?;
        stream.write_all(line.as_bytes())?;
    }
}
