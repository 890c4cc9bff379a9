//! A request's body on its way to an endpoint, with what is known of it meanwhile.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::activity::Activity;
use super::http_1::ReadError;
use super::idle_timer::IdleTimer;

/// Why a body ends before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// Of the client, or of an endpoint that speaks HTTP/2.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Endpoint(#[from] ReadError),
    #[error("no data in time")]
    Timeout,
    #[error("the body is too large")]
    TooLarge,
    #[error("the copy fell behind its original")]
    Behind,
}

/// What is known of a request's body while it is on its way.
#[derive(Debug, Default)]
pub(super) struct BodyState {
    pub(super) too_large: AtomicBool,
    pub(super) timed_out: AtomicBool,
    /// Pieces that were passed on.
    pub(super) passed: AtomicUsize,
}

/// Pieces of a body that a copy of it may be behind.
const MAX_BEHIND: usize = 64;

/// A request's body on its way to an endpoint.
pub(super) enum RequestBody {
    Empty,
    /// It was read whole, so that it can be sent again.
    Whole(Option<Bytes>),
    Streamed(Box<StreamedBody>),
    /// Of a streamed one. `None` is the end.
    Copy(mpsc::Receiver<Option<Bytes>>),
}

pub(super) struct StreamedBody {
    body: Incoming,
    /// Bytes that may still come; `None`: any number.
    left: Option<u64>,
    timer: IdleTimer,
    state: Arc<BodyState>,
    activity: Arc<Activity>,
    copies: Vec<mpsc::Sender<Option<Bytes>>>,
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
        let streamed = StreamedBody { body, left, timer, state: state.clone(), activity, copies: Vec::new() };
        (RequestBody::Streamed(Box::new(streamed)), state)
    }
}

impl RequestBody {
    /// It may have no more than this many bytes.
    pub(super) fn limit(&mut self, max_bytes: u64) {
        if let RequestBody::Streamed(streamed) = self {
            streamed.left = Some(streamed.left.map_or(max_bytes, |left| left.min(max_bytes)));
        }
    }

    /// The time between two of its pieces.
    pub(super) fn wait(&mut self, timeout: Duration) {
        if let RequestBody::Streamed(streamed) = self {
            streamed.timer = IdleTimer::new(timeout);
        }
    }

    /// Pieces that were passed on.
    pub(super) fn state(&self) -> Option<Arc<BodyState>> {
        match self {
            RequestBody::Empty | RequestBody::Whole(_) | RequestBody::Copy(_) => None,
            RequestBody::Streamed(streamed) => Some(streamed.state.clone()),
        }
    }

    /// Reads a body that says that it is this small, so that it can be sent again. Others stay as they are.
    pub(super) async fn whole(mut self, max_bytes: usize) -> Result<RequestBody, BodyError> {
        let is_small = |upper: u64| usize::try_from(upper).is_ok_and(|upper| upper <= max_bytes);
        if !matches!(self, RequestBody::Streamed(_)) || !self.size_hint().upper().is_some_and(is_small) {
            return Ok(self);
        }
        let mut read = Vec::new();
        while let Some(frame) = poll_fn(|context| Pin::new(&mut self).poll_frame(context)).await {
            if let Ok(data) = frame?.into_data() {
                read.extend_from_slice(&data);
            }
        }
        Ok(RequestBody::Whole(Some(read.into())))
    }

    /// The same body once more; `None` if it is not here as a whole.
    pub(super) fn again(&self) -> Option<RequestBody> {
        match self {
            RequestBody::Empty => Some(RequestBody::Empty),
            RequestBody::Whole(bytes) => Some(RequestBody::Whole(bytes.clone())),
            RequestBody::Streamed(_) | RequestBody::Copy(_) => None,
        }
    }

    /// A body that gets what this one passes on.
    pub(super) fn copy(&mut self) -> RequestBody {
        let RequestBody::Streamed(streamed) = self else {
            return self.again().unwrap_or(RequestBody::Empty);
        };
        let (copy, pieces) = mpsc::channel(MAX_BEHIND);
        streamed.copies.push(copy);
        RequestBody::Copy(pieces)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let streamed = match self.get_mut() {
            RequestBody::Empty => return Poll::Ready(None),
            RequestBody::Whole(bytes) => {
                return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))));
            }
            RequestBody::Copy(pieces) => {
                return Poll::Ready(match ready!(pieces.poll_recv(context)) {
                    Some(Some(bytes)) => Some(Ok(Frame::data(bytes))),
                    Some(None) => None,
                    None => Some(Err(BodyError::Behind)),
                });
            }
            RequestBody::Streamed(streamed) => streamed,
        };
        match Pin::new(&mut streamed.body).poll_frame(context) {
            Poll::Ready(frame) => {
                streamed.timer.stop();
                let frame = frame.map(|frame| streamed.checked(frame?));
                streamed.pass_on(frame.as_ref());
                Poll::Ready(frame)
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
            RequestBody::Whole(bytes) => bytes.is_none(),
            RequestBody::Streamed(streamed) => streamed.body.is_end_stream(),
            RequestBody::Copy(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            RequestBody::Copy(_) => SizeHint::default(),
            RequestBody::Streamed(streamed) => streamed.body.size_hint(),
        }
    }
}

impl StreamedBody {
    /// Hands the piece to the copies. One that has no room for it is given up.
    fn pass_on(&mut self, frame: Option<&Result<Frame<Bytes>, BodyError>>) {
        let piece = match frame {
            Some(Ok(frame)) => match frame.data_ref() {
                Some(data) => Some(data.clone()),
                None => return,
            },
            Some(Err(_)) => return self.copies.clear(),
            None => None,
        };
        self.copies.retain(|copy| copy.try_send(piece.clone()).is_ok());
        // hyper does not ask for the end of a body that says that it has ended.
        if piece.is_some() && self.body.is_end_stream() {
            self.copies.retain(|copy| copy.try_send(None).is_ok());
        }
    }

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
