//! Connections whose bytes are not looked at: to which endpoint they go, and the name in a TLS handshake that passes through.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Duration, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::endpoint_stream::EndpointStream;
use super::opened::Opener;
use super::snapshot::{Snapshot, drawn};
use super::{Shared, acme, switched};
use crate::config::StreamRoute;
use crate::counters::add;

/// Endpoints that a connection is tried at.
const MAX_ATTEMPTS: usize = 3;
/// A ClientHello is not larger than a record.
const MAX_HELLO_BYTES: usize = 16 << 10;
/// Between two looks at a ClientHello that is not complete.
const HELLO_INTERVAL: Duration = Duration::from_millis(5);

/// Passes bytes on in both directions until both ends have said everything, or after `stop` for as long as connections may drain.
pub(super) async fn pass<S>(
    shared: &Arc<Shared>,
    client: S,
    port: u16,
    route: &StreamRoute,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let snapshot = shared.snapshot.load_full();
    let Some(endpoint) = connect(shared, &snapshot, port, route).await else { return };
    drop(snapshot);
    let joined = switched::join(client, endpoint, shared.limits.switched_timeout);
    tokio::pin!(joined);
    tokio::select! {
        () = &mut joined => {}
        () = stop.cancelled() => drop(timeout(shared.limits.drain_timeout, joined).await),
    }
}

/// `port`: of the listener.
async fn connect(
    shared: &Shared,
    snapshot: &Snapshot,
    port: u16,
    route: &StreamRoute,
) -> Option<EndpointStream> {
    let part = drawn(&route.parts, |part| part.weight)?;
    let cluster = snapshot.cluster_by(port, part.backend?)?;
    let mut tried: Vec<SocketAddr> = Vec::new();
    let opener = Opener { opened: &shared.opened, route: &route.counters };
    for _ in 0..MAX_ATTEMPTS {
        let now = shared.now_ms();
        let upstream = cluster.choose(&tried, now)?;
        match upstream.open(shared.limits.connect_timeout, opener).await {
            Ok(stream) => {
                upstream.health.succeeded();
                return Some(stream);
            }
            Err(_) => {
                add(&shared.counters.upstream_failures);
                upstream.health.failed(now);
                tried.push(upstream.address);
            }
        }
    }
    None
}

/// What decides about a connection before its handshake.
pub(super) struct Hello {
    /// The name that the client asks for, in lower case.
    pub(super) name: String,
    /// It wants nothing but to validate the name.
    pub(super) validates: bool,
}

/// Reads a ClientHello without taking a byte from the socket. `None`: it is none.
pub(super) async fn hello(stream: &TcpStream) -> Option<Hello> {
    let mut buffer = vec![0; MAX_HELLO_BYTES];
    let mut known = 0;
    loop {
        let count = stream.peek(&mut buffer).await.ok().filter(|count| *count > 0)?;
        if count == known {
            // A socket with bytes is always readable.
            sleep(HELLO_INTERVAL).await;
            continue;
        }
        known = count;
        let mut acceptor = Acceptor::default();
        acceptor.read_tls(&mut &buffer[..count]).ok()?;
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let name = hello.server_name().unwrap_or_default().to_ascii_lowercase();
                return Some(Hello { name, validates: hello.alpn().is_some_and(acme::validates) });
            }
            Ok(None) if count < buffer.len() => {}
            Ok(None) | Err(_) => return None,
        }
    }
}
