//! Pods that wait for a node: by priority, then by age; those that no node could take wait for a change. PURE.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;

use crate::view::Key;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A pod is tried again after this time even if nothing that could help it was seen to change.
const AT_LATEST: Duration = Duration::from_secs(300);

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// May be tried.
    Ready,
    /// Is being bound.
    Working,
    /// Was tried at `since`; is tried again when something has changed, not before its pause is over.
    Waiting { since: Timestamp, changed: bool },
}

#[derive(Clone, Debug)]
struct Waiter {
    priority: i32,
    /// Earlier pods have lower numbers.
    number: u64,
    attempts: u32,
    state: State,
}

#[derive(Debug, Default)]
pub struct Queue {
    waiters: HashMap<Key, Waiter>,
    ready: BTreeSet<(Reverse<i32>, u64, Key)>,
    next_number: u64,
}

impl Queue {
    /// Takes in a pod, or that a waiting one was changed.
    pub fn put(&mut self, key: Key, priority: i32) {
        let Some(waiter) = self.waiters.get_mut(&key) else {
            self.next_number += 1;
            let waiter = Waiter { priority, number: self.next_number, attempts: 0, state: State::Ready };
            self.ready.insert((Reverse(priority), waiter.number, key.clone()));
            self.waiters.insert(key, waiter);
            return;
        };
        if let State::Waiting { changed, .. } = &mut waiter.state {
            *changed = true;
        }
    }

    pub fn remove(&mut self, key: &Key) {
        if let Some(waiter) = self.waiters.remove(key) {
            self.ready.remove(&(Reverse(waiter.priority), waiter.number, key.clone()));
        }
    }

    /// Something changed that may help anybody.
    pub fn something_changed(&mut self) {
        for waiter in self.waiters.values_mut() {
            if let State::Waiting { changed, .. } = &mut waiter.state {
                *changed = true;
            }
        }
    }

    /// The next pod to be tried; it is at work until [`Queue::failed`] or [`Queue::remove`].
    pub fn take(&mut self, now: Timestamp) -> Option<Key> {
        self.wake(now);
        let (_, _, key) = self.ready.pop_first()?;
        let waiter = self.waiters.get_mut(&key)?;
        waiter.state = State::Working;
        waiter.attempts += 1;
        Some(key)
    }

    /// No node could take it, or binding failed.
    pub fn failed(&mut self, key: &Key, now: Timestamp, try_again: bool) {
        if let Some(waiter) = self.waiters.get_mut(key) {
            waiter.state = State::Waiting { since: now, changed: try_again };
        }
    }

    fn wake(&mut self, now: Timestamp) {
        for (key, waiter) in &mut self.waiters {
            if waiter.due().is_some_and(|due| due <= now) {
                waiter.state = State::Ready;
                self.ready.insert((Reverse(waiter.priority), waiter.number, key.clone()));
            }
        }
    }

    /// When [`Queue::take`] may find something that it does not find now.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.waiters.values().filter_map(Waiter::due).min()
    }

    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }
}

impl Waiter {
    fn due(&self) -> Option<Timestamp> {
        let State::Waiting { since, changed } = self.state else { return None };
        let doublings = self.attempts.saturating_sub(1).min(10);
        let pause = (FIRST_PAUSE * 2u32.pow(doublings)).min(LONGEST_PAUSE);
        since.checked_add(if changed { pause } else { AT_LATEST }).ok()
    }
}
