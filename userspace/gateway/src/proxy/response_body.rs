//! A response's body on its way to the client; its end is the end of the request.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::activity::InProgress;
use super::endpoint_body::EndpointBody;
use super::exchange::Record;
use super::idle_timer::IdleTimer;
use super::pacer::Pacer;
use super::request_body::BodyError;
use super::upstream::Lease;
use crate::policy::Pace;

/// A response's body on its way to the client. Its drop is the end of the request.
pub(super) struct ResponseBody {
    source: Source,
    record: Option<Record>,
    open: InProgress,
    /// Boxed, as few routes have one.
    pacer: Option<Box<Pacer>>,
}

enum Source {
    Text(Option<Bytes>),
    Endpoint { body: EndpointBody, lease: Lease, timer: IdleTimer },
}

impl ResponseBody {
    pub(super) fn text(text: impl Into<Bytes>, record: Option<Record>, open: InProgress) -> ResponseBody {
        let text = Some(text.into()).filter(|text| !text.is_empty());
        ResponseBody { source: Source::Text(text), record, open, pacer: None }
    }

    pub(super) fn endpoint(
        body: EndpointBody,
        lease: Lease,
        timeout: Duration,
        record: Option<Record>,
        open: InProgress,
    ) -> ResponseBody {
        let timer = IdleTimer::new(timeout);
        ResponseBody { source: Source::Endpoint { body, lease, timer }, record, open, pacer: None }
    }

    /// The same body at a rate.
    pub(super) fn paced(mut self, pace: Option<Pace>) -> ResponseBody {
        self.pacer = pace.map(|pace| Box::new(Pacer::new(pace)));
        self
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(pacer) = &mut this.pacer {
            ready!(pacer.poll(context));
        }
        let frame = match &mut this.source {
            Source::Text(text) => text.take().map(|text| Ok(Frame::data(text))),
            Source::Endpoint { body, timer, .. } => match Pin::new(body).poll_frame(context) {
                Poll::Ready(frame) => {
                    timer.stop();
                    frame
                }
                Poll::Pending => {
                    ready!(timer.poll(context));
                    Some(Err(BodyError::Timeout))
                }
            },
        };
        if frame.is_some() {
            this.open.activity().goes_on();
        }
        if let (Some(record), Some(frame)) = (&mut this.record, &frame) {
            match frame {
                Ok(frame) => {
                    let bytes = frame.data_ref().map_or(0, Bytes::len);
                    record.sent(bytes);
                    if let Some(pacer) = &mut this.pacer {
                        pacer.sent(bytes);
                    }
                }
                Err(error) => record.failed(error),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Text(text) => text.is_none(),
            Source::Endpoint { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Source::Endpoint { body, .. } => body.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Source::Endpoint { body, lease, .. } = &mut self.source {
            lease.finish(body);
        }
    }
}
