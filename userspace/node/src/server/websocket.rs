//! WebSocket clients of /exec, /attach and /portForward.
//!
//! In: v5.channel.k8s.io, which the runtime's streaming server does not support, or SPDY within WebSocket messages. Out:
//! SPDY to the runtime.

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
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
type Sink<C> = SplitSink<WebSocketStream<C>, Message>;

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

/// Relays between a v5 client and the runtime's SPDY server. The two directions wait for each other nowhere: each reads on
/// while the other cannot write.
pub(super) async fn channels<C, S>(
    socket: WebSocketStream<C>,
    server: S,
    streams: Streams,
) -> std::io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(server);
    let (mut to_client, from_client) = socket.split();
    let (writer, open) = open(writer, streams).await?;
    let (pongs_in, pongs) = mpsc::channel(MAX_WAITING_PONGS);
    let to_server = send_to_server(from_client, writer, &open, pongs);
    let to_client_all = send_to_client(reader, &mut to_client, &open, pongs_in);
    tokio::select! {
        result = to_client_all => result?,
        result = to_server => result?,
    }
    close(&mut to_client).await
}

/// Pings of the runtime that wait for their answer; further ones get none.
const MAX_WAITING_PONGS: usize = 16;

/// Each open stream with its channel.
struct Open(Vec<(u32, u8)>);

impl Open {
    fn stream_of(&self, channel: u8) -> Option<u32> {
        self.0.iter().find(|(_, c)| *c == channel).map(|(stream, _)| *stream)
    }

    fn channel_of(&self, stream: u32) -> Option<u8> {
        self.0.iter().find(|(s, _)| *s == stream).map(|(_, channel)| *channel)
    }
}

async fn open<W>(writer: W, streams: Streams) -> std::io::Result<(spdy::Writer<W>, Open)>
where
    W: AsyncWrite + Unpin,
{
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
    Ok((writer, Open(open)))
}

/// Passes the client's messages on until the client closes the connection. When the runtime takes no more, it may still
/// have output: then this waits for the other direction's end.
async fn send_to_server<C, W>(
    mut client: SplitStream<WebSocketStream<C>>,
    mut writer: spdy::Writer<W>,
    open: &Open,
    mut pongs: mpsc::Receiver<u32>,
) -> std::io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    W: AsyncWrite + Unpin,
{
    loop {
        let written = tokio::select! {
            message = client.next() => match message {
                Some(Ok(Message::Binary(bytes))) => pass_on(&mut writer, open, &bytes).await,
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(_)) => Ok(()),
                Some(Err(error)) => return Err(std::io::Error::other(error)),
            },
            Some(id) = pongs.recv() => writer.pong(id).await,
        };
        if let Err(error) = written {
            tracing::debug!(%error, "write to the runtime's stream failed");
            return std::future::pending().await;
        }
    }
}

async fn pass_on<W>(writer: &mut spdy::Writer<W>, open: &Open, message: &[u8]) -> std::io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let (stream, data, fin) = match (message.first(), message.get(1..).unwrap_or_default()) {
        (Some(&CLOSE), [STDIN, ..]) => (open.stream_of(STDIN), [].as_slice(), true),
        (Some(channel @ (&STDIN | &RESIZE)), data) => (open.stream_of(*channel), data, false),
        _ => (None, [].as_slice(), false),
    };
    match stream {
        Some(stream) => writer.data(stream, data, fin).await,
        None => Ok(()),
    }
}

/// Passes the runtime's frames on until it has finished every output or closed the connection.
async fn send_to_client<C, R>(
    mut reader: R,
    client: &mut Sink<C>,
    open: &Open,
    pongs: mpsc::Sender<u32>,
) -> std::io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + Unpin,
{
    let is_output = |channel: &u8| matches!(*channel, ERROR | STDOUT | STDERR);
    let mut outputs: Vec<u8> = open.0.iter().map(|(_, channel)| *channel).filter(is_output).collect();
    while !outputs.is_empty() {
        match spdy::read(&mut reader).await? {
            Some(spdy::Frame::Data { stream, fin, bytes }) => {
                let Some(channel) = open.channel_of(stream) else { continue };
                if !bytes.is_empty() {
                    send(client, channel, &bytes).await?;
                }
                outputs.retain(|output| !(fin && *output == channel));
            }
            Some(spdy::Frame::Reset { stream }) => {
                let channel = open.channel_of(stream);
                outputs.retain(|output| Some(*output) != channel);
            }
            Some(spdy::Frame::Ping(id)) => drop(pongs.try_send(id)),
            Some(spdy::Frame::Other) => {}
            Some(spdy::Frame::GoAway) | None => return Ok(()),
        }
    }
    Ok(())
}

