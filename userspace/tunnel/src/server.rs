//! The tunnels of an API server, by node.
//!
//! A tunnel is parked until a connection is asked for: it has no HTTP/2 state yet, which takes two thirds of the memory of an
//! idle tunnel. The agent waits for this end to speak first; the kernel notices a peer that is gone (TCP keep-alive).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::{Method, Request, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use crate::counts::{Counters, ServerCounts, add, read};
use crate::http2;
use crate::keepalive::{self, Activity};
use crate::stream::TunnelStream;

/// Agents are back within this time after a tunnel or the server itself ended. Connections wait for them as long.
const RETURN_TIMEOUT: Duration = Duration::from_secs(5);
/// Tunnels of one node: more than one while an agent moves to another. Beyond it the oldest ends.
const MAX_OF_NODE: usize = 4;
/// What an agent says before this end speaks: its settings.
const MAX_PARKED_BYTES: usize = 512;
/// Bytes of an agent's reason for an error.
const MAX_REASON_BYTES: usize = 512;

/// Why a connection through a tunnel could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    #[error("node {0} has no tunnel to this server")]
    NoTunnel(Arc<str>),
    #[error("the tunnel to node {0} broke: {1}")]
    Broken(Arc<str>, String),
    /// The address is not the node's.
    #[error("node {0} refused: {1}")]
    Refused(Arc<str>, String),
    /// The node's own error.
    #[error("node {0}: {1}")]
    Far(Arc<str>, String),
}

/// The open tunnels. Cheap to clone; clones share them.
#[derive(Clone)]
pub struct Tunnels(Arc<Shared>);

struct Shared {
    nodes: Mutex<HashMap<Arc<str>, Node>>,
    /// Changes with every tunnel that opens.
    opened: watch::Sender<u64>,
    counters: Arc<Counters>,
    started: Instant,
}

#[derive(Default)]
struct Node {
    /// The newest last.
    open: Vec<Tunnel>,
    /// When the last one ended.
    ended: Option<Instant>,
}

struct Tunnel {
    id: u64,
    /// `None` while it is parked.
    requests: watch::Receiver<Option<SendRequest<Bytes>>>,
    /// Asks for the end of its parking.
    wake: Arc<Notify>,
    activity: Arc<Activity>,
    /// Ends it.
    end: Arc<Notify>,
}

impl Default for Tunnels {
    fn default() -> Tunnels {
        Tunnels(Arc::new(Shared {
            nodes: Mutex::default(),
            opened: watch::Sender::new(0),
            counters: Arc::default(),
            started: Instant::now(),
        }))
    }
}

impl Tunnels {
    /// Serves a node's tunnel on its upgraded connection until one end closes it, the peer is silent, or `expiry`.
    pub async fn serve<T>(&self, node: &str, connection: T, expiry: Option<Instant>) -> io::Result<()>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let entry = self.enter(node);
        let expired = async {
            match expiry {
                Some(expiry) => tokio::time::sleep_until(expiry).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = entry.run(connection) => ended,
            () = entry.end.notified() => Ok(()),
            () = expired => Err(io::Error::other("the node's certificate has expired")),
        }
    }

    /// Opens a connection to an address of a node. Waits for a node that lost its tunnel just now.
    pub async fn dial(&self, node: &str, address: SocketAddr) -> Result<TunnelStream, DialError> {
        let node: Arc<str> = node.into();
        let mut dialled = self.connect(&node, address).await;
        if let Err(DialError::Broken(..)) = dialled {
            // Nothing was sent to the address yet, and agents come back at once.
            dialled = self.connect(&node, address).await;
        }
        if dialled.is_err() {
            add(&self.0.counters.failed, 1);
        }
        dialled
    }

    async fn connect(&self, node: &Arc<str>, address: SocketAddr) -> Result<TunnelStream, DialError> {
        let broken = |error: &h2::Error| DialError::Broken(node.clone(), http2::reason(error));
        let (mut requests, activity) = self.ready(node).await?;
        let active = activity.stream();
        let uri = Uri::builder().authority(address.to_string()).build();
        let uri = uri.map_err(|error| DialError::Far(node.clone(), error.to_string()))?;
        let mut request = Request::new(());
        (*request.method_mut(), *request.uri_mut()) = (Method::CONNECT, uri);
        let sent = requests.send_request(request, false);
        let (answer, send) = sent.map_err(|error| broken(&error))?;
        let (head, body) = answer.await.map_err(|error| broken(&error))?.into_parts();
        match head.status {
            StatusCode::OK => {
                Ok(TunnelStream::new(node.clone(), (send, body), self.0.counters.stream(), active))
            }
            StatusCode::FORBIDDEN => Err(DialError::Refused(node.clone(), reason(body).await)),
            _ => Err(DialError::Far(node.clone(), reason(body).await)),
        }
    }

