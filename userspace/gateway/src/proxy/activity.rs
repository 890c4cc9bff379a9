//! What happens on a client's connection, and when it should end for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::limits::Limits;

/// The requests of a connection.
#[derive(Default)]
pub(super) struct Activity {
    open: AtomicUsize,
    begun: AtomicUsize,
    /// Requests that their client ended before the response.
    aborted: AtomicUsize,
    too_many_aborted: Notify,
    /// Something was read since the last look.
    has_read: AtomicBool,
    is_http_2: AtomicBool,
}

/// Why a connection should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing happens: in peace.
    Idle,
    /// The head of a request does not come to its end, or streams are opened only to be reset.
    Abuse,
}

impl Activity {
    /// A request is in progress until its response was sent, or its client went away.
    pub(super) fn begin(self: &Arc<Self>, is_http_2: bool, max_aborted: usize) -> InProgress {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        if is_http_2 {
            self.is_http_2.store(true, Ordering::Relaxed);
        }
        InProgress { activity: self.clone(), max_aborted, is_answered: false }
    }

    pub(super) fn read(&self) {
        self.has_read.store(true, Ordering::Relaxed);
    }

    /// Returns when the connection should end.
    pub(super) async fn end(&self, limits: &Limits) -> End {
        tokio::select! {
            end = self.watch(limits) => end,
            () = self.too_many_aborted.notified() => End::Abuse,
        }
    }

    async fn watch(&self, limits: &Limits) -> End {
        self.has_read.store(false, Ordering::Relaxed);
        let (mut known, mut idle_since, mut was_reading) = (0, Instant::now(), false);
        loop {
            sleep(limits.head_timeout.min(limits.idle_timeout)).await;
            let begun = self.begun.load(Ordering::Relaxed);
            let has_read = self.has_read.swap(false, Ordering::Relaxed);
            if begun != known || self.open.load(Ordering::Relaxed) > 0 {
                (known, idle_since, was_reading) = (begun, Instant::now(), false);
                continue;
            }
            // In HTTP/2 bytes without a request are pings, and a head that does not end is bounded by the idle time.
            let is_reading = (has_read || was_reading) && !self.is_http_2.load(Ordering::Relaxed);
            if is_reading && was_reading {
                return End::Abuse;
            }
            if idle_since.elapsed() >= limits.idle_timeout {
                return End::Idle;
            }
            was_reading = is_reading;
        }
    }
}

pub(super) struct InProgress {
    activity: Arc<Activity>,
    max_aborted: usize,
    is_answered: bool,
}

impl InProgress {
    /// There is a response.
    pub(super) fn answered(&mut self) {
        self.is_answered = true;
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        let activity = &self.activity;
        activity.open.fetch_sub(1, Ordering::Relaxed);
        if !self.is_answered {
            let aborted = activity.aborted.fetch_add(1, Ordering::Relaxed) + 1;
            if aborted > self.max_aborted && aborted * 2 > activity.begun.load(Ordering::Relaxed) {
                activity.too_many_aborted.notify_one();
            }
        }
    }
}
