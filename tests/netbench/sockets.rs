//! What the sockets of a TCP connection do where programs often rely on it: whether a sender waits for its reader, whether
//! splice(2) finds the data, whether urgent data stays apart, whether unread data resets the connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendFlags, send};
use rustix::pipe::{SpliceFlags, pipe, splice};
use serde::{Deserialize, Serialize};

use crate::placement::{Placement, own};
use crate::samples::Samples;
use crate::world::Subject;

/// A sender that has not waited by then never waits.
const UNREAD_MAX: usize = 256 << 20;
const CHUNK: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Serialize, Deserialize)]
struct Behaviour {
    /// Bytes that a sender could send while its reader read nothing.
    unread: usize,
    /// splice(2) takes the data out of the socket.
    splices: bool,
    /// A reader does not get an urgent byte among the others.
    urgent_apart: bool,
    /// A sender learns that its reader closed and had not read all.
    reset: bool,
}

/// `unread`, and 1 or 0 for each of the others.
pub(crate) fn measure(subject: Subject, place: &Placement, samples: &mut Samples) -> Result<()> {
    let output = place.command(own()?)?.arg("sockets").stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("the sockets of {}: {}", subject.name, String::from_utf8_lossy(&output.stderr));
    }
    let behaviour: Behaviour = serde_json::from_slice(&output.stdout)?;
    samples.put("sockets_unread", "MB", subject, behaviour.unread as f64 / 1e6);
    let kept = [
        ("sockets_splice", behaviour.splices),
        ("sockets_urgent", behaviour.urgent_apart),
        ("sockets_reset", behaviour.reset),
    ];
    kept.into_iter().for_each(|(name, is_kept)| samples.put(name, "kept", subject, f64::from(is_kept)));
    Ok(())
}

/// The process: prints a [`Behaviour`].
pub(crate) fn run() -> Result<()> {
    let behaviour =
        Behaviour { unread: unread()?, splices: splices()?, urgent_apart: urgent_apart()?, reset: reset()? };
    println!("{}", serde_json::to_string(&behaviour)?);
    Ok(())
}

/// Both ends of a connection.
fn connection() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let sender = TcpStream::connect(listener.local_addr()?)?;
    let (reader, _) = listener.accept()?;
    for end in [&sender, &reader] {
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(PATIENCE))?;
    }
    Ok((sender, reader))
}

fn unread() -> Result<usize> {
    let (mut sender, _reader) = connection()?;
    sender.set_nonblocking(true)?;
    let (chunk, mut sent) = (vec![0; CHUNK], 0);
    while sent < UNREAD_MAX {
        match sender.write(&chunk) {
            Ok(bytes) => sent += bytes,
            Err(error)
                if error.kind() == ErrorKind::WouldBlock && becomes_ready(&sender, PollFlags::OUT)? => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error).context("send"),
        }
    }
    Ok(sent)
}

fn splices() -> Result<bool> {
    let (mut sender, reader) = connection()?;
    sender.write_all(b"x")?;
    ensure!(becomes_ready(&reader, PollFlags::IN)?, "nothing arrives");
    let (_pipe, to) = pipe()?;
    Ok(splice(&reader, None, &to, None, 1, SpliceFlags::NONBLOCK) == Ok(1))
}

fn urgent_apart() -> Result<bool> {
    let (mut sender, mut reader) = connection()?;
    send(&sender, b"!", SendFlags::OOB)?;
    sender.write_all(b"x")?;
    drop(sender);
    let mut read = Vec::new();
    // What came before an error counts.
    let _ = reader.read_to_end(&mut read);
    Ok(read == b"x")
}

fn reset() -> Result<bool> {
    let (mut sender, reader) = connection()?;
    sender.write_all(b"x")?;
    ensure!(becomes_ready(&reader, PollFlags::IN)?, "nothing arrives");
    drop(reader);
    Ok(sender.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset))
}

/// Within [`PATIENCE`].
fn becomes_ready(socket: &TcpStream, flags: PollFlags) -> Result<bool> {
    let timeout = Timespec { tv_sec: 0, tv_nsec: PATIENCE.subsec_nanos().into() };
    Ok(poll(&mut [PollFd::new(socket, flags)], Some(&timeout))? == 1)
}
