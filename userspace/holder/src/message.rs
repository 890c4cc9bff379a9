//! What the holder and agents send each other: two bytes, and sockets beside them (SCM_RIGHTS, unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Most sockets of one purpose.
pub const MAX_SOCKETS: usize = 16;
/// How long either end waits for the other.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Requests: the sockets are sent; or others replace them.
pub(crate) const FETCH: u8 = b'F';
pub(crate) const REPLACE: u8 = b'R';
pub(crate) const DONE: u8 = b'D';

/// What sockets are for. A holder has a set for each purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// Where the node's DNS is asked.
    Dns = b'd',
    /// Connections to the container runtime.
    Runtime = b'r',
}

pub(crate) fn set_timeouts(stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))
}

pub(crate) fn send(
    stream: &UnixStream,
    request: u8,
    purpose: u8,
    sockets: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::Error::other("more sockets than one message takes"));
    }
    sendmsg(stream, &[IoSlice::new(&[request, purpose])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The request, the purpose and the sockets.
pub(crate) fn receive(stream: &UnixStream) -> io::Result<(u8, u8, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 2];
    let received =
        recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes < bytes.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            sockets.extend(rights);
        }
    }
    let [request, purpose] = bytes;
    Ok((request, purpose, sockets))
}
