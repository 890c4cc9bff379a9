//! What the hub and its subscribers share: the cache, and the channel of each subscriber.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::cache::{Answer, Change, InformerCache, Key, Kind, View, WatchEvent};

#[derive(Clone)]
pub(crate) enum InformerEvent {
    Change(Change),
    /// The first list of the kind is complete. Sent once for each kind.
    Listed(Kind),
}

struct State {
    cache: InformerCache,
    kinds: Vec<Kind>,
    /// By number. Those of parts that ended are removed.
    subscribers: BTreeMap<usize, mpsc::UnboundedSender<InformerEvent>>,
    next_number: usize,
    /// Kinds whose first list is published as complete.
    listed: BTreeSet<Kind>,
}

impl State {
    /// Publishes changes to every subscriber but one.
    fn publish(&mut self, changes: &[Change], except: Option<usize>) {
        self.subscribers.retain(|number, subscriber| {
            let wanted = changes.iter().filter(|_| Some(*number) != except);
            let mut events = wanted.map(|change| InformerEvent::Change(change.clone()));
            // A closed channel means that its part has ended.
            events.try_for_each(|event| subscriber.send(event)).is_ok()
        });
        if self.listed.len() == self.kinds.len() {
            return;
        }
        let kinds = self.kinds.iter().filter(|kind| self.cache.listed(**kind));
        let new: Vec<Kind> = kinds.filter(|kind| !self.listed.contains(*kind)).copied().collect();
        for kind in new {
            self.listed.insert(kind);
            for subscriber in self.subscribers.values() {
                let _ = subscriber.send(InformerEvent::Listed(kind));
            }
        }
    }

    /// Events that lead to the present state.
    fn replay(&self) -> impl Iterator<Item = InformerEvent> {
        let objects = self.kinds.iter().flat_map(|kind| self.cache.view().all(*kind));
        let changes = objects.map(|object| InformerEvent::Change(Change { old: None, new: Some(object) }));
        changes.chain(self.listed.iter().copied().map(InformerEvent::Listed))
    }
}

/// Changes are published while the lock is held, so every subscriber receives them in one order.
pub(super) struct Shared(Mutex<State>);

impl Shared {
    pub(super) fn new(kinds: &[Kind]) -> Self {
        let cache = InformerCache::new(kinds);
        Shared(Mutex::new(State {
            cache,
            kinds: kinds.to_vec(),
            subscribers: BTreeMap::new(),
            next_number: 0,
            listed: BTreeSet::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn subscribe(self: &Arc<Self>) -> Subscription {
        let (sender, events) = mpsc::unbounded_channel();
        let mut state = self.lock();
        for event in state.replay() {
            let _ = sender.send(event);
        }
        let number = state.next_number;
        state.next_number += 1;
        state.subscribers.insert(number, sender);
        Subscription { number, events, shared: self.clone() }
    }

    pub(super) fn apply(&self, kind: Kind, event: WatchEvent, now: Timestamp) {
        let mut state = self.lock();
        let changes = state.cache.apply(kind, event, now);
        state.publish(&changes, None);
    }

    pub(super) fn not_served(&self, kind: Kind) {
        let mut state = self.lock();
        state.cache.not_served(kind);
        state.publish(&[], None);
    }

    pub(super) fn absorb_for_all(&self, answers: Vec<Answer>, now: Timestamp) {
        let mut state = self.lock();
        let changes = state.cache.absorb(answers, now);
        state.publish(&changes, None);
    }

    pub(super) fn take_unconfirmed(&self) -> Vec<(Kind, Key)> {
        self.lock().cache.take_unconfirmed()
    }
}

/// One subscriber's end.
pub(crate) struct Subscription {
    number: usize,
    events: mpsc::UnboundedReceiver<InformerEvent>,
    shared: Arc<Shared>,
}

/// Reads the view, from any task.
pub(crate) struct ViewReader(Arc<Shared>);

impl ViewReader {
    /// As [`Subscription::with_view`].
    pub(crate) fn with_view<T>(&self, read: impl FnOnce(&View) -> T) -> T {
        read(self.0.lock().cache.view())
    }
}

impl Subscription {
    pub(crate) fn reader(&self) -> ViewReader {
        ViewReader(self.shared.clone())
    }

    /// The next event; `None` when the hub is gone. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<InformerEvent> {
        self.events.recv().await
    }

    /// An event that has already arrived.
    pub(crate) fn try_next(&mut self) -> Option<InformerEvent> {
        self.events.try_recv().ok()
    }

    /// Reads the view. It may already hold changes whose events have not been received here.
    pub(crate) fn with_view<T>(&self, read: impl FnOnce(&View) -> T) -> T {
        read(self.shared.lock().cache.view())
    }

    /// Stores what the server answered to this subscriber's writes, before it returns. The other subscribers receive the
    /// changes as events; this one receives them as the result.
    pub(crate) fn absorb(&self, answers: Vec<Answer>, now: Timestamp) -> Vec<Change> {
        let mut state = self.shared.lock();
        let changes = state.cache.absorb(answers, now);
        state.publish(&changes, Some(self.number));
        changes
    }
}
