//! Sockets: a listener for each port of the configuration, on each address of the node.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Gateway;
use super::connection::{self, Accepted, Entry};
use super::tls::{Handshakes, Inside};
use crate::counters::add;

const BACKLOG: u32 = 4_096;
/// Pause after a failure to listen or to accept.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Why a port is not served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("listen on {0}: {1}")]
    Bind(SocketAddr, #[source] io::Error),
    #[error("set up TLS for port {0}: {1}")]
    Tls(u16, #[source] rustls::Error),
}

/// Where the gateway listens, and where it should and cannot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    pub open: BTreeSet<SocketAddr>,
    /// Why not. It is tried again.
    pub failed: BTreeMap<SocketAddr, String>,
}

impl Bound {
    /// The ports that are open at every address.
    pub fn ports(&self) -> BTreeSet<u16> {
        let is_open = |port: &u16| self.failed.keys().all(|address| address.port() != *port);
        self.open.iter().map(SocketAddr::port).filter(is_open).collect()
    }
}

impl Gateway {
    /// Listens on each address at each port of the configuration, as it changes, until `stop`. `bound` receives where it listens. Returns
    /// when the last connections have ended.
    pub async fn run(&self, addresses: &[IpAddr], bound: watch::Sender<Bound>, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let janitor = self.0.janitor.clone();
        let janitor = tokio::spawn(async move { janitor.run().await });
        let mut sockets =
            Sockets { open: BTreeMap::new(), failed: BTreeMap::new(), connections: connections.clone() };
        let mut applied = self.0.applied.subscribe();
        while !stop.is_cancelled() {
            applied.mark_unchanged();
            let ports: Vec<u16> = self.0.snapshot.load().listeners.keys().copied().collect();
            let wanted =
                addresses.iter().flat_map(|ip| ports.iter().map(move |port| SocketAddr::new(*ip, *port)));
            let complete = sockets.follow(self, &wanted.collect(), &stop);
            let open = sockets.open.keys().copied().collect();
            let now = Bound { open, failed: sockets.failed.clone() };
            bound.send_if_modified(|bound| {
                let changed = *bound != now;
                *bound = now;
                changed
            });
            tokio::select! {
                () = stop.cancelled() => {}
                _ = applied.changed() => {}
                () = tokio::time::sleep(RETRY_INTERVAL), if !complete => {}
            }
        }
        sockets.open.clear();
        connections.close();
        connections.wait().await;
        janitor.abort();
    }

    /// Accepts connections from a socket, as the configuration's listener of this port, until `stop`.
    pub async fn serve(
        &self,
        listener: TcpListener,
        port: u16,
        stop: CancellationToken,
    ) -> Result<(), ListenError> {
        let connections = TaskTracker::new();
        self.accept(listener, port, &connections, stop).await?;
        connections.close();
        connections.wait().await;
        Ok(())
    }

    async fn accept(
        &self,
        listener: TcpListener,
        port: u16,
        connections: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<(), ListenError> {
        let handshakes = |inside| {
            let made = Handshakes::new(&self.0, port, inside);
            made.map(Arc::new).map_err(|error| ListenError::Tls(port, error))
        };
        let (http, of_streams) = (handshakes(Inside::Http)?, handshakes(Inside::Stream)?);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return Ok(()),
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(port, %error, "accept connection failed");
                    tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
                    continue;
                }
            };
            let snapshot = self.0.snapshot.load();
            let (Some(listener), Some(seat)) = (snapshot.listeners.get(&port), self.0.seats.take(peer.ip()))
            else {
                add(&self.0.counters.refused_connections);
                continue;
            };
            let entry = match (&listener.tls, &listener.stream) {
                (Some(servers), _) => {
                    Entry::Tls { http: http.clone(), stream: of_streams.clone(), passes: servers.passes }
                }
                (None, Some(route)) => Entry::Stream(route.clone()),
                (None, None) => Entry::Http,
            };
            let accepted = Accepted { stream, peer, port, seat, entry };
            connections.spawn(connection::serve(self.clone(), accepted, stop.clone()));
        }
    }
}

/// The sockets of a node.
struct Sockets {
    open: BTreeMap<SocketAddr, Open>,
    /// Those that cannot be opened, and why.
    failed: BTreeMap<SocketAddr, String>,
    connections: TaskTracker,
}

/// A socket; with its drop its connections end, each after its requests.
struct Open {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}

impl Sockets {
    /// Opens and closes sockets until those that are wanted are open; whether they are.
    fn follow(&mut self, gateway: &Gateway, wanted: &BTreeSet<SocketAddr>, stop: &CancellationToken) -> bool {
        self.open.retain(|address, open| wanted.contains(address) && !open.task.is_finished());
        self.failed.retain(|address, _| wanted.contains(address));
        for address in wanted {
            if self.open.contains_key(address) {
                continue;
            }
            match listen(*address) {
                Ok(listener) => {
                    self.failed.remove(address);
                    tracing::info!(%address, "the gateway listens");
                    self.open.insert(*address, self.start(gateway, listener, address.port(), stop));
                }
                Err(error) => {
                    if self.failed.insert(*address, error.to_string()).is_none() {
                        tracing::warn!(%error, "gateway failed to listen; it is retried");
                    }
                }
            }
        }
        self.open.len() == wanted.len()
    }

    fn start(&self, gateway: &Gateway, listener: TcpListener, port: u16, stop: &CancellationToken) -> Open {
        let (gateway, connections, stop) = (gateway.clone(), self.connections.clone(), stop.child_token());
        let until = stop.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = gateway.accept(listener, port, &connections, until).await {
                tracing::warn!(port, %error, "gateway failed to serve; it is retried");
            }
        });
        Open { task, stop }
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let socket = || {
        let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    socket().map_err(|error: io::Error| ListenError::Bind(address, error))
}
