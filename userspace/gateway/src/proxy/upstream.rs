//! One endpoint: its connections, its health, and sending a request to it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::request_body::{BodyState, RequestBody};
use crate::config::Protocol;
use crate::health::Health;

/// Idle connections to an endpoint that are kept.
const MAX_IDLE: usize = 512;
/// After this time an idle connection is closed, and idle ones are looked for in this interval.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Of HTTP/2, as large as what a fast link has on its way.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const MAX_RESPONSE_HEAD_BYTES: usize = 128 << 10;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("connect failed: {0}")]
    Connect(std::io::Error),
    #[error("connect timed out")]
    ConnectTimeout,
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("no response in time")]
    ResponseTimeout,
    #[error("the backend has no endpoint")]
    NoEndpoint,
}

impl SendError {
    /// Whether the client's request failed, not the endpoint.
    pub(super) fn is_of_request(&self) -> bool {
        matches!(self, SendError::Http(error) if error.is_user())
    }
}

/// How long an attempt may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub(super) connect: Duration,
    /// From the request to the head of the response.
    pub(super) response: Duration,
    /// The time begins again with each piece of the request's body that the endpoint takes.
    pub(super) extends: bool,
}

/// A request that was not answered.
pub(super) struct Unanswered {
    pub(super) error: SendError,
    /// The endpoint received nothing of it.
    pub(super) unsent: Option<Request<RequestBody>>,
}

pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    /// Of the address; the same on every node.
    pub(super) id: u64,
    pub(super) health: Health,
    idle: Mutex<Vec<Idle>>,
    /// All requests of HTTP/2 share a connection.
    http_2: tokio::sync::Mutex<Option<http2::SendRequest<RequestBody>>>,
    in_flight: AtomicUsize,
    is_retired: AtomicBool,
    janitor: Arc<Janitor>,
}

struct Idle {
    sender: http1::SendRequest<RequestBody>,
    since: Instant,
}

/// A request in progress at an endpoint.
pub(super) struct Lease {
    pub(super) upstream: Arc<Upstream>,
    /// Of HTTP/1.1.
    connection: Option<http1::SendRequest<RequestBody>>,
}

impl Lease {
    /// Another holder of the same request, for what follows its response.
    pub(super) fn share(&self) -> Lease {
        self.upstream.in_flight.fetch_add(1, Ordering::Relaxed);
        Lease { upstream: self.upstream.clone(), connection: None }
    }

