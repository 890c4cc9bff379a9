//! The holder itself: a process that has nothing but sockets.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::message::{DONE, REPLACE, receive, send, set_timeouts};

/// How often a holder checks that its socket exists.
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
    set_timeouts(stream)?;
    let (request, received) = receive(stream)?;
    if request == REPLACE {
        *held = received;
        send(stream, DONE, &[])?;
        return Ok(true);
    }
    send(stream, DONE, &held.iter().map(AsFd::as_fd).collect::<Vec<_>>())?;
    Ok(false)
}
