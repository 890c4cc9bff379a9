//! The body of an endpoint's response, whatever protocol it came by.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::http_1::{Connection, Http1Body, Switched};
use super::request_body::BodyError;

pub(super) enum EndpointBody {
    Http1(Http1Body),
    Http2(Incoming),
}

impl EndpointBody {
    /// The connection, if the body was read to its end and another request may follow.
    pub(super) fn release(&mut self) -> Option<Box<Connection>> {
        match self {
            EndpointBody::Http1(body) => body.release(),
            EndpointBody::Http2(_) => None,
        }
    }

    /// The connection of a response that switches protocols.
    pub(super) fn switch(&mut self) -> Option<Switched> {
        match self {
            EndpointBody::Http1(body) => body.switch(),
            EndpointBody::Http2(_) => None,
        }
    }
}

impl Body for EndpointBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            EndpointBody::Http1(body) => Pin::new(body).poll_frame(context).map_err(BodyError::from),
            EndpointBody::Http2(body) => Pin::new(body).poll_frame(context).map_err(BodyError::from),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            EndpointBody::Http1(body) => body.is_end_stream(),
            EndpointBody::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            EndpointBody::Http1(body) => body.size_hint(),
            EndpointBody::Http2(body) => body.size_hint(),
        }
    }
}
