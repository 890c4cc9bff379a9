//! The queue between a resource's publisher and one watcher.
//!
//! Unlike a channel, its publisher may clear it: a watcher that does not read, because its client does not, holds no
//! memory once it is closed.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use skep_store::Revision;

use super::Change;
use crate::lock::Lock;

/// Changes that may wait for a slow watcher before it is closed.
pub(super) const QUEUE_LENGTH: usize = 1_024;
/// The room of an empty queue that is kept for the next changes.
const MAX_EMPTY_CAPACITY: usize = 32;

/// A watcher's end: changes as they happen; closed if the watcher is too slow. Its drop unsubscribes.
pub(crate) struct Changes(Arc<Lock<Queue>>);

/// The publisher's end. Its drop closes the queue.
pub(super) struct Sender(Arc<Lock<Queue>>);

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Arc<Change>>,
    is_closed: bool,
    waker: Option<Waker>,
}

/// Why no change could be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoChange {
    Empty,
    /// Changes were missed.
    Closed,
}

pub(super) fn queue() -> (Sender, Changes) {
    let shared = Arc::new(Lock::default());
    (Sender(shared.clone()), Changes(shared))
}

impl Changes {
    /// The next change; `None` if changes were missed.
    pub(crate) async fn recv(&mut self) -> Option<Arc<Change>> {
        poll_fn(|context| {
            let mut queue = self.0.lock();
            match queue.take() {
                Ok(change) => Poll::Ready(Some(change)),
                Err(NoChange::Closed) => Poll::Ready(None),
                Err(NoChange::Empty) => {
                    if !queue.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                        queue.waker = Some(context.waker().clone());
                    }
                    Poll::Pending
                }
            }
        })
        .await
    }

    pub(crate) fn try_recv(&mut self) -> Result<Arc<Change>, NoChange> {
        self.0.lock().take()
    }

    /// Whether every change so far was taken.
    pub(crate) fn is_drained(&self) -> bool {
        let queue = self.0.lock();
        queue.waiting.is_empty() && !queue.is_closed
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.0.lock().close();
    }
}

impl Queue {
    fn take(&mut self) -> Result<Arc<Change>, NoChange> {
        let change = self.waiting.pop_front();
        if self.waiting.is_empty() && self.waiting.capacity() > MAX_EMPTY_CAPACITY {
            self.waiting.shrink_to(0);
        }
        change.ok_or(if self.is_closed { NoChange::Closed } else { NoChange::Empty })
    }

    fn close(&mut self) -> Option<Waker> {
        self.is_closed = true;
        self.waiting = VecDeque::new();
        self.waker.take()
    }
}

impl Sender {
    /// Whether the watcher still gets changes after this one.
    pub(super) fn send(&self, change: &Arc<Change>) -> bool {
        let (waker, is_open) = {
            let mut queue = self.0.lock();
            if queue.is_closed {
                return false;
            }
            if queue.waiting.len() >= QUEUE_LENGTH {
                (queue.close(), false)
            } else {
                queue.waiting.push_back(change.clone());
                (queue.waker.take(), true)
            }
        };
        wake(waker);
        is_open
    }

    /// Closes the queue if a change up to this revision still waits in it. Whether it is open.
    pub(super) fn close_if_behind(&self, revision: Revision) -> bool {
        let waker = {
            let mut queue = self.0.lock();
            if queue.waiting.front().is_none_or(|first| first.revision() > revision) {
                return !queue.is_closed;
            }
            queue.close()
        };
        wake(waker);
        false
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.lock().is_closed
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let waker = {
            let mut queue = self.0.lock();
            queue.is_closed = true;
            queue.waker.take()
        };
        wake(waker);
    }
}

/// Outside of the lock: the woken task takes it.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
