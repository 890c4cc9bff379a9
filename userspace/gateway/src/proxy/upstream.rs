//! One endpoint: its connections, its health, and sending a request to it.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body::Body as _;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::timeout;

use super::endpoint_body::EndpointBody;
use super::endpoint_stream::{self, EndpointStream};
use super::http_1::{self, Connection};
use super::opened::Opener;
use super::request_body::{BodyState, RequestBody};
use super::send_error::SendError;
use crate::backend_tls::BackendTls;
use crate::config::Protocol;
use crate::health::Health;
use crate::outgoing::Outgoing;

/// Idle connections to an endpoint that are kept.
const MAX_IDLE: usize = 512;
/// After this time an idle connection is closed, and idle ones are looked for in this interval.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Of HTTP/2, as large as what a fast link has on its way.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// How long an attempt may take, and for which route it is.
#[derive(Clone, Copy)]
pub(super) struct Wait<'a> {
    pub(super) opener: Opener<'a>,
    pub(super) connect: Duration,
    /// From the request to the head of the response.
    pub(super) response: Duration,
    /// The time begins again with each piece of the request's body that the endpoint takes.
    pub(super) extends: bool,
}

/// A request that was not answered.
pub(super) struct Unanswered {
    pub(super) error: SendError,
    /// Its body, if the endpoint received nothing of it.
    pub(super) unsent: Option<RequestBody>,
}

pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    tls: Option<Arc<BackendTls>>,
    /// When it joined other endpoints, in milliseconds of the gateway's own clock; `None`: it was among the first ones.
    joined: Option<u64>,
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
    connection: Box<Connection>,
    since: Instant,
}

/// A request in progress at an endpoint.
pub(super) struct Lease {
    pub(super) upstream: Arc<Upstream>,
}

impl Lease {
    /// Another holder of the same request, for what follows its response.
    pub(super) fn share(&self) -> Lease {
        self.upstream.in_flight.fetch_add(1, Ordering::Relaxed);
        Lease { upstream: self.upstream.clone() }
    }

