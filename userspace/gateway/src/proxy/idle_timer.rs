//! The time that a body may be silent.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// The time between two pieces of a body. It runs only while there is none.
pub(super) struct IdleTimer {
    timeout: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    is_running: bool,
}

impl IdleTimer {
    pub(super) fn new(timeout: Duration) -> IdleTimer {
        IdleTimer { timeout, sleep: None, is_running: false }
    }

    pub(super) fn stop(&mut self) {
        self.is_running = false;
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let until = Instant::now() + self.timeout;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if !self.is_running {
            sleep.as_mut().reset(until);
            self.is_running = true;
        }
        sleep.as_mut().poll(context)
    }
}
