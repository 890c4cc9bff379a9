//! The body of a request that may be refused before it is read. In HTTP/1.1 the connection then ends with the answer, and
//! the answer has to say so: the next request of the client would meet a closed connection.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, StatusCode, Version};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

/// Whether a body was read to its end.
#[derive(Clone)]
pub(crate) struct BodyEnd(Option<Arc<AtomicBool>>);

impl BodyEnd {
    /// Adds `Connection: close` to an HTTP/1 answer whose request was not read to its end. Returns whether it did.
    pub(crate) fn announce(&self, version: Version, answer: &mut Response) -> bool {
        let unread = self.0.as_ref().is_some_and(|read| !read.load(Ordering::Relaxed));
        let closes =
            unread && version < Version::HTTP_2 && answer.status() != StatusCode::SWITCHING_PROTOCOLS;
        if closes {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        closes
    }
}

/// The body for a handler, and what tells whether the handler read it.
pub(crate) fn observed(body: Incoming) -> (Body, BodyEnd) {
    if body.is_end_stream() {
        return (Body::new(body), BodyEnd(None));
    }
    let read = Arc::new(AtomicBool::new(false));
    (Body::new(ObservedBody { body, read: read.clone() }), BodyEnd(Some(read)))
}

struct ObservedBody {
    body: Incoming,
    read: Arc<AtomicBool>,
}

impl http_body::Body for ObservedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.read.store(true, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
