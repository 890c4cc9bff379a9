//! The holder itself: a process that has nothing but sockets.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::message::{DONE, REPLACE, receive, send, set_timeouts};

/// How often a holder checks that its socket exists.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// A holder that listens.
pub struct Process {
    listener: UnixListener,
    path: PathBuf,
    /// Of two that start at once, one goes on.
    _lock: File,
}

/// Listens at the path, which only the owner may use.
///
/// # Errors
/// Another holder is at the path (`WouldBlock`), or the path cannot be used.
pub fn listen(path: &Path) -> io::Result<Process> {
    let lock = File::create(path.with_extension("lock"))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    // accept(2) ends after this time too.
    set_socket_timeout(&listener, Timeout::Recv, Some(CHECK_INTERVAL))?;
    Ok(Process { listener, path: path.to_owned(), _lock: lock })
}

/// Sockets by purpose.
type Held = BTreeMap<u8, Vec<OwnedFd>>;

impl Process {
    /// Holds sockets until agents have replaced all of them by none, or the path is removed.
    pub fn hold(self) {
        let mut held = Held::new();
        loop {
            let answered = self.listener.accept().and_then(|(stream, _)| answer(&stream, &mut held));
            match answered {
                Ok(true) if held.values().all(Vec::is_empty) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.path.exists() => return,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // An agent that fails asks again.
                Err(error) => tracing::debug!(%error, "hand over sockets failed"),
            }
        }
    }
}

/// Returns whether the sockets were replaced.
fn answer(stream: &UnixStream, held: &mut Held) -> io::Result<bool> {
    set_timeouts(stream)?;
    let (request, purpose, received) = receive(stream)?;
    if request == REPLACE {
        held.insert(purpose, received);
        send(stream, DONE, purpose, &[])?;
        return Ok(true);
    }
    let sockets: Vec<_> = held.get(&purpose).into_iter().flatten().map(AsFd::as_fd).collect();
    send(stream, DONE, purpose, &sockets)?;
    Ok(false)
}
