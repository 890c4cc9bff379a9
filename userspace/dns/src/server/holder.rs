//! Keeps the server's sockets open while the agent is replaced: questions wait in them, and the next agent answers.
//!
//! In: sockets of an agent. Out: the same sockets to the next one, over a unix socket (SCM_RIGHTS, unix(7)). The holder is a process
//! of its own, so that it also outlives an agent that is killed.

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Most sockets: two protocols at the addresses of two families, and room.
const MAX_SOCKETS: usize = 16;
/// How long either end waits for the other.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Requests: the sockets are sent; or others replace them.
const FETCH: u8 = b'F';
const REPLACE: u8 = b'R';
const DONE: u8 = b'D';

/// How often a holder looks whether its socket is still there.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Listens at the path, which only the owner may use.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    // accept(2) ends after this time too.
    set_socket_timeout(&listener, Timeout::Recv, Some(CHECK_INTERVAL))?;
    Ok(listener)
}

/// Holds sockets until an agent replaces them by none, or the path is removed.
pub fn hold(listener: &UnixListener, path: &Path) {
    let mut held: Vec<OwnedFd> = Vec::new();
    loop {
        let answered = listener.accept().and_then(|(stream, _)| answer(&stream, &mut held));
        match answered {
            Ok(true) if held.is_empty() => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !path.exists() => return,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // An agent that fails asks again.
            Err(error) => tracing::debug!(%error, "hand over sockets failed"),
        }
    }
}

/// Returns whether the sockets were replaced.
fn answer(stream: &UnixStream, held: &mut Vec<OwnedFd>) -> io::Result<bool> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let (request, received) = receive(stream)?;
    if request == REPLACE {
        *held = received;
        send(stream, DONE, &[])?;
        return Ok(true);
    }
    send(stream, DONE, &held.iter().map(AsFd::as_fd).collect::<Vec<_>>())?;
    Ok(false)
}

/// The sockets of an earlier agent. An error: no holder is at the path.
pub fn fetch(path: &Path) -> io::Result<Vec<OwnedFd>> {
    let stream = connect(path)?;
    send(&stream, FETCH, &[])?;
    Ok(receive(&stream)?.1)
}

/// Gives the holder these sockets instead of those that it has.
pub fn replace(path: &Path, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut stream = connect(path)?;
    send(&stream, REPLACE, sockets)?;
    stream.read_exact(&mut [0])
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

fn send(stream: &UnixStream, byte: u8, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::Error::other("more sockets than one message takes"));
    }
    sendmsg(stream, &[IoSlice::new(&[byte])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(stream: &UnixStream) -> io::Result<(u8, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            sockets.extend(rights);
        }
    }
    Ok((byte[0], sockets))
}
