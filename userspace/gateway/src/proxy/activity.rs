//! What happens on a client's connection, and when it should end for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::limits::Limits;

/// The requests of a connection.
pub(super) struct Activity {
    opened: Instant,
    open: AtomicUsize,
    begun: AtomicUsize,
    /// Requests that their client ended before the response.
    aborted: AtomicUsize,
    /// When the first byte of a head came that is not complete, in milliseconds since `opened`; 0: there is none.
    head_began_ms: AtomicU64,
    /// Bytes read since a request began or a body went on: frames of HTTP/2 that only cost work.
    idle_bytes: AtomicUsize,
    is_http_2: AtomicBool,
    /// The head that is read has a Content-Length.
    has_length: AtomicBool,
    is_abused: Notify,
}

/// Why a connection should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing happens: in peace.
    Idle,
    /// The head of a request does not come to its end, streams are opened only to be reset, or frames come that lead nowhere.
    Abuse,
}

impl Activity {
    pub(super) fn new(is_http_2: bool) -> Activity {
        Activity {
            opened: Instant::now(),
            open: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            aborted: AtomicUsize::new(0),
            head_began_ms: AtomicU64::new(0),
            idle_bytes: AtomicUsize::new(0),
            is_http_2: AtomicBool::new(is_http_2),
            has_length: AtomicBool::new(false),
            is_abused: Notify::new(),
        }
    }

    /// The client speaks HTTP/2.
    pub(super) fn set_http_2(&self) {
        self.is_http_2.store(true, Ordering::Relaxed);
        self.head_began_ms.store(0, Ordering::Relaxed);
    }

    /// A request is in progress until its response was sent, or its client went away.
    pub(super) fn begin(self: &Arc<Self>, max_aborted: usize) -> InProgress {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.head_began_ms.store(0, Ordering::Relaxed);
        self.goes_on();
        let has_length = self.has_length.swap(false, Ordering::Relaxed);
        InProgress { activity: self.clone(), max_aborted, has_length, is_answered: false }
    }

    pub(super) fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether the head of HTTP/1 that is read has a Content-Length so far.
    pub(super) fn set_length(&self, has_length: bool) {
        self.has_length.store(has_length, Ordering::Relaxed);
    }

    /// Whether a byte that is read now is of a head of HTTP/1.
    pub(super) fn is_in_head(&self) -> bool {
        !self.is_http_2.load(Ordering::Relaxed) && self.open.load(Ordering::Relaxed) == 0
    }

    pub(super) fn read(&self, bytes: usize, limits: &Limits) {
        if self.is_http_2.load(Ordering::Relaxed) {
            let idle = self.idle_bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
            if idle > limits.max_idle_bytes {
                self.is_abused.notify_one();
            }
        } else if self.is_in_head() && self.head_began_ms.load(Ordering::Relaxed) == 0 {
            let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.head_began_ms.store(now.max(1), Ordering::Relaxed);
        }
    }

    /// A request or a response goes on.
    pub(super) fn goes_on(&self) {
        if self.idle_bytes.load(Ordering::Relaxed) != 0 {
            self.idle_bytes.store(0, Ordering::Relaxed);
        }
    }

    /// Returns when the connection should end.
    pub(super) async fn end(&self, limits: &Limits) -> End {
        tokio::select! {
            end = self.watch(limits) => end,
            () = self.is_abused.notified() => End::Abuse,
        }
    }

    /// Looks at least once in the time of a head, and when a head is due: no head takes longer than that.
    async fn watch(&self, limits: &Limits) -> End {
        let interval = limits.head_timeout.min(limits.idle_timeout);
        let (mut known, mut idle_since, mut next) = (0, Instant::now(), Instant::now() + interval);
        loop {
            sleep_until(next).await;
            let now = Instant::now();
            next = now + interval;
            let began = self.head_began_ms.load(Ordering::Relaxed);
            if began != 0 {
                let due = self.opened + Duration::from_millis(began) + limits.head_timeout;
                if due <= now {
                    return End::Abuse;
                }
                next = next.min(due);
            }
            let begun = self.begun.load(Ordering::Relaxed);
            if begun != known || self.open.load(Ordering::Relaxed) > 0 {
                (known, idle_since) = (begun, now);
            } else if idle_since.elapsed() >= limits.idle_timeout {
                return End::Idle;
            }
        }
    }
}

pub(super) struct InProgress {
    activity: Arc<Activity>,
    max_aborted: usize,
    /// Its head of HTTP/1 has a Content-Length, whatever the parser made of it.
    pub(super) has_length: bool,
    is_answered: bool,
}

impl InProgress {
    /// There is a response.
    pub(super) fn answered(&mut self) {
        self.is_answered = true;
    }

    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        let activity = &self.activity;
        activity.open.fetch_sub(1, Ordering::Relaxed);
        if !self.is_answered {
            let aborted = activity.aborted.fetch_add(1, Ordering::Relaxed) + 1;
            if aborted > self.max_aborted && aborted * 2 > activity.begun.load(Ordering::Relaxed) {
                activity.is_abused.notify_one();
            }
        }
    }
}
