//! Signs of life. In a tunnel that is used, pings: one whose peer is gone without a word ends within [`INTERVAL`] and
//! [`TIMEOUT`]. In a parked one, the kernel's (RFC 9293, 3.8.4).

use std::io;
use std::time::Duration;

use h2::{Ping, PingPong};
use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// Between pings. A thousand tunnels cost an API server about 100 pings a second.
const INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(5);

/// Before the kernel's first probe of a silent connection, between two, and how many are sent before it is reset.
const SILENCE: Duration = Duration::from_secs(15);
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;

/// Has the kernel notice a peer that is gone while nothing is sent.
pub fn probe_silence(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, SILENCE)?;
    sockopt::set_tcp_keepintvl(stream, PROBE_INTERVAL)?;
    Ok(sockopt::set_tcp_keepcnt(stream, PROBES)?)
}

/// Returns when the peer does not answer. `now` asks for a ping at once. The connection's own end is not noticed here.
pub(crate) async fn unanswered(pings: Option<PingPong>, now: &Notify) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::select! {
            () = sleep(INTERVAL) => {}
            () = now.notified() => {}
        }
        match timeout(TIMEOUT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection ends, and says why.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}
