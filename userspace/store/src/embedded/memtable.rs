//! Writes since the last checkpoint, readable at each revision.
//!
//! In: events without gaps, from the writer. Out: entries and events, to any number of readers.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::state::event_bytes;
use crate::{Entry, Event, Revision};

/// The writer appends while readers of older views read what came before.
pub(super) struct Memtable(RwLock<Written>);

struct Written {
    /// The checkpoint's revision; the first event has the next one.
    base: Revision,
    events: Vec<Event>,
    /// The revisions that wrote a key, ascending.
    keys: BTreeMap<Arc<str>, Vec<Revision>>,
    bytes: usize,
}

impl Memtable {
    /// `events` start at `base` + 1 and have no gaps.
    pub(super) fn new(base: Revision, events: impl IntoIterator<Item = Event>) -> Memtable {
        let memtable =
            Memtable(RwLock::new(Written { base, events: Vec::new(), keys: BTreeMap::new(), bytes: 0 }));
        events.into_iter().for_each(|event| memtable.push(event));
        memtable
    }

    fn read(&self) -> RwLockReadGuard<'_, Written> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Written> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, event: Event) {
        let mut written = self.write();
        debug_assert_eq!(event.revision(), written.last() + 1, "revisions have no gaps");
        written.bytes += event_bytes(&event);
        written.keys.entry(event.key().clone()).or_default().push(event.revision());
        written.events.push(event);
    }

    /// Drops the events after a revision.
    pub(super) fn truncate(&self, after: Revision) {
        let mut written = self.write();
        while written.last() > after
            && let Some(event) = written.events.pop()
        {
            written.bytes -= event_bytes(&event);
            if let Some(revisions) = written.keys.get_mut(event.key()) {
                revisions.pop();
                if revisions.is_empty() {
                    written.keys.remove(event.key());
                }
            }
        }
    }

    /// A copy without the events up to `base`, which a later checkpoint has.
    pub(super) fn rebased(&self, base: Revision) -> Memtable {
        let written = self.read();
        Memtable::new(base, written.between(base, Revision::MAX).iter().cloned())
    }

    /// The size of keys and values of all events.
    pub(super) fn bytes(&self) -> usize {
        self.read().bytes
    }

    /// Events after a revision, up to and including another.
    pub(super) fn events(&self, after: Revision, until: Revision) -> Vec<Event> {
        self.read().between(after, until).to_vec()
    }

    /// A key's state at a revision; `None` if it was not written by then, `Some(None)` if it was deleted.
    pub(super) fn get(&self, key: &str, at: Revision) -> Option<Option<Entry>> {
        let written = self.read();
        written.state(written.keys.get(key)?, at)
    }

    /// The same for all keys with `prefix` that were written by then.
    pub(super) fn range(&self, prefix: &str, at: Revision) -> BTreeMap<Arc<str>, Option<Entry>> {
        let written = self.read();
        let keys = written.keys.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        keys.take_while(|(key, _)| key.starts_with(prefix))
            .filter_map(|(key, revisions)| Some((key.clone(), written.state(revisions, at)?)))
            .collect()
    }
}

impl Written {
    fn last(&self) -> Revision {
        self.base + self.events.len() as Revision
    }

    fn between(&self, after: Revision, until: Revision) -> &[Event] {
        let index = |revision: Revision| (revision.clamp(self.base, self.last()) - self.base) as usize;
        self.events.get(index(after)..index(until)).unwrap_or_default()
    }

    fn state(&self, revisions: &[Revision], at: Revision) -> Option<Option<Entry>> {
        let count = revisions.partition_point(|revision| *revision <= at);
        let last = revisions[..count].last()?;
        Some(match self.events.get((last - self.base - 1) as usize)? {
            Event::Put { entry, .. } => Some(entry.clone()),
            Event::Delete { .. } => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    type State = BTreeMap<Arc<str>, Entry>;

    /// Events after revision 7, and all states from there.
    fn play(writes: &[(u8, bool)]) -> (Vec<Event>, Vec<State>) {
        let (mut events, mut states) = (Vec::new(), vec![State::new()]);
        let mut now = State::new();
        for (revision, (key, delete)) in (8..).zip(writes) {
            let key: Arc<str> = format!("/{}/{key}", key % 2).into();
            match (now.remove(&key), delete) {
                (Some(previous), true) => events.push(Event::Delete { previous, revision }),
                (previous, _) => {
                    let created = previous.as_ref().map_or(revision, |previous| previous.created);
                    let entry = Entry { key: key.clone(), value: Bytes::new(), created, modified: revision };
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
        fn every_revision_has_its_own_state(
            writes in prop::collection::vec((0u8..6, any::<bool>()), 1..40), cut: prop::sample::Index,
        ) {
            let (events, states) = play(&writes);
            let memtable = Memtable::new(7, events.clone());
            let kept = 7 + cut.index(events.len()) as Revision;
            memtable.truncate(kept);
            for at in 7..=kept {
                let state = &states[(at - 7) as usize];
                let range = memtable.range("/1/", at).into_iter();
                let found: State = range.filter_map(|(key, entry)| Some((key, entry?))).collect();
                let mut wanted = state.clone();
                wanted.retain(|key, _| key.starts_with("/1/"));
                prop_assert_eq!(found, wanted);
                for key in 0..6 {
                    let key = format!("/{}/{key}", key % 2);
                    prop_assert_eq!(memtable.get(&key, at).flatten(), state.get(&*key).cloned());
                }
                let rest = memtable.rebased(at);
                prop_assert_eq!(rest.events(at, Revision::MAX), &events[(at - 7) as usize..(kept - 7) as usize]);
            }
            let whole: usize = events[..(kept - 7) as usize].iter().map(event_bytes).sum();
            prop_assert_eq!(memtable.bytes(), whole);
        }
    }
}
