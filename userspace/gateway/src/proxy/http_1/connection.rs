//! A connection to an endpoint, and what it received that is not read yet.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

use super::super::deadline::Deadline;
use super::super::endpoint_stream::EndpointStream;

/// The room for one read at first. It grows while reads fill it.
const FIRST_READ_BYTES: usize = 8 << 10;
const MAX_READ_BYTES: usize = 128 << 10;

/// `S`: the stream, or its reading half.
pub(in super::super) struct Connection<S = EndpointStream> {
    pub(super) stream: S,
    pub(super) input: BytesMut,
    read_bytes: usize,
    /// For the head of a response.
    pub(super) deadline: Deadline,
}

impl<S> Connection<S> {
    /// Boxed, since each request moves it several times.
    pub(in super::super) fn new(stream: S) -> Box<Connection<S>> {
        let (input, read_bytes, deadline) = (BytesMut::new(), FIRST_READ_BYTES, Deadline::new());
        Box::new(Connection { stream, input, read_bytes, deadline })
    }

    /// The same input on what the stream becomes.
    pub(super) fn map<T, R>(self, turn: impl FnOnce(S) -> (T, R)) -> (Box<Connection<T>>, R) {
        let Connection { stream, input, read_bytes, deadline } = self;
        let (stream, rest) = turn(stream);
        (Box::new(Connection { stream, input, read_bytes, deadline }), rest)
    }
}

impl Connection {
    /// Whether a request may be sent: the endpoint did not close, and sent nothing that is not asked for. `asks_kernel`: what the
    /// runtime did not report yet counts too.
    pub(in super::super) fn is_usable(&mut self, asks_kernel: bool) -> bool {
        self.input.is_empty() && self.stream.is_silent(asks_kernel)
    }

    /// It waits for its next request.
    pub(in super::super) fn rest(&mut self) {
        if self.read_bytes > FIRST_READ_BYTES {
            (self.input, self.read_bytes) = (BytesMut::new(), FIRST_READ_BYTES);
        }
    }
}

impl<S: AsyncRead + Unpin> Connection<S> {
    /// Reads more input. 0: the endpoint closed.
    pub(super) fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = self.input.capacity() - self.input.len();
        if room < self.read_bytes / 2 {
            // Memory whose contents were passed on is used again.
            self.input.reserve(self.read_bytes);
        }
        let room = self.input.capacity() - self.input.len();
        let read = poll_read_buf(Pin::new(&mut self.stream), context, &mut self.input);
        if let Poll::Ready(Ok(count)) = read
            && count == room
        {
            self.read_bytes = (self.read_bytes * 2).min(MAX_READ_BYTES);
        }
        read
    }
}
