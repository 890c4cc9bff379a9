//! One connection of a client: handshake, requests, and its end.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::Request;
use http::header::InvalidHeaderValue;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::activity::{Activity, End};
use super::gathered::Gathered;
use super::head_scan::HeadScan;
use super::on_wake::OnWake;
use super::seats::Seat;
use super::streams::Hello;
use super::tls::Handshakes;
use super::{Gateway, Shared, forward, streams};
use crate::acme::ALPN;
use crate::client_check::CheckedClient;
use crate::config::{StreamRoute, TlsAction};
use crate::counters::add;
use crate::forwarded::Forwarded;
use crate::limits::Limits;

/// HTTP/2 clients are asked for a sign of life after this time without one.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Data that a client does not acknowledge for this long ends its connection (RFC 5482).
const UNACKNOWLEDGED_MS: u32 = 60_000;
/// Streams of HTTP/2 that a client may reset before the gateway looks at them (CVE-2023-44487).
const MAX_UNSEEN_RESETS: usize = 64;
const MAX_LOCAL_RESETS: usize = 256;
/// What a client may send of bodies that are not read yet, on a stream and on a connection of HTTP/2.
const WINDOW_BYTES: u32 = 1 << 20;
/// What is kept for a stream of HTTP/2 whose client does not read.
const MAX_SEND_BYTES: usize = 256 << 10;

/// Who is at the other end, and how it got here.
pub(super) struct Client {
    pub(super) peer: SocketAddr,
    /// The listener's key in the configuration.
    pub(super) port: u16,
    pub(super) is_tls: bool,
    /// The name in the TLS handshake, in lower case.
    pub(super) server_name: Option<Box<str>>,
    /// `Some`: it was asked for a certificate.
    pub(super) checked: Option<CheckedClient>,
    /// Of its last request.
    forwarded: ArcSwapOption<Forwarded>,
}

impl Client {
    /// What endpoints are informed of. `port`: that which clients know; `authority`: host and port as the client wrote them.
    pub(super) fn forwarded(&self, port: u16, authority: &str) -> Result<Arc<Forwarded>, InvalidHeaderValue> {
        if let Some(last) = self.forwarded.load_full().filter(|last| last.is_of(port, authority)) {
            return Ok(last);
        }
        let forwarded = Arc::new(Forwarded::new(self.peer.ip(), port, self.is_tls, authority)?);
        self.forwarded.store(Some(forwarded.clone()));
        Ok(forwarded)
    }
}

/// A connection that was accepted.
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) port: u16,
    pub(super) seat: Seat,
    pub(super) entry: Entry,
}

/// What the port speaks.
pub(super) enum Entry {
    Http,
    Stream(Arc<StreamRoute>),
    Tls {
        http: Arc<Handshakes>,
        /// For what is not HTTP.
        stream: Arc<Handshakes>,
        /// The name decides what becomes of a connection, before the handshake.
        passes: bool,
    },
}

/// Serves a connection until its end; after `stop` until its requests are answered.
pub(super) async fn serve(gateway: Gateway, accepted: Accepted, stop: CancellationToken) {
    let Accepted { stream, peer, port, seat, entry } = accepted;
    let _seat = seat;
    let _count = Counted::new(&gateway.0);
    // Without these the connection works too.
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_tcp_user_timeout(&stream, UNACKNOWLEDGED_MS);
    let is_tls = matches!(entry, Entry::Tls { .. });
    let forwarded = ArcSwapOption::empty();
    let client = Client { peer, port, is_tls, server_name: None, checked: None, forwarded };
    match entry {
        Entry::Http => requests(gateway, stream, client, false, stop).await,
        Entry::Stream(route) => streams::pass(&gateway.0, stream, port, &route, stop).await,
        Entry::Tls { http, passes: false, .. } => serve_https(gateway, stream, client, http, stop).await,
        Entry::Tls { http, stream: of_streams, passes: true } => {
            let limit = gateway.0.limits.handshake_timeout;
            let hello = timeout(limit, streams::hello(&stream)).await.ok().flatten();
            match hello.and_then(|hello| action(&gateway.0, port, &hello)) {
                Some(TlsAction::Http) => serve_https(gateway, stream, client, http, stop).await,
                Some(TlsAction::Passthrough(route)) => {
                    streams::pass(&gateway.0, stream, port, &route, stop).await
                }
                Some(TlsAction::Terminate(route)) => match timeout(limit, of_streams.accept(stream)).await {
                    Ok(Ok((stream, _))) => streams::pass(&gateway.0, stream, port, &route, stop).await,
                    Ok(Err(_)) | Err(_) => add(&gateway.0.counters.failed_handshakes),
                },
                None => add(&gateway.0.counters.failed_handshakes),
            }
        }
    }
}

fn action(shared: &Shared, port: u16, hello: &Hello) -> Option<TlsAction> {
    let snapshot = shared.snapshot.load();
    let Hello { name, validates } = hello;
    // Other validations belong to the endpoints behind.
    if *validates && snapshot.challenges.tls_alpn(name).is_some() {
        return Some(TlsAction::Http);
    }
    let servers = snapshot.listeners.get(&port)?.tls.as_ref()?;
    Some(servers.find(name)?.action.clone())
}

