//! One request on a connection, until the head of its response.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Method, Response, StatusCode};

use super::super::request_body::{BodyState, RequestBody};
use super::body::Http1Body;
use super::connection::Connection;
use super::upload::Upload;
use super::{Http1Error, ReadError};
use crate::http_1::{HeadReader, ResponseHead};
use crate::outgoing::Outgoing;

/// Interim responses (RFC 9110, 15.2) before a final one.
const MAX_INTERIM: usize = 16;

/// A request without a response.
pub(in super::super) struct Failed {
    pub(in super::super) error: Http1Error,
    /// Its body, if the endpoint received nothing of it.
    pub(in super::super) unsent: Option<RequestBody>,
}

/// Sends a request, and returns when the head of its response is there; `None`: it was not within `limit`, which begins again with each
/// piece of the body that the endpoint takes if there is a `state`. Interim responses are not passed on: clients get their own.
pub(in super::super) async fn send(
    mut connection: Box<Connection>,
    head: &Outgoing,
    body: RequestBody,
    state: Option<Arc<BodyState>>,
    limit: Duration,
) -> Option<Result<Response<Http1Body>, Box<Failed>>> {
    connection.deadline.start(limit);
    let upload = Upload::new(head, body);
    let mut exchange = Exchange {
        connection,
        upload,
        progress: Progress::Uploads,
        heads: HeadReader::default(),
        interim: 0,
    };
    let passed = || state.as_ref().map_or(0, |state| state.passed.load(Ordering::Relaxed));
    let head = poll_fn(|context| match exchange.poll(context, &head.method) {
        Poll::Ready(head) => Poll::Ready(Some(head)),
        Poll::Pending => exchange.connection.deadline.poll(context, passed).map(|()| None),
    });
    Some(match head.await? {
        Ok(head) => Ok(exchange.respond(head)),
        Err(error) => Err(Box::new(Failed { error, unsent: exchange.upload.unsent() })),
    })
}

struct Exchange {
    connection: Box<Connection>,
    upload: Upload,
    progress: Progress,
    heads: HeadReader,
    interim: usize,
}

/// Of the request.
enum Progress {
    Uploads,
    Sent,
    /// The endpoint takes no more. It may have answered before.
    Broken(Option<io::Error>),
}

impl Exchange {
    fn poll(&mut self, context: &mut Context<'_>, method: &Method) -> Poll<Result<ResponseHead, Http1Error>> {
        if let Progress::Uploads = self.progress {
            match self.upload.poll(context, &mut self.connection.stream) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.progress = Progress::Sent,
                Poll::Ready(Err(Http1Error::Write(error))) => self.progress = Progress::Broken(Some(error)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        match ready!(self.poll_head(context, method)) {
            Ok(head) => Poll::Ready(Ok(head)),
            Err(error) => Poll::Ready(Err(match (&mut self.progress, error) {
                // It says more than the end of the connection that followed.
                (Progress::Broken(failed), ReadError::Io(_) | ReadError::Closed) if failed.is_some() => {
                    failed.take().map_or(Http1Error::Read(ReadError::Closed), Http1Error::Write)
                }
                (_, error) => Http1Error::Read(error),
            })),
        }
    }

    fn poll_head(
        &mut self,
        context: &mut Context<'_>,
        method: &Method,
    ) -> Poll<Result<ResponseHead, ReadError>> {
        loop {
            while !self.connection.input.is_empty() {
                let Some(head) = self.heads.next(&mut self.connection.input, method)? else { break };
                if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Ok(head));
                }
                self.interim += 1;
                if self.interim > MAX_INTERIM {
                    return Poll::Ready(Err(ReadError::Interim));
                }
            }
            if ready!(self.connection.poll_fill(context))? == 0 {
                return Poll::Ready(Err(ReadError::Closed));
            }
        }
    }

    fn respond(self, head: ResponseHead) -> Response<Http1Body> {
        let Exchange { connection, upload, progress, .. } = self;
        let ResponseHead { status, headers, framing, keeps_open } = head;
        let body = match progress {
            Progress::Sent => Http1Body::new(connection, framing, keeps_open),
            Progress::Broken(_) => Http1Body::new(connection, framing, false),
            Progress::Uploads => Http1Body::while_uploading(*connection, framing, upload),
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}