    /// The newest tunnel of a node that takes requests.
    async fn ready(&self, node: &Arc<str>) -> Result<(SendRequest<Bytes>, Arc<Activity>), DialError> {
        let mut opened = self.0.opened.subscribe();
        loop {
            let newest = self.nodes().get(node).and_then(|node| node.open.last().map(Tunnel::wake));
            if let Some((mut requests, activity)) = newest {
                // An error: the tunnel ended meanwhile.
                let open = requests.wait_for(Option::is_some).await.ok().and_then(|open| open.clone());
                if let Some(open) = open
                    && let Ok(open) = open.ready().await
                {
                    return Ok((open, activity));
                }
            }
            let ended = self.nodes().get(node).and_then(|node| node.ended);
            let until = ended.unwrap_or(self.0.started).max(self.0.started) + RETURN_TIMEOUT;
            if timeout_at(until, opened.changed()).await.is_err() {
                return Err(DialError::NoTunnel(node.clone()));
            }
        }
    }

    /// Whether a node has a tunnel now.
    pub fn has(&self, node: &str) -> bool {
        self.nodes().get(node).is_some_and(|node| !node.open.is_empty())
    }

    pub fn counts(&self) -> ServerCounts {
        let counters = &self.0.counters;
        ServerCounts {
            nodes: self.nodes().values().filter(|node| !node.open.is_empty()).count() as u64,
            open: read(&counters.open),
            opened: read(&counters.opened),
            streams: read(&counters.streams),
            dialled: read(&counters.dialled),
            failed: read(&counters.failed),
            sent: read(&counters.sent),
            received: read(&counters.received),
        }
    }

    fn enter(&self, node: &str) -> Entry {
        let name: Arc<str> = node.into();
        let requests = watch::Sender::new(None);
        let wake = Arc::new(Notify::new());
        let open = self.0.counters.tunnel();
        let (activity, end) = (Arc::new(Activity::default()), Arc::new(Notify::new()));
        let mut nodes = self.nodes();
        nodes.retain(|_, node| node.is_of_interest());
        let id = read(&self.0.counters.opened);
        let node = nodes.entry(name.clone()).or_default();
        // A second tunnel of a node often means that the first is dead: a ping finds out.
        node.open.iter().for_each(|older| older.activity.probe());
        if node.open.len() >= MAX_OF_NODE {
            node.open.remove(0).end.notify_one();
        }
        let (receiver, waker) = (requests.subscribe(), wake.clone());
        node.open.push(Tunnel {
            id,
            requests: receiver,
            wake: waker,
            activity: activity.clone(),
            end: end.clone(),
        });
        drop(nodes);
        self.0.opened.send_modify(|count| *count = count.wrapping_add(1));
        Entry { tunnels: self.clone(), node: name, id, requests, wake, activity, end, _open: open }
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<Arc<str>, Node>> {
        self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    fn is_of_interest(&self) -> bool {
        !self.open.is_empty() || self.ended.is_some_and(|ended| ended.elapsed() < RETURN_TIMEOUT)
    }
}

/// A tunnel's entry in the table; its drop removes it.
struct Entry {
    tunnels: Tunnels,
    node: Arc<str>,
    id: u64,
    requests: watch::Sender<Option<SendRequest<Bytes>>>,
    wake: Arc<Notify>,
    activity: Arc<Activity>,
    end: Arc<Notify>,
    _open: crate::counts::Open,
}

impl Entry {
    /// Parks the tunnel until it is used, and then drives it until its end.
    async fn run<T: AsyncRead + AsyncWrite + Unpin>(&self, mut connection: T) -> io::Result<()> {
        let mut settings = Vec::new();
        loop {
            tokio::select! {
                () = self.wake.notified() => break,
                read = connection.read_buf(&mut settings) => match read? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    _ if settings.len() > MAX_PARKED_BYTES => {
                        return Err(io::Error::other("the agent sent more than its settings"));
                    }
                    _ => {}
                },
            }
        }
        let (read, write) = tokio::io::split(connection);
        let connection = tokio::io::join(io::Cursor::new(settings).chain(read), write);
        // On the heap, the state of the handshake is gone when it ends. A future keeps room for all that it ever held.
        let opened = Box::pin(http2::client().handshake(connection)).await.map_err(io::Error::other)?;
        let (requests, mut connection) = (opened.0, Box::pin(opened.1));
        let pings = connection.ping_pong();
        self.requests.send_replace(Some(requests));
        tokio::select! {
            ended = &mut connection => ended.map_err(io::Error::other),
            () = keepalive::unanswered(pings, &self.activity) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Tunnel {
    /// Its requests, soon.
    fn wake(&self) -> (watch::Receiver<Option<SendRequest<Bytes>>>, Arc<Activity>) {
        self.wake.notify_one();
        (self.requests.clone(), self.activity.clone())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(node) = self.tunnels.nodes().get_mut(&self.node) {
            node.open.retain(|tunnel| tunnel.id != self.id);
            node.ended = Some(Instant::now());
        }
    }
}

/// The text of an agent's answer.
async fn reason(mut body: RecvStream) -> String {
    let mut text = Vec::new();
    while text.len() < MAX_REASON_BYTES
        && let Some(Ok(data)) = body.data().await
    {
        let count = data.len().min(MAX_REASON_BYTES - text.len());
        text.extend_from_slice(&data[..count]);
    }
    String::from_utf8_lossy(&text).trim().to_owned()
}
