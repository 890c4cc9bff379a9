//! Pings: a tunnel whose peer is gone without a word ends within [`INTERVAL`] and [`TIMEOUT`].

use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// Between pings. A thousand idle tunnels cost an API server about 100 pings a second.
const INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(5);

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
