//! The arithmetic of revisions: which can be read, which to compact, recent events, and how to undo history.
//!
//! PURE. In: commits of the embedded store. Out: decisions about revisions, and events.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::{Entry, Event, Expect, Result, Revision, StoreError};

/// Whether the entry that exists meets the write's expectation.
pub(crate) fn check(expect: Expect, actual: Option<&Entry>) -> Result<()> {
    let fits = match (expect, actual) {
        (Expect::Any, _) | (Expect::Absent, None) => true,
        (Expect::Revision(wanted), Some(entry)) => entry.modified == wanted,
        (Expect::Absent, Some(_)) | (Expect::Revision(_), None) => false,
    };
    if fits { Ok(()) } else { Err(StoreError::Conflict { actual: actual.cloned() }) }
}

/// The readable range of revisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Revisions {
    /// The last write.
    pub(crate) current: Revision,
    /// Older revisions cannot be read.
    pub(crate) compacted: Revision,
}

impl Revisions {
    /// The revision to read at; `None` means the current one.
    pub(crate) fn resolve(&self, at: Option<Revision>) -> Result<Revision> {
        let at = at.unwrap_or(self.current);
        if at > self.current {
            return Err(StoreError::FutureRevision { wanted: at, current: self.current });
        }
        if at < self.compacted {
            return Err(StoreError::Compacted { oldest: self.compacted });
        }
        Ok(at)
    }
}

/// Bounds the history that is kept for reads in the past and for late watchers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetentionLimits {
    pub(crate) age: Duration,
    pub(crate) revisions: Revision,
    pub(crate) bytes: u64,
}

/// Decides which history to compact.
#[derive(Debug)]
pub(crate) struct Retention {
    limits: RetentionLimits,
    /// Times since the store was opened, at least a tenth of the age limit apart, with the revision at each.
    marks: VecDeque<(Duration, Revision)>,
}

impl Retention {
    pub(crate) fn new(limits: RetentionLimits) -> Self {
        Retention { limits, marks: VecDeque::new() }
    }

    /// Records a commit; the revision before which to compact, if a limit is exceeded. `bytes` is the size of all history.
    pub(crate) fn record(&mut self, now: Duration, revisions: Revisions, bytes: u64) -> Option<Revision> {
        let Revisions { current, compacted } = revisions;
        if self.marks.back().is_none_or(|(at, _)| now.saturating_sub(*at) >= self.limits.age / 10) {
            self.marks.push_back((now, current));
        }
        let mut before = compacted;
        while let Some((at, revision)) = self.marks.front()
            && now.saturating_sub(*at) >= self.limits.age
        {
            before = before.max(*revision);
            self.marks.pop_front();
        }
        let kept = current - compacted;
        if kept > self.limits.revisions {
            before = before.max(current - (self.limits.revisions - self.limits.revisions / 4));
        }
        if bytes > self.limits.bytes {
            // The sizes of single events are unknown: dropping a quarter at a time reaches the bound.
            before = before.max(compacted + kept.div_ceil(4));
        }
        (before > compacted).then_some(before)
    }
}

/// The latest events, bounded in number and size.
#[derive(Debug)]
pub(crate) struct Recent {
    events: VecDeque<Event>,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
    /// `events` has every event after this revision.
    complete_after: Revision,
}

impl Recent {
    pub(crate) fn new(current: Revision, max_events: usize, max_bytes: usize) -> Self {
        Recent { events: VecDeque::new(), bytes: 0, max_events, max_bytes, complete_after: current }
    }

    pub(crate) fn push(&mut self, event: Event) {
        self.bytes += event_bytes(&event);
        self.events.push_back(event);
        while self.events.len() > self.max_events || self.bytes > self.max_bytes {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= event_bytes(&oldest);
            self.complete_after = oldest.revision();
        }
    }

    /// Events after a revision; `None` if some of them were dropped.
    pub(crate) fn after(&self, after: Revision, prefix: &str) -> Option<Vec<Event>> {
        if after < self.complete_after {
            return None;
        }
        let start = self.events.partition_point(|event| event.revision() <= after);
        Some(self.events.range(start..).filter(|event| event.key().starts_with(prefix)).cloned().collect())
    }
}

/// The size of the event's keys and values.
pub(crate) fn event_bytes(event: &Event) -> usize {
    let entry = |entry: &Entry| entry.value.len() + entry.key.len();
    match event {
        Event::Put { entry: new, previous } => entry(new) + previous.as_ref().map_or(0, entry),
        Event::Delete { previous, .. } => entry(previous),
    }
}

