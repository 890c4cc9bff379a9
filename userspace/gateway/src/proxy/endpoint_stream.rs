//! The bytes to and from an endpoint, as they are or over TLS.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, Shutdown, SocketFlags, SocketType};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Duration, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::opened::Opener;
use super::send_error::SendError;
use crate::backend_tls::BackendTls;

pub(super) enum EndpointStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Opens a connection. `limit` is for the connection, and again for the handshake.
pub(super) async fn connect(
    address: SocketAddr,
    limit: Duration,
    opener: Opener<'_>,
) -> Result<TcpStream, SendError> {
    let stream = begin(address).and_then(TcpStream::from_std).map_err(SendError::Connect)?;
    // The flow log reads of the first packet before the endpoint has answered.
    opener.opens(stream.local_addr().map_err(SendError::Connect)?, address);
    let connected = timeout(limit, stream.writable()).await;
    connected.map_err(|_| SendError::ConnectTimeout)?.map_err(SendError::Connect)?;
    if let Some(error) = stream.take_error().map_err(SendError::Connect)? {
        return Err(SendError::Connect(error));
    }
    // Without it the connection works too, only slower.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// A connection whose first packet is sent.
fn begin(address: SocketAddr) -> io::Result<std::net::TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}

/// The handshake with the endpoint. `config`: one of those of `tls`.
pub(super) async fn handshake(
    stream: TcpStream,
    tls: &BackendTls,
    config: &Arc<ClientConfig>,
    limit: Duration,
) -> Result<Box<TlsStream<TcpStream>>, SendError> {
    let name = tls.server_name(stream.peer_addr().map_err(SendError::Connect)?.ip());
    // Boxed, since few requests open a connection and all have room for this future.
    let handshake = Box::pin(TlsConnector::from(config.clone()).connect(name, stream));
    let agreed = timeout(limit, handshake).await.map_err(|_| SendError::ConnectTimeout)?;
    agreed.map(Box::new).map_err(SendError::Handshake)
}

impl EndpointStream {
    /// Whether the endpoint neither closed nor sent anything. `asks_kernel`: what the runtime did not report yet counts too.
    pub(super) fn is_silent(&mut self, asks_kernel: bool) -> bool {
        let is_silent = match self {
            EndpointStream::Plain(stream) => {
                matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            // What belongs to TLS itself, such as tickets, is taken here.
            EndpointStream::Tls(stream) => {
                let (mut context, mut byte) = (Context::from_waker(Waker::noop()), [0]);
                Pin::new(stream).poll_read(&mut context, &mut ReadBuf::new(&mut byte)).is_pending()
            }
        };
        is_silent && (!asks_kernel || is_silent_in_kernel(self.socket()))
    }

    fn socket(&self) -> &TcpStream {
        match self {
            EndpointStream::Plain(stream) => stream,
            EndpointStream::Tls(stream) => stream.get_ref().0,
        }
    }

    pub(super) fn into_split(self) -> (EndpointReader, EndpointWriter) {
        match self {
            EndpointStream::Plain(stream) => {
                let (reader, writer) = stream.into_split();
                (EndpointReader::Plain(reader), EndpointWriter::Plain(writer))
            }
            EndpointStream::Tls(stream) => {
                let (reader, writer) = tokio::io::split(stream);
                (EndpointReader::Tls(reader), EndpointWriter::Tls(writer))
            }
        }
    }
}

fn is_silent_in_kernel(socket: &TcpStream) -> bool {
    let peeked = rustix::net::recv(socket, &mut [0][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    matches!(peeked, Err(Errno::AGAIN))
}

pub(super) enum EndpointReader {
    Plain(OwnedReadHalf),
    Tls(ReadHalf<Box<TlsStream<TcpStream>>>),
}

pub(super) enum EndpointWriter {
    Plain(OwnedWriteHalf),
    Tls(WriteHalf<Box<TlsStream<TcpStream>>>),
}

impl EndpointWriter {
    /// Nothing more is sent, and nothing is expected.
    pub(super) async fn abort(mut self) {
        match &mut self {
            EndpointWriter::Plain(writer) => {
                let _ = rustix::net::shutdown((*writer).as_ref(), Shutdown::Both);
                self.leave();
            }
            // An endpoint whose request is cut ends the connection.
            EndpointWriter::Tls(writer) => drop(tokio::io::AsyncWriteExt::shutdown(writer).await),
        }
    }

    /// Everything was sent. The endpoint may still answer: a drop would end the connection for it.
    pub(super) fn leave(self) {
        match self {
            EndpointWriter::Plain(writer) => writer.forget(),
            EndpointWriter::Tls(_) => {}
        }
    }
}

macro_rules! reads {
    ($type:ty: $($variant:path),+) => {
        impl AsyncRead for $type {
            fn poll_read(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $($variant(stream) => Pin::new(stream).poll_read(context, buffer),)+
                }
            }
        }
    };
}

macro_rules! writes {
    ($type:ty: $($variant:path),+) => {
        impl AsyncWrite for $type {
            fn poll_write(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $($variant(stream) => Pin::new(stream).poll_write(context, bytes),)+
                }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                slices: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $($variant(stream) => Pin::new(stream).poll_write_vectored(context, slices),)+
                }
            }

            fn is_write_vectored(&self) -> bool {
                match self {
                    $($variant(stream) => stream.is_write_vectored(),)+
                }
            }

            fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $($variant(stream) => Pin::new(stream).poll_flush(context),)+
                }
            }

            fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $($variant(stream) => Pin::new(stream).poll_shutdown(context),)+
                }
            }
        }
    };
}

reads!(EndpointStream: EndpointStream::Plain, EndpointStream::Tls);
writes!(EndpointStream: EndpointStream::Plain, EndpointStream::Tls);
reads!(EndpointReader: EndpointReader::Plain, EndpointReader::Tls);
writes!(EndpointWriter: EndpointWriter::Plain, EndpointWriter::Tls);
