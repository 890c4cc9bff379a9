//! Bodies that pass, with what is known of them at their end.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::activity::{Activity, InProgress};
use super::exchange::Record;
use super::upstream::Lease;

/// Why a body ends before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("no data in time")]
    Timeout,
    #[error("the body is too large")]
    TooLarge,
}

/// What is known of a request's body while it is on its way.
#[derive(Debug, Default)]
pub(super) struct BodyState {
    pub(super) too_large: AtomicBool,
    pub(super) timed_out: AtomicBool,
    /// Pieces that were passed on.
    pub(super) passed: AtomicUsize,
}

/// A request's body on its way to an endpoint.
pub(super) enum RequestBody {
    Empty,
    Streamed(Box<StreamedBody>),
}

pub(super) struct StreamedBody {
    body: Incoming,
    /// Bytes that may still come; `None`: any number.
    left: Option<u64>,
    timer: IdleTimer,
    state: Arc<BodyState>,
    activity: Arc<Activity>,
}

impl RequestBody {
    pub(super) fn new(
        body: Incoming,
        max_bytes: Option<u64>,
        timeout: Duration,
        activity: &Arc<Activity>,
    ) -> (RequestBody, Arc<BodyState>) {
        let state = Arc::new(BodyState::default());
        if body.is_end_stream() {
            return (RequestBody::Empty, state);
        }
        let timer = IdleTimer::new(timeout);
        let (left, activity) = (max_bytes, activity.clone());
        let streamed = StreamedBody { body, left, timer, state: state.clone(), activity };
        (RequestBody::Streamed(Box::new(streamed)), state)
    }
}

impl RequestBody {
    /// Pieces that were passed on.
    pub(super) fn state(&self) -> Option<Arc<BodyState>> {
        match self {
            RequestBody::Empty => None,
            RequestBody::Streamed(streamed) => Some(streamed.state.clone()),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let RequestBody::Streamed(streamed) = self.get_mut() else { return Poll::Ready(None) };
        match Pin::new(&mut streamed.body).poll_frame(context) {
            Poll::Ready(frame) => {
                streamed.timer.stop();
                Poll::Ready(frame.map(|frame| streamed.checked(frame?)))
            }
            Poll::Pending => {
                ready!(streamed.timer.poll(context));
                streamed.state.timed_out.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(BodyError::Timeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Streamed(streamed) => streamed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Streamed(streamed) => streamed.body.size_hint(),
        }
    }
}

impl StreamedBody {
    fn checked(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
        self.state.passed.fetch_add(1, Ordering::Relaxed);
        // A frame without data is no progress.
        if frame.data_ref().is_none_or(|data| !data.is_empty()) {
            self.activity.goes_on();
        }
        if let (Some(left), Some(data)) = (&mut self.left, frame.data_ref()) {
            let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
            match left.checked_sub(length) {
                Some(less) => *left = less,
                None => {
                    self.state.too_large.store(true, Ordering::Relaxed);
                    return Err(BodyError::TooLarge);
                }
            }
        }
        Ok(frame)
    }
}

/// A response's body on its way to the client. Its drop is the end of the request.
pub(super) struct ResponseBody {
    source: Source,
    record: Option<Record>,
    open: InProgress,
}

enum Source {
    Text(Option<Bytes>),
    Endpoint { body: Incoming, lease: Lease, timer: IdleTimer, ended: bool },
}

impl ResponseBody {
    pub(super) fn text(text: &'static str, record: Option<Record>, open: InProgress) -> ResponseBody {
        let text = Some(Bytes::from_static(text.as_bytes())).filter(|text| !text.is_empty());
        ResponseBody { source: Source::Text(text), record, open }
    }

    pub(super) fn endpoint(
        body: Incoming,
        lease: Lease,
        timeout: Duration,
        record: Option<Record>,
        open: InProgress,
    ) -> ResponseBody {
        let timer = IdleTimer::new(timeout);
        ResponseBody { source: Source::Endpoint { body, lease, timer, ended: false }, record, open }
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
        let frame = match &mut this.source {
            Source::Text(text) => text.take().map(|text| Ok(Frame::data(text))),
            Source::Endpoint { body, timer, ended, .. } => match Pin::new(body).poll_frame(context) {
                Poll::Ready(frame) => {
                    timer.stop();
                    *ended = frame.is_none();
                    frame.map(|frame| frame.map_err(BodyError::from))
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
                Ok(frame) => record.sent(frame.data_ref().map_or(0, Bytes::len)),
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
        if let Source::Endpoint { body, lease, ended, .. } = &mut self.source
            && (*ended || body.is_end_stream())
        {
            lease.finish();
        }
    }
}

/// The time between two pieces of a body. It runs only while there is none.
struct IdleTimer {
    timeout: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    is_running: bool,
}

impl IdleTimer {
    fn new(timeout: Duration) -> IdleTimer {
        IdleTimer { timeout, sleep: None, is_running: false }
    }

    fn stop(&mut self) {
        self.is_running = false;
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let until = Instant::now() + self.timeout;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if !self.is_running {
            sleep.as_mut().reset(until);
            self.is_running = true;
        }
        sleep.as_mut().poll(context)
    }
}