    /// The response was read to its end: another request may take the connection.
    pub(super) fn finish(&mut self) {
        if let Some(sender) = self.connection.take() {
            self.upstream.keep(sender);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.upstream.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Upstream {
    pub(super) fn new(address: SocketAddr, janitor: Arc<Janitor>) -> Upstream {
        Upstream {
            address,
            id: crate::policy::hash(&address.to_string()),
            health: Health::default(),
            idle: Mutex::default(),
            http_2: tokio::sync::Mutex::default(),
            in_flight: AtomicUsize::new(0),
            is_retired: AtomicBool::new(false),
            janitor,
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// No new request comes: idle connections close now, others with their last request.
    pub(super) fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
        self.idle().clear();
        if let Ok(mut http_2) = self.http_2.try_lock() {
            *http_2 = None;
        }
    }

    /// Sends a request. `fresh`: on a new connection, since the last one failed.
    pub(super) async fn send(
        self: &Arc<Self>,
        request: Request<RequestBody>,
        protocol: Protocol,
        fresh: bool,
        wait: &Wait,
    ) -> Result<(Response<Incoming>, Lease), Unanswered> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let lease = Lease { upstream: self.clone(), connection: None };
        match protocol {
            Protocol::Http1 => self.send_http_1(request, fresh, wait, lease).await,
            Protocol::H2c => self.send_http_2(request, fresh, wait, lease).await,
        }
    }

    async fn send_http_1(
        self: &Arc<Self>,
        mut request: Request<RequestBody>,
        fresh: bool,
        wait: &Wait,
        mut lease: Lease,
    ) -> Result<(Response<Incoming>, Lease), Unanswered> {
        loop {
            let kept = if fresh { None } else { self.take_idle() };
            let is_kept = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => match self.connect_http_1(wait).await {
                    Ok(sender) => sender,
                    Err(error) => return Err(Unanswered { error, unsent: Some(request) }),
                },
            };
            let state = request.body().state().filter(|_| wait.extends);
            let answered = in_time(sender.try_send_request(request), state, wait.response).await;
            match answered {
                Some(Ok(response)) => {
                    lease.connection = Some(sender);
                    return Ok((response, lease));
                }
                Some(Err(mut failed)) => match failed.take_message() {
                    // The endpoint closed a connection that was kept: take the next one.
                    Some(unsent) if is_kept => request = unsent,
                    unsent => return Err(Unanswered { error: failed.into_error().into(), unsent }),
                },
                None => return Err(Unanswered { error: SendError::ResponseTimeout, unsent: None }),
            }
        }
    }

    async fn connect(&self, wait: &Wait) -> Result<TokioIo<TcpStream>, SendError> {
        let connected = timeout(wait.connect, TcpStream::connect(self.address)).await;
        let stream = connected.map_err(|_| SendError::ConnectTimeout)?.map_err(SendError::Connect)?;
        // Without it the connection works too, only slower.
        let _ = stream.set_nodelay(true);
        Ok(TokioIo::new(stream))
    }

    async fn connect_http_1(&self, wait: &Wait) -> Result<http1::SendRequest<RequestBody>, SendError> {
        let stream = self.connect(wait).await?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_RESPONSE_HEAD_BYTES);
        let (sender, connection) = builder.handshake(stream).await?;
        tokio::spawn(async move {
            // What fails here fails for the request too.
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }

    async fn send_http_2(
        self: &Arc<Self>,
        request: Request<RequestBody>,
        fresh: bool,
        wait: &Wait,
        lease: Lease,
    ) -> Result<(Response<Incoming>, Lease), Unanswered> {
        let mut sender = match self.http_2_sender(fresh, wait).await {
            Ok(sender) => sender,
            Err(error) => return Err(Unanswered { error, unsent: Some(request) }),
        };
        let state = request.body().state().filter(|_| wait.extends);
        match in_time(sender.try_send_request(request), state, wait.response).await {
            Some(Ok(response)) => Ok((response, lease)),
            Some(Err(mut failed)) => {
                let unsent = failed.take_message();
                Err(Unanswered { error: failed.into_error().into(), unsent })
            }
            None => Err(Unanswered { error: SendError::ResponseTimeout, unsent: None }),
        }
    }

    async fn http_2_sender(
        &self,
        fresh: bool,
        wait: &Wait,
    ) -> Result<http2::SendRequest<RequestBody>, SendError> {
        let mut shared = self.http_2.lock().await;
        if let Some(sender) = shared.as_ref().filter(|sender| !fresh && !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let stream = self.connect(wait).await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let (sender, connection) = builder.handshake(stream).await?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        // A retired endpoint's last requests come alone.
        if !self.is_retired.load(Ordering::Relaxed) {
            *shared = Some(sender.clone());
        }
        Ok(sender)
    }

    /// The connection that was used last and can take a request.
    fn take_idle(&self) -> Option<http1::SendRequest<RequestBody>> {
        let mut idle = self.idle();
        // The last ones are those that were used last: usually the first that is looked at.
        let mut at = idle.len();
        while at > 0 {
            at -= 1;
            if idle[at].sender.is_closed() {
                idle.remove(at);
            } else if idle[at].sender.is_ready() {
                return Some(idle.remove(at).sender);
            }
        }
        None
    }

    fn keep(self: &Arc<Self>, sender: http1::SendRequest<RequestBody>) {
        if sender.is_closed() || self.is_retired.load(Ordering::Relaxed) {
            return;
        }
        let mut idle = self.idle();
        if idle.len() < MAX_IDLE {
            idle.push(Idle { sender, since: Instant::now() });
            if idle.len() == 1 {
                self.janitor.watch(self);
            }
        }
    }

    /// Closes connections that were idle for too long; whether any are left.
    fn expire(&self) -> bool {
        let mut idle = self.idle();
        idle.retain(|kept| !kept.sender.is_closed() && kept.since.elapsed() < IDLE_TIMEOUT);
        !idle.is_empty()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The head of a response, if it comes in time. The time begins again with each piece of the request's body that the endpoint takes.
async fn in_time<F: Future>(answer: F, body: Option<Arc<BodyState>>, limit: Duration) -> Option<F::Output> {
    let mut answer = std::pin::pin!(answer);
    let mut passed = 0;
    loop {
        if let Ok(answer) = timeout(limit, answer.as_mut()).await {
            return Some(answer);
        }
        let before = std::mem::replace(&mut passed, body.as_ref()?.passed.load(Ordering::Relaxed));
        if passed == before {
            return None;
        }
    }
}

/// Closes idle connections. It sleeps while there are none.
#[derive(Default)]
pub(super) struct Janitor {
    watched: Mutex<Vec<Weak<Upstream>>>,
    first: tokio::sync::Notify,
}

impl Janitor {
    fn watch(&self, upstream: &Arc<Upstream>) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if !watched.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(upstream))) {
            watched.push(Arc::downgrade(upstream));
            self.first.notify_one();
        }
    }

    /// Runs for ever.
    pub(super) async fn run(&self) {
        loop {
            self.first.notified().await;
            loop {
                tokio::time::sleep(IDLE_TIMEOUT).await;
                let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
                watched.retain(|upstream| upstream.upgrade().is_some_and(|upstream| upstream.expire()));
                if watched.is_empty() {
                    break;
                }
            }
        }
    }
}
