//! A limit that is set for each request and seldom passes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Instead of a limit that is longer than the clock goes: a year.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// The time until the head of a response. The runtime's timer stays where an earlier request set it: it is moved when it fires too
/// early, or would fire too late.
#[derive(Debug)]
pub(super) struct Deadline {
    at: Instant,
    limit: Duration,
    /// Pieces of the request's body that the endpoint had taken when the limit began.
    passed: usize,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// It begins with [`Deadline::start`].
    pub(super) fn new() -> Deadline {
        Deadline { at: Instant::now(), limit: Duration::ZERO, passed: 0, timer: None }
    }

    pub(super) fn start(&mut self, limit: Duration) {
        (self.at, self.limit, self.passed) = (after(Instant::now(), limit), limit, 0);
    }

    /// Ready when the limit has passed. It begins again with each piece of the request's body that the endpoint takes; `passed` is how
    /// many it took.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, passed: impl Fn() -> usize) -> Poll<()> {
        loop {
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(self.at)));
            if timer.deadline() > self.at {
                timer.as_mut().reset(self.at);
            }
            ready!(timer.as_mut().poll(context));
            let now = Instant::now();
            if now >= self.at {
                let passed = passed();
                if std::mem::replace(&mut self.passed, passed) == passed {
                    return Poll::Ready(());
                }
                self.at = after(now, self.limit);
            }
            timer.as_mut().reset(self.at);
        }
    }
}

fn after(now: Instant, limit: Duration) -> Instant {
    now.checked_add(limit).unwrap_or(now + LONGEST)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(3_600);

    /// Starts a limit, and finds that it has not passed at once.
    async fn start(deadline: &mut Deadline, limit: Duration) {
        deadline.start(limit);
        let polled = poll_fn(|context| Poll::Ready(deadline.poll(context, || 0))).await;
        assert!(polled.is_pending(), "{limit:?}");
    }

    async fn passes(deadline: &mut Deadline, passed: usize) -> Duration {
        let began = Instant::now();
        poll_fn(|context| deadline.poll(context, || passed)).await;
        began.elapsed()
    }

    #[tokio::test]
    async fn a_limit_holds_wherever_earlier_ones_left_the_timer() {
        let mut deadline = Deadline::new();
        for earlier in [SHORT, LONG, SHORT * 2, LONG] {
            start(&mut deadline, earlier).await;
            // An answer comes, and after the time of a short limit the next request.
            tokio::time::sleep(SHORT).await;
            start(&mut deadline, SHORT * 3).await;
            let took = passes(&mut deadline, 0).await;
            // The timer counts in milliseconds.
            assert!(took >= SHORT * 2 && took < LONG, "{took:?} after {earlier:?}");
        }
    }

    #[tokio::test]
    async fn a_body_that_goes_on_begins_the_limit_again() {
        let mut deadline = Deadline::new();
        deadline.start(SHORT);
        let took = passes(&mut deadline, 1).await;
        assert!(took >= SHORT * 2, "{took:?}");
    }
}
