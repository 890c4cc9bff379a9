//! One tunnel: takes CONNECT requests, and opens a TCP connection for each that is permitted.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Reach;
use crate::address::{is_dialable, target};
use crate::counts::{Counters, Open, add};
use crate::http2;
use crate::keepalive::{self, Activity};

const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest piece that is read at once, and the smallest buffer for it.
const MAX_PIECE_BYTES: usize = 16 << 10;
const MIN_PIECE_BYTES: usize = 4 << 10;

/// Serves a tunnel on an upgraded connection until one end closes it or the server is silent.
pub async fn serve<T>(connection: T, reach: Arc<dyn Reach>) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    run(connection, &reach, &Arc::default(), &Notify::new()).await
}

/// As [`serve`]. `leave` asks for its end once its connections have ended.
pub(super) async fn run<T>(
    connection: T,
    reach: &Arc<dyn Reach>,
    counters: &Arc<Counters>,
    leave: &Notify,
) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    // The server may never speak: then this waits.
    let opening = Box::pin(http2::server().handshake(connection));
    let mut connection = tokio::select! {
        opened = opening => opened.map_err(io::Error::other)?,
        () = leave.notified() => return Ok(()),
    };
    let (pings, activity) = (connection.ping_pong(), Arc::new(Activity::default()));
    let mut silent = std::pin::pin!(keepalive::unanswered(pings, &activity));
    // They end with the tunnel.
    let mut streams = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = leave.notified() => {
                connection.graceful_shutdown();
                continue;
            }
            Some(_) = streams.join_next() => continue,
            () = &mut silent => return Err(io::ErrorKind::TimedOut.into()),
        };
        match accepted {
            None => return Ok(()),
            Some(Err(error)) => return Err(io::Error::other(error)),
            Some(Ok((request, respond))) => {
                let active = activity.stream();
                let connected = connect(request, respond, reach.clone(), counters.clone());
                streams.spawn(async move {
                    connected.await;
                    drop(active);
                });
            }
        }
    }
}

async fn connect(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    reach: Arc<dyn Reach>,
    counters: Arc<Counters>,
) {
    match open(&request, &*reach).await {
        Ok(stream) => {
            if let Ok(send) = respond.send_response(Response::new(()), false) {
                pump(stream, send, request.into_body(), counters.stream()).await;
            }
        }
        Err((code, why)) => {
            let counter = if code == StatusCode::FORBIDDEN { &counters.refused } else { &counters.failed };
            add(counter, 1);
            tracing::debug!(target = %request.uri(), %why, "connection for an API server failed");
            let mut response = Response::new(());
            *response.status_mut() = code;
            if let Ok(mut send) = respond.send_response(response, false) {
                // The server may have given up.
                let _ = send.send_data(Bytes::from(why), true);
            }
        }
    }
}

/// Opens what a request asks for, or says with which code and why not.
async fn open(request: &Request<RecvStream>, reach: &dyn Reach) -> Result<TcpStream, (StatusCode, String)> {
    if request.method() != Method::CONNECT {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "only CONNECT is served".to_owned()));
    }
    let Some(address) = target(request.uri()) else {
        return Err((StatusCode::BAD_REQUEST, "the target is not an address with a port".to_owned()));
    };
    if !is_dialable(address.ip()) || !reach.permits(address) {
        return Err((
            StatusCode::FORBIDDEN,
            format!("{address} is served neither by this node's agent nor by a pod on it"),
        ));
    }
    dial(address).await.map_err(|why| (StatusCode::BAD_GATEWAY, format!("dial tcp {address}: {why}")))
}

async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let connected = timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await;
    let stream = connected.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "i/o timeout"))??;
    // Only latency depends on it.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Carries bytes both ways until both ends are done, or one breaks: then both break.
async fn pump(stream: TcpStream, mut send: SendStream<Bytes>, receive: RecvStream, open: Open) {
    let (from, to) = stream.into_split();
    let carried = {
        let both = async { tokio::try_join!(upward(from, &mut send, &open), downward(receive, to, &open)) };
        both.await
    };
    if carried.is_err() {
        // RFC 9113, 8.5: an error of the TCP connection.
        send.send_reset(Reason::CONNECT_ERROR);
    }
}

/// From the node to the server. Holds no buffer while nothing arrives.
async fn upward(from: OwnedReadHalf, send: &mut SendStream<Bytes>, open: &Open) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        // Small pieces share a buffer: what waits for the server takes about as much memory as it has bytes.
        if buffer.capacity() < MIN_PIECE_BYTES {
            buffer = BytesMut::with_capacity(MAX_PIECE_BYTES);
        }
        match from.try_read_buf(&mut buffer) {
            Ok(0) => return send.send_data(Bytes::new(), true).map_err(io::Error::other),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                buffer = BytesMut::new();
                from.readable().await?;
                continue;
            }
            Err(error) => return Err(error),
        }
        let mut data = buffer.split().freeze();
        while !data.is_empty() {
            let count = capacity(send, data.len()).await?;
            add(&open.counters().sent, count);
            send.send_data(data.split_to(count), false).map_err(io::Error::other)?;
        }
    }
}

/// Waits until at least one byte of `wanted` may be sent; at most `wanted`.
async fn capacity(send: &mut SendStream<Bytes>, wanted: usize) -> io::Result<usize> {
    send.reserve_capacity(wanted);
    while send.capacity() == 0 {
        match std::future::poll_fn(|context| send.poll_capacity(context)).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(io::Error::other(error)),
            None => return Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
    Ok(send.capacity().min(wanted))
}

/// From the server to the node.
async fn downward(mut receive: RecvStream, mut to: OwnedWriteHalf, open: &Open) -> io::Result<()> {
    while let Some(data) = receive.data().await {
        let data = data.map_err(io::Error::other)?;
        to.write_all(&data).await?;
        add(&open.counters().received, data.len());
        // It fails only for more than was received.
        let _ = receive.flow_control().release_capacity(data.len());
    }
    to.shutdown().await
}