/// The state of the keys in `events` before the first of them; applied to the present it gives an older revision.
pub(crate) fn undo(events: impl IntoIterator<Item = Event>) -> BTreeMap<Arc<str>, Option<Entry>> {
    let mut before = BTreeMap::new();
    for event in events {
        let key = event.key().clone();
        before.entry(key).or_insert(match event {
            Event::Put { previous, .. } => previous,
            Event::Delete { previous, .. } => Some(previous),
        });
    }
    before
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn entry(key: &str, created: Revision, modified: Revision) -> Entry {
        Entry { key: key.into(), value: Bytes::from(format!("{key}@{modified}")), created, modified }
    }

    #[test]
    fn a_write_expecting_a_revision_fails_on_every_other() {
        let there = entry("a", 1, 3);
        assert!(check(Expect::Revision(3), Some(&there)).is_ok());
        assert!(matches!(
            check(Expect::Revision(2), Some(&there)),
            Err(StoreError::Conflict { actual: Some(_) })
        ));
        assert!(matches!(check(Expect::Revision(2), None), Err(StoreError::Conflict { actual: None })));
        assert!(check(Expect::Absent, Some(&there)).is_err());
        assert!(check(Expect::Absent, None).is_ok());
    }

    #[test]
    fn reads_outside_history_have_different_errors() {
        let revisions = Revisions { current: 10, compacted: 5 };
        assert_eq!(revisions.resolve(None).unwrap(), 10);
        assert_eq!(revisions.resolve(Some(5)).unwrap(), 5);
        assert!(matches!(revisions.resolve(Some(4)), Err(StoreError::Compacted { oldest: 5 })));
        assert!(matches!(revisions.resolve(Some(11)), Err(StoreError::FutureRevision { .. })));
    }

    const LIMITS: RetentionLimits =
        RetentionLimits { age: Duration::from_secs(100), revisions: 1_000, bytes: 1 << 20 };

    #[test]
    fn history_is_kept_for_its_age_and_then_compacted() {
        let mut retention = Retention::new(LIMITS);
        for second in 0..1_000u64 {
            let revisions = Revisions { current: second, compacted: 0 };
            if let Some(before) = retention.record(Duration::from_secs(second), revisions, 0) {
                assert!(before + 100 <= second, "compacted revision {before} at second {second}");
                assert!(before + 111 > second, "kept more than revision {before} at second {second}");
            }
        }
        let idle = Revisions { current: 999, compacted: 0 };
        let compacted = retention.record(Duration::from_secs(2_000), idle, 0);
        assert!(compacted.is_some_and(|before| before >= 990));
    }

    proptest! {
        #[test]
        fn no_burst_exceeds_the_limits_for_long(commits in prop::collection::vec((1u64..100, 1u64..5_000), 1..100)) {
            let mut retention = Retention::new(LIMITS);
            let (mut revisions, mut sizes, mut bytes) = (Revisions::default(), VecDeque::new(), 0);
            for (events, size) in commits {
                revisions.current += events;
                sizes.extend((0..events).map(|_| size));
                bytes += events * size;
                if let Some(before) = retention.record(Duration::ZERO, revisions, bytes) {
                    prop_assert!(before > revisions.compacted && before <= revisions.current);
                    bytes -= sizes.drain(..(before - revisions.compacted) as usize).sum::<u64>();
                    revisions.compacted = before;
                }
                prop_assert!(revisions.current - revisions.compacted <= LIMITS.revisions);
                // After small old events it takes some commits until large new ones are dropped.
                prop_assert!(bytes <= LIMITS.bytes + 5 * 100 * 5_000);
            }
        }
    }

    /// A history of puts and deletes of few keys, and the state after each revision.
    fn play(writes: &[(u8, bool)]) -> (Vec<Event>, Vec<BTreeMap<Arc<str>, Entry>>) {
        let (mut events, mut states) = (Vec::new(), vec![BTreeMap::new()]);
        let mut now: BTreeMap<Arc<str>, Entry> = BTreeMap::new();
        for (key, delete) in writes {
            let revision = events.len() as Revision + 1;
            let key: Arc<str> = format!("k{}", key % 4).into();
            let previous = now.remove(&key);
            match (previous, delete) {
                (Some(previous), true) => events.push(Event::Delete { previous, revision }),
                (previous, _) => {
                    let created = previous.as_ref().map_or(revision, |p| p.created);
                    let entry = entry(&key, created, revision);
                    now.insert(key, entry.clone());
                    events.push(Event::Put { entry, previous });
                }
            }
            states.push(now.clone());
        }
        (events, states)
    }

    proptest! {
        #[test]
        fn undoing_history_gives_the_state_of_every_revision(writes in prop::collection::vec((0u8..4, any::<bool>()), 0..40)) {
            let (events, states) = play(&writes);
            let now = states.last().cloned().unwrap_or_default();
            for (at, state) in states.iter().enumerate() {
                let mut past = now.clone();
                for (key, entry) in undo(events[at..].iter().cloned()) {
                    match entry {
                        Some(entry) => { past.insert(key, entry); }
                        None => { past.remove(&key); }
                    }
                }
                prop_assert_eq!(&past, state);
            }
        }

        #[test]
        fn recent_history_is_complete_or_absent(
            writes in prop::collection::vec((0u8..4, any::<bool>()), 0..60), max in 1usize..20, after in 0u64..60,
        ) {
            let (events, _) = play(&writes);
            let mut recent = Recent::new(0, max, usize::MAX);
            events.iter().cloned().for_each(|event| recent.push(event));
            let wanted: Vec<Event> = events.iter().filter(|e| e.revision() > after).cloned().collect();
            if let Some(found) = recent.after(after, "k") {
                prop_assert_eq!(found, wanted);
            } else {
                prop_assert!(wanted.len() > max);
            }
        }
    }
}
