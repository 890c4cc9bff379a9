//! A request on its way to an endpoint: its head, and its body as it comes.

use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::header::TRAILER;
use http_body::{Body as _, Frame};
use tokio::io::AsyncWrite;

use super::super::request_body::RequestBody;
use super::Http1Error;
use crate::headers;
use crate::http_1::{Length, write_field, write_head};
use crate::outgoing::Outgoing;

/// A piece of a body up to this size is copied behind what is to be sent; a larger one is sent from where it is.
const MAX_COPIED_BYTES: usize = 8 << 10;
/// What is gathered before it is sent.
const MAX_GATHERED_BYTES: usize = 16 << 10;

/// Sends a request. `poll` is called until it is ready.
pub(super) struct Upload {
    body: RequestBody,
    out: BytesMut,
    /// Sent after `out`.
    data: Bytes,
    /// For a body with a length: what is to come.
    length: Length,
    has_trailers: bool,
    is_ended: bool,
    /// The endpoint may have received a part.
    pub(super) has_sent: bool,
    /// The body was asked for a piece, and answered.
    has_begun: bool,
}

impl Upload {
    pub(super) fn new(head: &Outgoing, body: RequestBody) -> Upload {
        let length = body.size_hint().exact().map_or(Length::Unknown, Length::Known);
        let mut out = BytesMut::new();
        write_head(head, length, &mut out);
        let is_ended = length == Length::Known(0);
        Upload {
            body,
            out,
            data: Bytes::new(),
            length,
            has_trailers: !is_ended && head.headers.contains_key(TRAILER),
            is_ended,
            has_sent: false,
            has_begun: false,
        }
    }

    /// The body, if nothing of the request was sent and nothing of the body was taken.
    pub(super) fn unsent(self) -> Option<RequestBody> {
        (!self.has_sent && !self.has_begun).then_some(self.body)
    }

    /// Sends what can be sent now; ready when everything was.
    pub(super) fn poll<W: AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut W,
    ) -> Poll<Result<(), Http1Error>> {
        loop {
            self.gather(context)?;
            if self.out.is_empty() && self.data.is_empty() {
                // TLS may hold what it was given.
                ready!(Pin::new(&mut *stream).poll_flush(context)).map_err(Http1Error::Write)?;
                return if self.is_ended { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            let sent = match self.data.is_empty() {
                true => Pin::new(&mut *stream).poll_write(context, &self.out),
                false => {
                    let slices = [IoSlice::new(&self.out), IoSlice::new(&self.data)];
                    Pin::new(&mut *stream).poll_write_vectored(context, &slices)
                }
            };
            match ready!(sent) {
                Ok(0) => return Poll::Ready(Err(Http1Error::Write(io::ErrorKind::WriteZero.into()))),
                Ok(count) => self.sent(count),
                Err(error) => return Poll::Ready(Err(Http1Error::Write(error))),
            }
        }
    }

    fn sent(&mut self, count: usize) {
        self.has_sent = true;
        let of_out = count.min(self.out.len());
        self.out.advance(of_out);
        if count > of_out {
            self.data.advance(count - of_out);
            if self.data.is_empty() {
                self.end_chunk();
            }
        }
    }

    /// Takes pieces of the body until there is enough to send.
    fn gather(&mut self, context: &mut Context<'_>) -> Result<(), Http1Error> {
        while !self.is_ended && self.data.is_empty() && self.out.len() < MAX_GATHERED_BYTES {
            if self.body.is_end_stream() {
                return self.end(None);
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else { return Ok(()) };
            // After an error too: a body that failed would be an empty one the next time.
            self.has_begun = true;
            match frame.transpose().map_err(Http1Error::Body)?.map(Frame::into_data) {
                Some(Ok(data)) => self.add(data)?,
                Some(Err(frame)) => return self.end(frame.into_trailers().ok()),
                None => return self.end(None),
            }
        }
        Ok(())
    }

    fn add(&mut self, data: Bytes) -> Result<(), Http1Error> {
        // A chunk without data would be the last one.
        if data.is_empty() {
            return Ok(());
        }
        match &mut self.length {
            Length::Known(left) => {
                let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                *left = left.checked_sub(length).ok_or(Http1Error::Length)?;
                self.is_ended = *left == 0;
            }
            // Memory grows: it does not fail.
            Length::Unknown => drop(write!(self.out, "{:x}\r\n", data.len())),
        }
        if data.len() > MAX_COPIED_BYTES {
            self.data = data;
        } else {
            self.out.put(data);
            self.end_chunk();
        }
        Ok(())
    }

    fn end_chunk(&mut self) {
        if self.length == Length::Unknown {
            self.out.put_slice(b"\r\n");
        }
    }

    fn end(&mut self, trailers: Option<http::HeaderMap>) -> Result<(), Http1Error> {
        self.is_ended = true;
        match self.length {
            Length::Known(0) => return Ok(()),
            Length::Known(_) => return Err(Http1Error::Length),
            Length::Unknown => self.out.put_slice(b"0\r\n"),
        }
        if let Some(mut trailers) = trailers.filter(|_| self.has_trailers) {
            headers::trailers(&mut trailers);
            for (name, value) in &trailers {
                write_field(name, value, &mut self.out);
            }
        }
        self.out.put_slice(b"\r\n");
        Ok(())
    }
}