    /// Nothing more of the response is wanted: if it was read to its end, another request may take its connection.
    pub(super) fn finish(&self, body: &mut EndpointBody) {
        if let Some(connection) = body.release() {
            self.upstream.keep(connection);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.upstream.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Upstream {
    pub(super) fn new(
        address: SocketAddr,
        tls: Option<Arc<BackendTls>>,
        joined: Option<u64>,
        janitor: Arc<Janitor>,
    ) -> Upstream {
        Upstream {
            address,
            tls,
            joined,
            id: crate::policy::hash(&address.to_string()),
            health: Health::default(),
            idle: Mutex::default(),
            http_2: tokio::sync::Mutex::default(),
            in_flight: AtomicUsize::new(0),
            is_retired: AtomicBool::new(false),
            janitor,
        }
    }

    /// Whether it gets its part of the requests. A part that grows during `slow_start` after it joined, from a tenth on.
    pub(super) fn takes_part(&self, now_ms: u64, slow_start: Duration) -> bool {
        let Some(joined) = self.joined.filter(|_| !slow_start.is_zero()) else { return true };
        let whole = u64::try_from(slow_start.as_millis()).unwrap_or(u64::MAX);
        let age = now_ms.saturating_sub(joined);
        age >= whole || rand::random_range(0..whole) < age.max(whole / 10)
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

    /// Sends a request. `fresh`: on a new connection, since the last one failed. `at_once`: the most requests in progress.
    pub(super) async fn send(
        self: &Arc<Self>,
        head: &Outgoing,
        body: RequestBody,
        protocol: Protocol,
        fresh: bool,
        wait: &Wait<'_>,
        at_once: Option<usize>,
    ) -> Result<(Response<EndpointBody>, Lease), Unanswered> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let lease = Lease { upstream: self.clone() };
        if at_once.is_some_and(|most| before >= most) {
            return Err(Unanswered { error: SendError::Busy, unsent: Some(body) });
        }
        match protocol {
            Protocol::Http1 => self.send_http_1(head, body, fresh, wait, lease).await,
            // Boxed, since the future of a request of HTTP/1.1 is smaller.
            Protocol::H2c => Box::pin(self.send_http_2(head, body, fresh, wait, lease)).await,
        }
    }

    async fn send_http_1(
        self: &Arc<Self>,
        head: &Outgoing,
        mut body: RequestBody,
        fresh: bool,
        wait: &Wait<'_>,
        lease: Lease,
    ) -> Result<(Response<EndpointBody>, Lease), Unanswered> {
        loop {
            let kept = if fresh { None } else { self.take_idle(!body.is_end_stream()) };
            let is_kept = kept.is_some();
            let connection = match kept {
                Some(connection) => connection,
                // Boxed, since few requests open a connection and all have room for this future.
                None => match Box::pin(self.open(wait.connect, wait.opener)).await {
                    Ok(stream) => Connection::new(stream),
                    Err(error) => return Err(Unanswered { error, unsent: Some(body) }),
                },
            };
            let state = body.state().filter(|_| wait.extends);
            match http_1::send(connection, head, body, state, wait.response).await {
                Some(Ok(response)) => return Ok((response.map(EndpointBody::Http1), lease)),
                Some(Err(failed)) => match failed.unsent {
                    // The endpoint closed a connection that was kept: take the next one.
                    Some(unsent) if is_kept => body = unsent,
                    unsent => return Err(Unanswered { error: failed.error.into(), unsent }),
                },
                None => return Err(Unanswered { error: SendError::ResponseTimeout, unsent: None }),
            }
        }
    }

    /// A connection whose bytes are a client's, or HTTP/1.1.
    pub(super) async fn open(
        &self,
        limit: Duration,
        opener: Opener<'_>,
    ) -> Result<EndpointStream, SendError> {
        let stream = endpoint_stream::connect(self.address, limit, opener).await?;
        match &self.tls {
            None => Ok(EndpointStream::Plain(stream)),
            Some(tls) => {
                endpoint_stream::handshake(stream, tls, &tls.http_1, limit).await.map(EndpointStream::Tls)
            }
        }
    }

    async fn send_http_2(
        self: &Arc<Self>,
        head: &Outgoing,
        body: RequestBody,
        fresh: bool,
        wait: &Wait<'_>,
        lease: Lease,
    ) -> Result<(Response<EndpointBody>, Lease), Unanswered> {
        let mut sender = match self.http_2_sender(fresh, wait).await {
            Ok(sender) => sender,
            Err(error) => return Err(Unanswered { error, unsent: Some(body) }),
        };
        let state = body.state().filter(|_| wait.extends);
        let Some(request) = head.for_http_2(self.tls.is_some(), body) else {
            return Err(Unanswered { error: SendError::Host, unsent: None });
        };
        let answer = pin!(sender.try_send_request(request));
        match in_time(answer, state, wait.response).await {
            Some(Ok(response)) => Ok((response.map(EndpointBody::Http2), lease)),
            Some(Err(mut failed)) => {
                let unsent = failed.take_message().map(Request::into_body);
                Err(Unanswered { error: failed.into_error().into(), unsent })
            }
            None => Err(Unanswered { error: SendError::ResponseTimeout, unsent: None }),
        }
    }

    async fn http_2_sender(
        &self,
        fresh: bool,
        wait: &Wait<'_>,
    ) -> Result<http2::SendRequest<RequestBody>, SendError> {
        let mut shared = self.http_2.lock().await;
        if let Some(sender) = shared.as_ref().filter(|sender| !fresh && !sender.is_closed()) {
            return Ok(sender.clone());
        }
        // Boxed, since few requests open a connection and all have room for this future.
        let sender = Box::pin(self.open_http_2(wait)).await?;
        // A retired endpoint's last requests come alone.
        if !self.is_retired.load(Ordering::Relaxed) {
            *shared = Some(sender.clone());
        }
        Ok(sender)
    }

    async fn open_http_2(&self, wait: &Wait<'_>) -> Result<http2::SendRequest<RequestBody>, SendError> {
        let stream = TokioIo::new(self.connect_http_2(wait).await?);
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let (sender, connection) = builder.handshake(stream).await?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn connect_http_2(&self, wait: &Wait<'_>) -> Result<EndpointStream, SendError> {
        let limit = wait.connect;
        let stream = endpoint_stream::connect(self.address, limit, wait.opener).await?;
        let Some(tls) = &self.tls else { return Ok(EndpointStream::Plain(stream)) };
        let stream = endpoint_stream::handshake(stream, tls, &tls.http_2, limit).await?;
        match stream.get_ref().1.alpn_protocol() {
            Some(protocol) if protocol != b"h2" => Err(SendError::NotHttp2),
            _ => Ok(EndpointStream::Tls(stream)),
        }
    }

    /// The connection that was used last and can take a request. `asks_kernel`: see [`Connection::is_usable`].
    fn take_idle(&self, asks_kernel: bool) -> Option<Box<Connection>> {
        loop {
            let Idle { mut connection, .. } = self.idle().pop()?;
            if connection.is_usable(asks_kernel) {
                return Some(connection);
            }
        }
    }

    fn keep(self: &Arc<Self>, connection: Box<Connection>) {
        if self.is_retired.load(Ordering::Relaxed) {
            return;
        }
        let mut idle = self.idle();
        if idle.len() < MAX_IDLE {
            idle.push(Idle { connection, since: Instant::now() });
            if idle.len() == 1 {
                self.janitor.watch(self);
            }
        }
    }

    /// Closes connections that were idle for too long; whether any are left.
    fn expire(&self) -> bool {
        let mut idle = self.idle();
        idle.retain_mut(|kept| kept.since.elapsed() < IDLE_TIMEOUT && kept.connection.is_usable(false));
        !idle.is_empty()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The head of a response, if it comes in time. The time begins again with each piece of the request's body that the endpoint takes.
async fn in_time<F: Future>(
    mut answer: Pin<&mut F>,
    body: Option<Arc<BodyState>>,
    limit: Duration,
) -> Option<F::Output> {
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