async fn serve_https(
    gateway: Gateway,
    stream: TcpStream,
    mut client: Client,
    handshakes: Arc<Handshakes>,
    stop: CancellationToken,
) {
    match timeout(gateway.0.limits.handshake_timeout, handshakes.accept(stream)).await {
        Ok(Ok((mut stream, checked))) => {
            let (_, session) = stream.get_ref();
            // The handshake is all that a validation wants (RFC 8737, 3).
            if session.alpn_protocol() == Some(ALPN) {
                let _ = timeout(gateway.0.limits.handshake_timeout, stream.shutdown()).await;
                return;
            }
            client.server_name = session.server_name().map(|name| name.to_ascii_lowercase().into());
            client.checked = checked;
            let is_http_2 = session.alpn_protocol() == Some(b"h2");
            requests(gateway, stream, client, is_http_2, stop).await;
        }
        Ok(Err(_)) | Err(_) => add(&gateway.0.counters.failed_handshakes),
    }
}

async fn requests<S>(gateway: Gateway, stream: S, client: Client, is_http_2: bool, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = gateway.0.clone();
    let activity = Arc::new(Activity::new(is_http_2));
    let stream = ReadStream::new(stream, activity.clone(), shared.clone());
    let (client, of_requests) = (Arc::new(client), activity.clone());
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let open = of_requests.begin(gateway.0.limits.max_aborted);
        // hyper moves a service's future several times.
        Box::pin(forward::answer(gateway.clone(), client.clone(), request, open))
    });
    let server = builder(&shared.limits);
    if is_http_2 {
        let (server, stream) = (server.http2_only(), Gathered::new(stream));
        let connection = pin!(server.serve_connection(TokioIo::new(stream.clone()), service));
        let connection = until_end(connection, |end| end.graceful_shutdown(), &shared, &activity, stop);
        // The end of a connection is not an error of the gateway.
        let _ = stream.drive(pin!(connection)).await;
    } else {
        let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
        until_end(pin!(connection), |end| end.graceful_shutdown(), &shared, &activity, stop).await;
    }
}

/// Runs a connection to its end: its own, or that which its activity or `stop` says. `finish` ends it after its requests.
async fn until_end<F: Future>(
    mut connection: Pin<&mut F>,
    finish: impl FnOnce(Pin<&mut F>),
    shared: &Shared,
    activity: &Activity,
    stop: CancellationToken,
) {
    let limits = &shared.limits;
    let end = pin!(async {
        tokio::select! {
            end = activity.end(limits) => Some(end),
            () = stop.cancelled() => None,
        }
    });
    tokio::select! {
        biased;
        // The end of a connection is not an error of the gateway.
        _ = connection.as_mut() => return,
        end = OnWake::new(end) => if end == Some(End::Abuse) {
            return add(&shared.counters.abuses);
        },
    }
    finish(connection.as_mut());
    let _ = timeout(limits.drain_timeout, connection).await;
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // The activity of the connection is watched instead: this time would include that between requests.
        .header_read_timeout(None)
        // A head may have 100 fields, hyper's own bound. Another one would cost memory for each request.
        .max_buf_size(limits.max_head_bytes);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .max_header_list_size(u32::try_from(limits.max_head_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(limits.max_streams)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_send_buf_size(MAX_SEND_BYTES)
        .max_pending_accept_reset_streams(MAX_UNSEEN_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS);
    builder
}

/// An open connection in the metrics.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: &Arc<Shared>) -> Counted {
        add(&shared.counters.connections);
        shared.counters.open_connections.fetch_add(1, Ordering::Relaxed);
        Counted(shared.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let open: &AtomicUsize = &self.0.counters.open_connections;
        open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that says what was read.
struct ReadStream<S> {
    stream: S,
    activity: Arc<Activity>,
    shared: Arc<Shared>,
    scan: HeadScan,
    /// The requests that had begun when the head that is scanned did.
    scanned: usize,
    has_read: bool,
}

impl<S> ReadStream<S> {
    fn new(stream: S, activity: Arc<Activity>, shared: Arc<Shared>) -> ReadStream<S> {
        ReadStream { stream, activity, shared, scan: HeadScan::default(), scanned: 0, has_read: false }
    }

    fn read(&mut self, bytes: &[u8]) {
        // The preface of HTTP/2, when no TLS said so before (RFC 9113, 3.4).
        if !std::mem::replace(&mut self.has_read, true) && bytes.starts_with(b"PRI") {
            self.activity.set_http_2();
        }
        if self.activity.is_in_head() {
            let begun = self.activity.begun();
            if std::mem::replace(&mut self.scanned, begun) != begun {
                self.scan.restart();
            }
            self.scan.scan(bytes);
            self.activity.set_length(self.scan.has_length());
        }
        self.activity.read(bytes.len(), &self.shared.limits);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let read = buffer.filled().get(before..).unwrap_or_default();
        if !read.is_empty() {
            self.read(read);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
