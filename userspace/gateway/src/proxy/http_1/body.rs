//! The body of a response, with the connection that it comes from.

use std::future::poll_fn;
use std::io::Cursor;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt as _, Chain, Join};
use tokio_util::task::AbortOnDropHandle;

use super::super::endpoint_stream::{EndpointReader, EndpointWriter};
use super::connection::Connection;
use super::upload::Upload;
use super::{Http1Error, ReadError};
use crate::headers;
use crate::http_1::{BodyReader, Framing, Piece};

/// A connection that was switched to another protocol, with what came of it behind the head.
pub(in super::super) type Switched = Join<Chain<Cursor<Bytes>, EndpointReader>, EndpointWriter>;

/// The body of a response.
pub(in super::super) struct Http1Body {
    reader: BodyReader,
    source: Source,
}

enum Source {
    /// `keeps_open`: it may have another request.
    Whole { connection: Box<Connection>, keeps_open: bool },
    /// The request's body is still being sent. The connection has no other request.
    Reading { connection: Box<Connection<EndpointReader>>, _upload: AbortOnDropHandle<()> },
    /// The connection went elsewhere.
    Released,
}

impl Http1Body {
    pub(super) fn new(connection: Box<Connection>, framing: Framing, keeps_open: bool) -> Http1Body {
        Http1Body { reader: BodyReader::new(framing), source: Source::Whole { connection, keeps_open } }
    }

    /// Of a response that came before the request's end.
    pub(super) fn while_uploading(connection: Connection, framing: Framing, upload: Upload) -> Http1Body {
        let (connection, to_endpoint) = connection.map(|stream| stream.into_split());
        let upload = AbortOnDropHandle::new(tokio::spawn(go_on(upload, to_endpoint)));
        Http1Body {
            reader: BodyReader::new(framing),
            source: Source::Reading { connection, _upload: upload },
        }
    }

    /// The connection, if the body was read to its end and another request may follow.
    pub(in super::super) fn release(&mut self) -> Option<Box<Connection>> {
        if !self.reader.is_ended() {
            return None;
        }
        match std::mem::replace(&mut self.source, Source::Released) {
            Source::Whole { mut connection, keeps_open: true } if connection.input.is_empty() => {
                connection.rest();
                Some(connection)
            }
            Source::Whole { .. } | Source::Reading { .. } | Source::Released => None,
        }
    }

    /// The connection of a response that switches protocols, if the request was sent as a whole.
    pub(in super::super) fn switch(&mut self) -> Option<Switched> {
        let Source::Whole { connection, .. } = std::mem::replace(&mut self.source, Source::Released) else {
            return None;
        };
        let Connection { stream, input, .. } = *connection;
        let (from_endpoint, to_endpoint) = stream.into_split();
        Some(tokio::io::join(Cursor::new(input.freeze()).chain(from_endpoint), to_endpoint))
    }
}

/// Sends the rest of a request's body.
async fn go_on(mut upload: Upload, mut to_endpoint: EndpointWriter) {
    let ended = poll_fn(|context| upload.poll(context, &mut to_endpoint)).await;
    match ended {
        // Without its rest the request has no response either.
        Err(Http1Error::Body(_) | Http1Error::Length) => to_endpoint.abort().await,
        _ => to_endpoint.leave(),
    }
}

impl Body for Http1Body {
    type Data = Bytes;
    type Error = ReadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReadError>>> {
        let Http1Body { reader, source } = self.get_mut();
        match source {
            Source::Whole { connection, .. } => poll_piece(reader, connection, context),
            Source::Reading { connection, .. } => poll_piece(reader, connection, context),
            Source::Released => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.reader.is_ended()
    }

    fn size_hint(&self) -> SizeHint {
        self.reader.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

fn poll_piece<S: AsyncRead + Unpin>(
    reader: &mut BodyReader,
    connection: &mut Connection<S>,
    context: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, ReadError>>> {
    loop {
        match reader.next(&mut connection.input) {
            Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
            Ok(Piece::Trailers(mut trailers)) => {
                headers::trailers(&mut trailers);
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            Ok(Piece::End) => return Poll::Ready(None),
            Ok(Piece::More) => {}
            Err(error) => return Poll::Ready(Some(Err(error.into()))),
        }
        match ready!(connection.poll_fill(context)) {
            Ok(0) if reader.close() => return Poll::Ready(None),
            Ok(0) => return Poll::Ready(Some(Err(ReadError::Closed))),
            Ok(_) => {}
            Err(error) => return Poll::Ready(Some(Err(error.into()))),
        }
    }
}
