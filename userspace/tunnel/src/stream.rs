//! One connection through a tunnel, at the API server's end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::counts::{Open, add};
use crate::http2;
use crate::keepalive::ActiveStream;

/// The largest piece that is copied at once.
const MAX_PIECE_BYTES: usize = 16 << 10;

/// A byte stream to an address of a node. An error says that the far connection or the tunnel broke; an end is the far
/// connection's own end. Dropped before its end, it resets the far connection.
pub struct TunnelStream {
    node: Arc<str>,
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// What arrived and was not read yet.
    rest: Bytes,
    is_shut: bool,
    open: Open,
    _active: ActiveStream,
}

impl TunnelStream {
    pub(crate) fn new(
        node: Arc<str>,
        (send, receive): (SendStream<Bytes>, RecvStream),
        open: Open,
        active: ActiveStream,
    ) -> TunnelStream {
        TunnelStream { node, send, receive, rest: Bytes::new(), is_shut: false, open, _active: active }
    }

    fn broken(&self, error: &h2::Error) -> io::Error {
        let (kind, why) = if error.is_reset() {
            (io::ErrorKind::ConnectionReset, "connection reset by peer".to_owned())
        } else {
            (
                io::ErrorKind::BrokenPipe,
                format!("the tunnel to node {} broke: {}", self.node, http2::reason(error)),
            )
        };
        io::Error::new(kind, why)
    }

    fn closed(&self) -> io::Error {
        io::Error::new(
            io::ErrorKind::BrokenPipe,
            format!("the connection through node {} is closed", self.node),
        )
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.receive.poll_data(context)) {
                Some(Ok(data)) => self.rest = data,
                Some(Err(error)) => return Poll::Ready(Err(self.broken(&error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        // It fails only for more than was received.
        let _ = self.receive.flow_control().release_capacity(count);
        add(&self.open.counters().received, count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let wanted = bytes.len().min(MAX_PIECE_BYTES);
        self.send.reserve_capacity(wanted);
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(context)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(self.broken(&error))),
                None => return Poll::Ready(Err(self.closed())),
            }
        }
        let count = self.send.capacity().min(wanted);
        let sent = self.send.send_data(Bytes::copy_from_slice(&bytes[..count]), false);
        if let Err(error) = sent {
            return Poll::Ready(Err(self.broken(&error)));
        }
        add(&self.open.counters().sent, count);
        Poll::Ready(Ok(count))
    }

    /// The tunnel's task sends what was written at once.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.is_shut, true) {
            // It fails if the stream has ended already, which is what is wanted.
            let _ = self.send.send_data(Bytes::new(), true);
        }
        Poll::Ready(Ok(()))
    }
}
