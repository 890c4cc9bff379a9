//! WebSocket clients of /exec, /attach and /portForward.
//!
//! In: v5.channel.k8s.io, which the runtime's streaming server does not support, or SPDY within WebSocket messages. Out:
//! SPDY to the runtime.

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, frame::coding::CloseCode};

use super::answer::{Body, full, text};
use super::spdy;

pub(super) const V5: &str = "v5.channel.k8s.io";
pub(super) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// The streams that the client requested.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streams {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Whether the request is a WebSocket handshake that offers `protocol`.
pub(super) fn offers(request: &Request<Incoming>, protocol: &str) -> bool {
    let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    header("upgrade").eq_ignore_ascii_case("websocket")
        && request
            .headers()
            .get_all("sec-websocket-protocol")
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .any(|offered| offered.trim() == protocol)
}

/// Accepts the handshake; `work` receives the socket after the upgrade.
pub(super) fn accept<F>(
    mut request: Request<Incoming>,
    protocol: &'static str,
    work: impl FnOnce(Socket) -> F + Send + 'static,
) -> Response<Body>
where
    F: Future<Output = std::io::Result<()>> + Send,
{
    let Some(key) = request.headers().get("sec-websocket-key").cloned() else {
        return text(StatusCode::BAD_REQUEST, "no Sec-WebSocket-Key");
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                let socket =
                    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
                if let Err(error) = work(socket).await {
                    tracing::debug!(%error, "stream failed");
                }
            }
            Err(error) => tracing::debug!(%error, "upgrade failed"),
        }
    });
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    let set = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-protocol", protocol)];
    for (name, value) in set {
        headers.insert(name, http::HeaderValue::from_static(value));
    }
    if let Ok(value) = http::HeaderValue::from_str(&accept_key(key.as_bytes())) {
        headers.insert("sec-websocket-accept", value);
    }
    response
}

/// RFC 6455, section 4.2.2.
fn accept_key(key: &[u8]) -> String {
    tokio_tungstenite::tungstenite::handshake::derive_accept_key(key)
}

/// Relays between a v5 client and the runtime's SPDY server.
pub(super) async fn channels<S>(mut socket: Socket, server: S, streams: Streams) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(server);
    let mut relay = Relay::open(writer, streams).await?;
    let (sender, mut frames) = mpsc::channel(16);
    let reading = tokio::spawn(read_all(reader, sender));
    while !relay.outputs.is_empty() {
        let goes_on = tokio::select! {
            message = socket.next() => relay.send_to_server(message).await?,
            frame = frames.recv() => relay.send_to_client(frame, &mut socket).await?,
        };
        if !goes_on {
            break;
        }
    }
    reading.abort();
    close(&mut socket).await
}

/// The SPDY side of a relay.
struct Relay<W> {
    writer: spdy::Writer<W>,
    /// Each open stream with its channel.
    open: Vec<(u32, u8)>,
    /// Channels that the runtime has not finished.
    outputs: Vec<u8>,
}

impl<W: AsyncWrite + Unpin> Relay<W> {
    async fn open(writer: W, streams: Streams) -> std::io::Result<Relay<W>> {
        let mut writer = spdy::Writer::new(writer);
        // The runtime expects the error stream first.
        let kinds = [
            (true, "error", ERROR),
            (streams.stdin, "stdin", STDIN),
            (streams.stdout, "stdout", STDOUT),
            (streams.stderr && !streams.tty, "stderr", STDERR),
            (streams.tty, "resize", RESIZE),
        ];
        let mut open = Vec::new();
        for (_, kind, channel) in kinds.into_iter().filter(|(requested, ..)| *requested) {
            open.push((writer.open(&[("streamtype", kind)]).await?, channel));
        }
        let is_output = |channel: &u8| matches!(*channel, ERROR | STDOUT | STDERR);
        let outputs = open.iter().map(|(_, channel)| *channel).filter(is_output).collect();
        Ok(Relay { writer, open, outputs })
    }

    fn stream_of(&self, channel: u8) -> Option<u32> {
        self.open.iter().find(|(_, c)| *c == channel).map(|(stream, _)| *stream)
    }

    fn channel_of(&self, stream: u32) -> Option<u8> {
        self.open.iter().find(|(s, _)| *s == stream).map(|(_, channel)| *channel)
    }

    /// Passes a client's message on. False when the client has closed the connection.
    async fn send_to_server(
        &mut self,
        message: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>,
    ) -> std::io::Result<bool> {
        let bytes = match message {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Close(_))) | None => return Ok(false),
            Some(Ok(_)) => return Ok(true),
            Some(Err(error)) => return Err(std::io::Error::other(error)),
        };
        match (bytes.first(), bytes.get(1..).unwrap_or_default()) {
            (Some(&CLOSE), [STDIN, ..]) => {
                if let Some(stream) = self.stream_of(STDIN) {
                    self.writer.data(stream, &[], true).await?;
                }
            }
            (Some(channel @ (&STDIN | &RESIZE)), data) => {
                if let Some(stream) = self.stream_of(*channel) {
                    self.writer.data(stream, data, false).await?;
                }
            }
            _ => {}
        }
        Ok(true)
    }

    /// Passes a frame of the runtime on. False when the runtime has closed the connection.
    async fn send_to_client(
        &mut self,
        frame: Option<spdy::Frame>,
        socket: &mut Socket,
    ) -> std::io::Result<bool> {
        match frame {
            Some(spdy::Frame::Data { stream, fin, bytes }) => {
                let Some(channel) = self.channel_of(stream) else { return Ok(true) };
                if !bytes.is_empty() {
                    send(socket, channel, &bytes).await?;
                }
                self.outputs.retain(|output| !(fin && *output == channel));
            }
            Some(spdy::Frame::Reset { stream }) => {
                let channel = self.channel_of(stream);
                self.outputs.retain(|output| Some(*output) != channel);
            }
            Some(spdy::Frame::Ping(id)) => self.writer.pong(id).await?,
            Some(spdy::Frame::Other) => {}
            Some(spdy::Frame::GoAway) | None => return Ok(false),
        }
        Ok(true)
    }
}

async fn read_all<R: AsyncRead + Unpin>(mut reader: R, frames: mpsc::Sender<spdy::Frame>) {
    while let Ok(Some(frame)) = spdy::read(&mut reader).await {
        if frames.send(frame).await.is_err() {
            return;
        }
    }
}

async fn send(socket: &mut Socket, channel: u8, bytes: &[u8]) -> std::io::Result<()> {
    let mut message = BytesMut::with_capacity(bytes.len() + 1);
    message.put_u8(channel);
    message.extend_from_slice(bytes);
    socket.send(Message::Binary(message.freeze())).await.map_err(std::io::Error::other)
}

async fn close(socket: &mut Socket) -> std::io::Result<()> {
    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    socket.close(Some(frame)).await.map_err(std::io::Error::other)
}

/// Relays SPDY bytes in binary messages to the runtime and back.
pub(super) async fn tunnel<S>(mut socket: Socket, server: S) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = tokio::io::split(server);
    let mut buffer = BytesMut::with_capacity(32 << 10);
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) => writer.write_all(&bytes).await?,
                Some(Ok(Message::Close(_))) | None => return writer.shutdown().await,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(std::io::Error::other(error)),
            },
            read = reader.read_buf(&mut buffer) => {
                if read? == 0 {
                    return close(&mut socket).await;
                }
                let bytes = buffer.split().freeze();
                socket.send(Message::Binary(bytes)).await.map_err(std::io::Error::other)?;
            }
        }
    }
}
