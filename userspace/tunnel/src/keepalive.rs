//! Signs of life. In a tunnel that is used, pings: one whose peer is gone without a word ends within [`BUSY_INTERVAL`] and
//! [`TIMEOUT`] while it has streams. In a parked one, the kernel's (RFC 9293, 3.8.4).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use h2::{Ping, PingPong};
use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// Between pings while there are streams, whose users wait.
const BUSY_INTERVAL: Duration = Duration::from_secs(2);
/// Between pings otherwise. A thousand tunnels cost an API server about 100 pings a second.
const IDLE_INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(4);

/// Before the kernel's first probe of a silent connection, between two, and how many are sent before it is reset.
const SILENCE: Duration = Duration::from_secs(6);
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
const PROBES: u32 = 3;

/// The streams of a tunnel, which set the pace of its pings.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    streams: AtomicUsize,
    ping: Notify,
}

/// A stream of a tunnel; its drop ends it.
#[derive(Debug)]
pub(crate) struct ActiveStream(Arc<Activity>);

impl Activity {
    /// Asks for a ping at once.
    pub(crate) fn probe(&self) {
        self.ping.notify_one();
    }

    /// The first stream asks for a ping: the tunnel may be dead since the last one.
    pub(crate) fn stream(self: &Arc<Self>) -> ActiveStream {
        if self.streams.fetch_add(1, Ordering::Relaxed) == 0 {
            self.probe();
        }
        ActiveStream(self.clone())
    }

    fn interval(&self) -> Duration {
        if self.streams.load(Ordering::Relaxed) > 0 { BUSY_INTERVAL } else { IDLE_INTERVAL }
    }
}

impl Drop for ActiveStream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Has the kernel notice a peer that is gone while nothing is sent.
pub fn probe_silence(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, SILENCE)?;
    sockopt::set_tcp_keepintvl(stream, PROBE_INTERVAL)?;
    Ok(sockopt::set_tcp_keepcnt(stream, PROBES)?)
}

/// Returns when the peer does not answer. The connection's own end is not noticed here.
pub(crate) async fn unanswered(pings: Option<PingPong>, activity: &Activity) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::select! {
            () = sleep(activity.interval()) => {}
            () = activity.ping.notified() => {}
        }
        match timeout(TIMEOUT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection ends, and says why.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}