async fn send<C>(client: &mut Sink<C>, channel: u8, bytes: &[u8]) -> std::io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let mut message = BytesMut::with_capacity(bytes.len() + 1);
    message.put_u8(channel);
    message.extend_from_slice(bytes);
    client.send(Message::Binary(message.freeze())).await.map_err(std::io::Error::other)
}

async fn close<C>(client: &mut Sink<C>) -> std::io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    client.send(Message::Close(Some(frame))).await.map_err(std::io::Error::other)
}

/// Relays SPDY bytes in binary messages to the runtime and back, each direction by itself.
pub(super) async fn tunnel<C, S>(socket: WebSocketStream<C>, server: S) -> std::io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = tokio::io::split(server);
    let (mut to_client, mut from_client) = socket.split();
    let up = async {
        loop {
            match from_client.next().await {
                Some(Ok(Message::Binary(bytes))) => writer.write_all(&bytes).await?,
                Some(Ok(Message::Close(_))) | None => return writer.shutdown().await,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(std::io::Error::other(error)),
            }
        }
    };
    let down = async {
        let mut buffer = BytesMut::with_capacity(BUFFER_BYTES);
        loop {
            buffer.reserve(BUFFER_BYTES);
            if reader.read_buf(&mut buffer).await? == 0 {
                return close(&mut to_client).await;
            }
            let message = Message::Binary(buffer.split().freeze());
            to_client.send(message).await.map_err(std::io::Error::other)?;
        }
    };
    tokio::select! {
        result = up => result,
        result = down => result,
    }
}

const BUFFER_BYTES: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Far more than the buffers between the ends hold.
    const MUCH: usize = 8 << 20;
    const TIMEOUT: Duration = Duration::from_secs(60);

    type Duplex = WebSocketStream<tokio::io::DuplexStream>;

    /// A socket of the agent, and the client's end.
    async fn sockets() -> (Duplex, Duplex) {
        let (near, far) = tokio::io::duplex(4096);
        let server = WebSocketStream::from_raw_socket(near, Role::Server, None).await;
        let client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
        (server, client)
    }

    #[tokio::test]
    async fn a_tunnel_that_is_full_both_ways_goes_on() {
        let (socket, client) = sockets().await;
        let (near, far) = tokio::io::duplex(4096);
        tokio::spawn(tunnel(socket, near));
        // The far end sends back whatever it gets.
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(far);
            tokio::io::copy(&mut reader, &mut writer).await
        });
        let (mut sink, mut stream) = client.split();
        let sends = async {
            for _ in 0..MUCH / (64 << 10) {
                sink.send(Message::Binary(vec![1; 64 << 10].into())).await.expect("sent");
            }
        };
        let receives = async {
            let mut got = 0;
            while got < MUCH {
                if let Some(Ok(Message::Binary(bytes))) = stream.next().await {
                    got += bytes.len();
                }
            }
        };
        let both = async { tokio::join!(sends, receives) };
        tokio::time::timeout(TIMEOUT, both).await.expect("both directions go on");
    }

    #[tokio::test]
    async fn a_command_that_echoes_its_input_gets_all_of_it() {
        let (socket, client) = sockets().await;
        let (near, far) = tokio::io::duplex(4096);
        let streams = Streams { stdin: true, stdout: true, stderr: false, tty: false };
        let relay = tokio::spawn(channels(socket, near, streams));
        // The runtime: what comes on stdin (stream 3) goes out on stdout (stream 5), with pings in between.
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(far);
            let mut answers = spdy::Writer::new(&mut writer);
            loop {
                match spdy::read(&mut reader).await.expect("read") {
                    Some(spdy::Frame::Data { stream: 3, fin, bytes }) => {
                        answers.pong(7).await.expect("pinged");
                        answers.data(5, &bytes, fin).await.expect("sent");
                        if fin {
                            answers.data(1, b"", true).await.expect("sent");
                        }
                    }
                    None => return,
                    _ => {}
                }
            }
        });
        let (mut sink, mut stream) = client.split();
        let sends = async {
            let message = [vec![STDIN], vec![1; 64 << 10]].concat();
            for _ in 0..MUCH / (64 << 10) {
                sink.send(Message::Binary(message.clone().into())).await.expect("sent");
            }
            sink.send(Message::Binary(vec![CLOSE, STDIN].into())).await.expect("sent");
        };
        let receives = async {
            let mut got = 0;
            while let Some(Ok(message)) = stream.next().await {
                match message {
                    Message::Binary(bytes) if bytes.first() == Some(&STDOUT) => got += bytes.len() - 1,
                    Message::Close(_) => break,
                    _ => {}
                }
            }
            got
        };
        let both = async { tokio::join!(sends, receives) };
        let ((), got) = tokio::time::timeout(TIMEOUT, both).await.expect("both directions go on");
        assert_eq!(got, MUCH);
        relay.await.expect("ended").expect("closed");
    }
}
