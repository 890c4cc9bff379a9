//! One connection of a client: TLS handshake, requests, and its end when nothing happens on it.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::Method;
use ::http::header::CONTENT_LENGTH;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::authn::PeerCertificate;
use crate::coalesce::CoalescingStream;
use crate::connections::Connection;
use crate::http;
use crate::identity::PeerAddress;
use crate::request_body::observed;
use crate::state::Inner;

/// The time that a client has for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The time that an unknown client has from its handshake to its first request.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection without a request in progress is closed after this time, as upstream's. In HTTP/1.1 it includes the time
/// for the headers of the next request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// HTTP/2 clients are asked for a sign of life after this time without one. A watch may be silent for half an hour.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// The time for requests that arrive while an idle connection is closed.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_CONCURRENT_STREAMS: u32 = 250;
/// The time and the bytes in which a client has to end a request that was refused before its end.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_LINGER_BYTES: u64 = 32 << 20;

/// Serves a connection until its end, or until it must make room for another.
pub(crate) async fn run(
    acceptor: TlsAcceptor,
    server: Arc<Inner>,
    stream: TcpStream,
    address: SocketAddr,
    slot: Arc<Connection>,
) {
    let _ = stream.set_nodelay(true);
    // A tunnel may be silent for as long as it is not used.
    let _ = skep_tunnel::probe_silence(&stream);
    let counted = CountedStream { stream, _slot: slot.clone() };
    let served = async {
        if let Ok(Ok(stream)) = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(counted)).await {
            requests(server, stream, address, &slot).await;
        }
    };
    tokio::select! {
        () = served => {}
        () = slot.evicted() => {}
    }
}

async fn requests(
    server: Arc<Inner>,
    stream: TlsStream<CountedStream>,
    address: SocketAddr,
    slot: &Arc<Connection>,
) {
    let (_, session) = stream.get_ref();
    let peer = session.peer_certificates().and_then(|chain| chain.first());
    let peer = peer.map(|certificate| Arc::new(PeerCertificate::read(certificate)));
    let activity = Arc::new(Activity::default());
    let service = hyper::service::service_fn(|mut request: hyper::Request<hyper::body::Incoming>| {
        let open = activity.clone().begin();
        request.extensions_mut().insert(PeerAddress(address));
        request.extensions_mut().insert(slot.clone());
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        let (version, is_head) = (request.version(), request.method() == Method::HEAD);
        let (parts, body) = request.into_parts();
        let (body, end) = observed(body);
        // On the heap, its state is gone when the answer begins. A watch's stream keeps room for whatever its future held.
        let answered = Box::pin(http::handle(server.clone(), Request::from_parts(parts, body)));
        async move {
            let mut answer = answered.await;
            if is_head {
                answer = without_body(answer);
            }
            if end.announce(version, &mut answer) {
                open.0.leaves_body.store(true, Ordering::Relaxed);
            }
            Ok::<_, Infallible>(answer.map(|body| OpenBody { body, _open: open }))
        }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS);
    // The end of a connection is not an error of the server.
    let stream = CoalescingStream::new(stream);
    let mut connection = pin!(server.serve_connection_with_upgrades(TokioIo::new(stream.clone()), service));
    tokio::select! {
        _ = stream.drive(connection.as_mut()) => {
            if activity.leaves_body.load(Ordering::Relaxed) {
                let _ = timeout(LINGER_TIMEOUT, linger(stream)).await;
            }
            return;
        }
        () = activity.idle() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(GOODBYE_TIMEOUT, stream.drive(connection)).await;
}

/// Takes in what the client still sends after an answer to a part of it. A socket that is closed with unread data is reset,
/// and a client that is reset loses the answer (RFC 9112, 9.6).
async fn linger(stream: impl AsyncRead) {
    let _ = tokio::io::copy(&mut pin!(stream.take(MAX_LINGER_BYTES)), &mut tokio::io::sink()).await;
}

/// The answer to HEAD: its length is that of the body that GET would have (RFC 9110, 9.3.2).
fn without_body(mut answer: Response) -> Response {
    if let Some(length) = http_body::Body::size_hint(answer.body()).exact() {
        answer.headers_mut().entry(CONTENT_LENGTH).or_insert(length.into());
    }
    answer.map(|_| Body::empty())
}

/// The requests of a connection that are in progress.
#[derive(Default)]
struct Activity {
    open: AtomicUsize,
    begun: AtomicUsize,
    /// The last request was answered, and not read to its end.
    leaves_body: AtomicBool,
}

impl Activity {
    /// A request is in progress until its response was sent, or its client went away.
    fn begin(self: Arc<Activity>) -> InProgress {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        InProgress(self)
    }

    /// Returns when no request was in progress for the idle timeout. Wakes once in that time.
    async fn idle(&self) {
        let (mut seen, mut pause) = (0, FIRST_REQUEST_TIMEOUT);
        loop {
            let until = Instant::now() + pause;
            tokio::time::sleep_until(until).await;
            let begun = self.begun.load(Ordering::Relaxed);
            if begun == seen && self.open.load(Ordering::Relaxed) == 0 {
                return;
            }
            (seen, pause) = (begun, IDLE_TIMEOUT);
        }
    }
}

struct InProgress(Arc<Activity>);

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response's body, in progress until it was sent.
struct OpenBody {
    body: Body,
    _open: InProgress,
}

impl http_body::Body for OpenBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A socket that counts as open until it is closed, also after a protocol switch.
struct CountedStream {
    stream: TcpStream,
    _slot: Arc<Connection>,
}

impl AsyncRead for CountedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for CountedStream {
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
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
