//! Sockets that outlive an agent: a process of its own has them open while the agent is replaced, also when the agent is killed.
//!
//! In: sockets of an agent. Out: the same sockets to the next one, over a unix socket. Questions wait in a socket that is held, and the
//! other end of a connection that is held does not know that the agent is gone.

mod message;
mod process;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

pub use message::{MAX_SOCKETS, Purpose};
pub use process::{Process, listen};

/// How long a new holder has until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(5);
const START_CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// Starts a holder that listens at the path.
pub type Start = Box<dyn Fn(&Path) -> io::Result<()> + Send + Sync>;

/// The holder of one agent's sockets, as the agent uses it. Each call takes a fraction of a millisecond while the holder runs.
pub struct Holder {
    /// Its unix socket.
    path: PathBuf,
    purpose: Purpose,
    start: Start,
}

impl Holder {
    /// The sockets of one purpose; holders of other purposes at the same path are the same process.
    pub fn new(path: PathBuf, purpose: Purpose, start: Start) -> Holder {
        Holder { path, purpose, start }
    }

    /// The sockets of an earlier agent; none without a holder.
    pub fn fetch(&self) -> Vec<OwnedFd> {
        self.ask_sockets().unwrap_or_default()
    }

    /// Lets the holder have these sockets instead of those that it has. Starts it if it does not run. Without sockets of any
    /// purpose it ends.
    ///
    /// # Errors
    /// There are more than [`MAX_SOCKETS`], and what is held is kept; or the holder cannot be started or does not answer.
    pub async fn keep(&self, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        if sockets.len() > MAX_SOCKETS {
            return Err(io::Error::other(format!("a holder has at most {MAX_SOCKETS} sockets")));
        }
        if self.replace(sockets).is_ok() {
            return Ok(());
        }
        (self.start)(&self.path)?;
        let end = Instant::now() + START_TIMEOUT;
        loop {
            match self.replace(sockets) {
                Err(_) if Instant::now() < end => sleep(START_CHECK_INTERVAL).await,
                result => return result,
            }
        }
    }

    fn ask_sockets(&self) -> io::Result<Vec<OwnedFd>> {
        let stream = self.request(message::FETCH, &[])?;
        Ok(message::receive(&stream)?.2)
    }

    fn replace(&self, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        let stream = self.request(message::REPLACE, sockets)?;
        message::receive(&stream).map(drop)
    }

    fn request(&self, request: u8, sockets: &[BorrowedFd<'_>]) -> io::Result<UnixStream> {
        let stream = UnixStream::connect(&self.path)?;
        message::set_timeouts(&stream)?;
        message::send(&stream, request, self.purpose as u8, sockets)?;
        Ok(stream)
    }
}
