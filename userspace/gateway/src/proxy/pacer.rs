//! A body that is sent at a rate.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::policy::Pace;

/// Says when the next piece of a body may be sent.
pub(super) struct Pacer {
    pace: Pace,
    began: Instant,
    sent: u64,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Pacer {
    pub(super) fn new(pace: Pace) -> Pacer {
        Pacer { pace, began: Instant::now(), sent: 0, sleep: None }
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.sleep.is_none() {
            let due = self.began.checked_add(self.pace.due(self.sent)).unwrap_or(self.began);
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            self.sleep = Some(Box::pin(sleep_until(due)));
        }
        if let Some(sleep) = &mut self.sleep {
            ready!(sleep.as_mut().poll(context));
        }
        self.sleep = None;
        Poll::Ready(())
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }
}
