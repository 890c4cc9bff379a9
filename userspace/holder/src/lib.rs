//! Sockets that outlive an agent: a process of its own has them open while the agent is replaced, also when the agent is killed.
//!
//! In: sockets of an agent. Out: the same sockets to the next one, over a unix socket. Questions wait in a socket that is held, and the
//! other end of a connection that is held does not know that the agent is gone.

mod message;
mod process;

use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

pub use message::MAX_SOCKETS;
pub use process::{hold, listen};

/// How long a new holder has until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(5);
const START_CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// Starts a holder that listens at the path.
pub type Start = Box<dyn Fn(&Path) -> io::Result<()> + Send + Sync>;

/// The holder of one agent's sockets, as the agent uses it. Each call takes a fraction of a millisecond while the holder runs.
pub struct Holder {
    /// Its unix socket.
    path: PathBuf,
    start: Start,
}

impl Holder {
    pub fn new(path: PathBuf, start: Start) -> Holder {
        Holder { path, start }
    }

    /// The sockets of an earlier agent; none without a holder.
    pub fn fetch(&self) -> Vec<OwnedFd> {
        fetch(&self.path).unwrap_or_default()
    }

    /// Lets the holder have these sockets instead of those that it has. Starts it if it does not run. Without sockets it ends.
    ///
    /// # Errors
    /// There are more than [`MAX_SOCKETS`], and what is held is kept; or the holder cannot be started or does not answer.
    pub async fn keep(&self, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        if sockets.len() > MAX_SOCKETS {
            return Err(io::Error::other(format!("a holder has at most {MAX_SOCKETS} sockets")));
        }
        if replace(&self.path, sockets).is_ok() {
            return Ok(());
        }
        (self.start)(&self.path)?;
        let end = Instant::now() + START_TIMEOUT;
        loop {
            match replace(&self.path, sockets) {
                Err(_) if Instant::now() < end => sleep(START_CHECK_INTERVAL).await,
                result => return result,
            }
        }
    }
}

fn fetch(path: &Path) -> io::Result<Vec<OwnedFd>> {
    let stream = connect(path)?;
    message::send(&stream, message::FETCH, &[])?;
    Ok(message::receive(&stream)?.1)
}

fn replace(path: &Path, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut stream = connect(path)?;
    message::send(&stream, message::REPLACE, sockets)?;
    stream.read_exact(&mut [0])
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    message::set_timeouts(&stream)?;
    Ok(stream)
}
