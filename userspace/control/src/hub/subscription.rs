//! What the hub and its subscribers share: the cache, and the channel of each subscriber.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::cache::{Answer, Change, InformerCache, Key, Kind, View, WatchEvent};

#[derive(Clone)]
pub(crate) enum InformerEvent {
    Change(Change),
    /// The first list of every kind is complete. Sent once.
    Synced,
}

struct State {
    cache: InformerCache,
    subscribers: Vec<mpsc::UnboundedSender<InformerEvent>>,
    sync_published: bool,
}

impl State {
    /// Publishes changes to every subscriber but one.
    fn publish(&mut self, changes: &[Change], except: Option<usize>) {
        for (number, subscriber) in self.subscribers.iter().enumerate() {
            if Some(number) == except {
                continue;
            }
            for change in changes {
                // A closed channel means that this run is ending.
                let _ = subscriber.send(InformerEvent::Change(change.clone()));
            }
        }
        if self.cache.synced() && !std::mem::replace(&mut self.sync_published, true) {
            for subscriber in &self.subscribers {
                let _ = subscriber.send(InformerEvent::Synced);
            }
        }
    }
}

/// Changes are published while the lock is held, so every subscriber receives them in one order.
pub(super) struct Shared(Mutex<State>);

impl Shared {
    pub(super) fn new(kinds: &[Kind]) -> Self {
        let cache = InformerCache::new(kinds);
        Shared(Mutex::new(State { cache, subscribers: Vec::new(), sync_published: false }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn subscribe(self: &Arc<Self>) -> Subscription {
        let (sender, events) = mpsc::unbounded_channel();
        let mut state = self.lock();
        state.subscribers.push(sender);
        Subscription { number: state.subscribers.len() - 1, events, shared: self.clone() }
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

impl Subscription {
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
