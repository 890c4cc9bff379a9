//! The work queues of all controllers in one: keys that are ready, keys that wait for a time, keys at work. PURE.
//! A key is never handed out twice at once; if it is added meanwhile, it becomes ready again when it is done.
//! A failing key backs off from 5 ms, doubling to 1000 s; a change of its objects makes it ready at once.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use skep_api::time;

use crate::cache::Key;

const MIN_BACKOFF: Duration = Duration::from_millis(5);
const MAX_BACKOFF: Duration = Duration::from_secs(1000);

/// A controller's number and the key.
pub(crate) type Item = (usize, Key);

#[derive(Default)]
struct Slot {
    ready: bool,
    working: bool,
    failures: u32,
    due: Option<Timestamp>,
}

#[derive(Default)]
pub(crate) struct WorkQueue {
    slots: HashMap<Item, Slot>,
    ready: VecDeque<Item>,
    timers: BTreeSet<(Timestamp, Item)>,
}

impl WorkQueue {
    /// Makes the key ready now.
    pub(crate) fn add(&mut self, item: Item) {
        let slot = self.slots.entry(item.clone()).or_default();
        if !slot.ready {
            slot.ready = true;
            if !slot.working {
                self.ready.push_back(item);
            }
        }
    }

    /// Makes the key ready at `at`, or earlier if it already is due earlier.
    pub(crate) fn add_at(&mut self, item: Item, at: Timestamp) {
        let slot = self.slots.entry(item.clone()).or_default();
        match slot.due {
            Some(due) if due <= at => return,
            Some(due) => {
                self.timers.remove(&(due, item.clone()));
            }
            None => {}
        }
        slot.due = Some(at);
        self.timers.insert((at, item));
    }

    /// The next key to work on. Its timer is dropped: the reconcile sets it again if needed.
    pub(crate) fn take(&mut self, now: Timestamp) -> Option<Item> {
        while let Some((at, _)) = self.timers.first()
            && *at <= now
            && let Some((_, item)) = self.timers.pop_first()
        {
            if let Some(slot) = self.slots.get_mut(&item) {
                slot.due = None;
            }
            self.add(item);
        }
        let item = self.ready.pop_front()?;
        let slot = self.slots.get_mut(&item)?;
        slot.ready = false;
        slot.working = true;
        if let Some(due) = slot.due.take() {
            self.timers.remove(&(due, item.clone()));
        }
        Some(item)
    }

    /// Ends the work on a key. After a failure the key becomes ready again after its backoff.
    pub(crate) fn done(&mut self, item: &Item, failed: bool, now: Timestamp) {
        if let Some(slot) = self.slots.get_mut(item) {
            slot.failures = if failed { slot.failures.saturating_add(1) } else { 0 };
            self.end(item, failed, now);
        }
    }

    /// Ends work that only prepared the next one of the same key: the count of failures stays.
    pub(crate) fn prepared(&mut self, item: &Item, now: Timestamp) {
        self.add(item.clone());
        self.end(item, false, now);
    }

    fn end(&mut self, item: &Item, failed: bool, now: Timestamp) {
        let Some(slot) = self.slots.get_mut(item) else { return };
        slot.working = false;
        let failures = slot.failures;
        if slot.ready {
            self.ready.push_back(item.clone());
        } else if failed {
            self.add_at(item.clone(), time::after(now, backoff(failures)));
        } else if slot.due.is_none() {
            self.slots.remove(item);
        }
    }

    /// When the next timer fires.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }
}

fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    (MIN_BACKOFF * 2_u32.pow(doublings)).min(MAX_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(1_000_000 + ms).unwrap()
    }

    fn item(name: &str) -> Item {
        (0, Key::new("ns", name))
    }

    #[test]
    fn a_key_is_handed_out_once_however_often_added() {
        let mut q = WorkQueue::default();
        q.add(item("a"));
        q.add(item("a"));
        assert_eq!(q.take(at(0)), Some(item("a")));
        assert_eq!(q.take(at(0)), None);
    }

    #[test]
    fn a_key_changed_while_at_work_comes_back_after_it() {
        let mut q = WorkQueue::default();
        q.add(item("a"));
        q.take(at(0));
        q.add(item("a"));
        assert_eq!(q.take(at(0)), None, "never two at once");
        q.done(&item("a"), false, at(1));
        assert_eq!(q.take(at(1)), Some(item("a")));
    }

    #[test]
    fn failures_double_the_backoff_up_to_its_maximum() {
        assert_eq!(backoff(1), Duration::from_millis(5));
        assert_eq!(backoff(2), Duration::from_millis(10));
        assert_eq!(backoff(60), MAX_BACKOFF);
        let mut q = WorkQueue::default();
        q.add(item("a"));
        q.take(at(0));
        q.done(&item("a"), true, at(0));
        assert_eq!(q.take(at(4)), None);
        assert_eq!(q.take(at(5)), Some(item("a")));
        q.done(&item("a"), true, at(5));
        assert_eq!(q.next_due(), Some(at(15)));
    }

    #[test]
    fn a_change_does_not_wait_for_the_backoff_and_drops_its_timer() {
        let mut q = WorkQueue::default();
        q.add(item("a"));
        q.take(at(0));
        q.done(&item("a"), true, at(0));
        q.add(item("a"));
        assert_eq!(q.take(at(1)), Some(item("a")));
        q.done(&item("a"), false, at(1));
        assert_eq!(q.next_due(), None);
        assert!(q.slots.is_empty(), "an idle key costs no memory");
    }

    #[test]
    fn preparation_between_two_failures_does_not_begin_the_backoff_anew() {
        let mut q = WorkQueue::default();
        q.add(item("a"));
        let mut now = 0;
        for wanted in [5, 10, 20, 40] {
            assert_eq!(q.take(at(now)), Some(item("a")));
            q.prepared(&item("a"), at(now));
            assert_eq!(q.take(at(now)), Some(item("a")), "the work follows at once");
            q.done(&item("a"), true, at(now));
            now += wanted;
            assert_eq!(q.next_due(), Some(at(now)));
        }
    }

    #[test]
    fn the_earlier_of_two_times_wins() {
        let mut q = WorkQueue::default();
        q.add_at(item("a"), at(50));
        q.add_at(item("a"), at(20));
        q.add_at(item("a"), at(90));
        assert_eq!(q.next_due(), Some(at(20)));
        assert_eq!(q.take(at(20)), Some(item("a")));
        assert_eq!(q.next_due(), None);
    }
}
