//! The connection to the runtime, which outlives the agent when a holder has it too.
//!
//! A runtime cancels the calls of a client that is gone. containerd then kills a container that has just started, and says that its start
//! failed: what the container did until then would be done twice. While the connection is held, calls in flight end as they should, and
//! the next agent finds what they made.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skep_holder::{Holder, MAX_SOCKETS};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

/// How long calls of an earlier agent may take: the kubelet's timeout of runtime requests.
const MAX_CALL_DURATION: Duration = Duration::from_secs(120);

/// Connects, and lets the holder have the connection. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    socket: PathBuf,
    held: Option<Arc<Held>>,
}

impl Connector {
    /// Without a holder, calls in flight are cancelled when the agent ends.
    pub fn new(socket: PathBuf, holder: Option<Arc<Holder>>) -> Connector {
        let held = holder.map(|holder| Arc::new(Held { holder, sockets: Mutex::default() }));
        Connector { socket, held }
    }

    pub(super) async fn connect(self) -> io::Result<UnixStream> {
        let stream = UnixStream::connect(&self.socket).await?;
        if let Some(held) = &self.held
            && let Err(error) = held.add(&stream).await
        {
            tracing::warn!(%error, "hold the connection to containerd failed; calls end with the agent");
        }
        Ok(stream)
    }
}

/// What the holder has.
struct Held {
    holder: Arc<Holder>,
    sockets: Mutex<Option<Sockets>>,
}

struct Sockets {
    current: OwnedFd,
    /// Connections of earlier agents, whose calls may be in flight.
    earlier: Vec<OwnedFd>,
}

impl Held {
    async fn add(self: &Arc<Held>, stream: &UnixStream) -> io::Result<()> {
        let mut sockets = self.sockets.lock().await;
        // A second connection means that the runtime was restarted, and its calls with it.
        let is_first = sockets.is_none();
        let mut earlier = if is_first { self.holder.fetch() } else { Vec::new() };
        earlier.truncate(MAX_SOCKETS - 1);
        let current = stream.as_fd().try_clone_to_owned()?;
        self.keep(sockets.insert(Sockets { current, earlier })).await?;
        if is_first {
            let held = Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep(MAX_CALL_DURATION).await;
                held.forget_earlier().await;
            });
        }
        Ok(())
    }

    /// Ends the connections of earlier agents.
    async fn forget_earlier(&self) {
        let mut sockets = self.sockets.lock().await;
        let Some(sockets) = sockets.as_mut() else { return };
        sockets.earlier.clear();
        if let Err(error) = self.keep(sockets).await {
            tracing::warn!(%error, "end connections of earlier agents to containerd failed");
        }
    }

    async fn keep(&self, sockets: &Sockets) -> io::Result<()> {
        let all: Vec<_> =
            std::iter::once(&sockets.current).chain(&sockets.earlier).map(AsFd::as_fd).collect();
        self.holder.keep(&all).await
    }
}
