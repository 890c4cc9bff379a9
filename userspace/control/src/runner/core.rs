//! The runner's mind: the view, the queues and the controllers, with no I/O. PURE.
//! In: watch events and the outcomes of performed actions. Out: [`Task`]s to perform and the next time to wake.

use std::{collections::HashMap, collections::HashSet};

use jiff::Timestamp;

use super::queue::{Item, Queue};
use crate::{
    action::{Action, Context, Controller, Failure},
    view::{Change, Key, Kind, Object, View},
};

/// Actions of one reconcile, to be performed in order.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) item: Item,
    pub(crate) actions: Vec<Action>,
}

/// What the server answered to a write.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    Written(Object),
    DeleteAccepted { kind: Kind, key: Key, uid: Option<String> },
    Missing { kind: Kind, key: Key },
}

#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) item: Item,
    pub(crate) effects: Vec<Effect>,
    pub(crate) failure: Option<Failure>,
    /// Objects that may or may not have changed.
    pub(crate) unsure: Vec<(Kind, Key)>,
}

/// One step of a kind's watch.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Begin,
    Listed(Object),
    Listing(Object),
    End,
    Deleted(Object),
}

pub(crate) struct Core {
    pub(crate) view: View,
    controllers: Vec<Box<dyn Controller>>,
    queue: Queue,
    /// Kinds whose first list has not ended; nothing is decided before all have.
    unsynced: HashSet<Kind>,
    failures: HashMap<Item, Failure>,
    /// Seeds of keys whose last actions have an unknown fate.
    seeds: HashMap<Item, u64>,
    next_seed: u64,
    /// What a key's last actions may or may not have changed; asked before the key is reconciled again.
    unsure: HashMap<Item, Vec<(Kind, Key)>>,
    working: usize,
    /// Objects to ask for, after a relist that may be older than our write.
    pub(crate) ask: Vec<(Kind, Key)>,
}

/// Keys worked on at once; more wait in the queue.
const MOST_AT_WORK: usize = 64;

impl Core {
    pub(crate) fn new(controllers: Vec<Box<dyn Controller>>, kinds: &[Kind], seed: u64) -> Self {
        Core {
            view: View::default(),
            controllers,
            queue: Queue::default(),
            unsynced: kinds.iter().copied().collect(),
            failures: HashMap::new(),
            seeds: HashMap::new(),
            next_seed: seed,
            unsure: HashMap::new(),
            working: 0,
            ask: Vec::new(),
        }
    }

    /// Takes in a watch event; returns the changes it made.
    pub(crate) fn event(&mut self, kind: Kind, event: Event, now: Timestamp) -> Vec<Change> {
        let changes = match event {
            Event::Begin => {
                self.view.begin_list(kind);
                Vec::new()
            }
            Event::Listed(object) | Event::Listing(object) => {
                self.view.watched(object, now).into_iter().collect()
            }
            Event::Deleted(object) => self.view.deleted(&object).into_iter().collect(),
            Event::End => {
                self.unsynced.remove(&kind);
                let (changes, ask) = self.view.end_list(kind);
                self.ask.extend(ask.into_iter().map(|key| (kind, key)));
                changes
            }
        };
        self.route(&changes);
        changes
    }

    /// The server does not serve this kind: it counts as listed, and as empty.
    pub(crate) fn absent(&mut self, kind: Kind) {
        self.unsynced.remove(&kind);
    }

    pub(crate) fn synced(&self) -> bool {
        self.unsynced.is_empty()
    }

    fn route(&mut self, changes: &[Change]) {
        let mut keys = Vec::new();
        for change in changes {
            for (number, controller) in self.controllers.iter().enumerate() {
                controller.route(change, &self.view, &mut keys);
                for key in keys.drain(..) {
                    self.queue.add((number, key));
                }
            }
        }
    }

    /// Reconciles the next ready key that leads to work; keys with nothing to do are settled on the way.
    pub(crate) fn next_task(&mut self, now: Timestamp) -> Option<Task> {
        if !self.synced() {
            return None;
        }
        while self.working < MOST_AT_WORK {
            let item = self.queue.take(now)?;
            if let Some(unsure) = self.unsure.remove(&item) {
                // Whatever is learnt, the key is reconciled after it.
                self.queue.add(item.clone());
                self.working += 1;
                let actions = unsure.into_iter().map(|(kind, key)| Action::Confirm { kind, key }).collect();
                return Some(Task { item, actions });
            }
            let seed = *self.seeds.entry(item.clone()).or_insert_with(|| {
                self.next_seed = self.next_seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                self.next_seed
            });
            let Some(controller) = self.controllers.get(item.0) else { continue };
            let context = Context { now, seed, failure: self.failures.get(&item) };
            let mut actions = controller.reconcile(&self.view, &item.1, context);
            actions.retain(|action| match action {
                Action::RequeueAt(at) => {
                    self.queue.add_at(item.clone(), *at);
                    false
                }
                _ => true,
            });
            if actions.is_empty() {
                self.settle(&item, None, now);
                continue;
            }
            self.working += 1;
            return Some(Task { item, actions });
        }
        None
    }

    /// Takes in how a task ended; returns the changes that its answers made.
    pub(crate) fn finish(&mut self, outcome: Outcome, now: Timestamp) -> Vec<Change> {
        self.working = self.working.saturating_sub(1);
        let changes = self.absorb(outcome.effects, now);
        if !outcome.unsure.is_empty() {
            self.unsure.insert(outcome.item.clone(), outcome.unsure);
        }
        self.settle(&outcome.item, outcome.failure, now);
        changes
    }

    /// Takes in what the server answered.
    pub(crate) fn absorb(&mut self, effects: Vec<Effect>, now: Timestamp) -> Vec<Change> {
        let changes: Vec<Change> = effects
            .into_iter()
            .filter_map(|effect| match effect {
                Effect::Written(object) => self.view.written(object, now),
                Effect::DeleteAccepted { kind, key, uid } => {
                    self.view.delete_accepted(kind, &key, uid.as_deref(), now)
                }
                Effect::Missing { kind, key } => self.view.missing(kind, &key),
            })
            .collect();
        self.route(&changes);
        changes
    }

    fn settle(&mut self, item: &Item, failure: Option<Failure>, now: Timestamp) {
        // After a lost answer the seed stays, so that trying again names the same objects: a create that reaches the
        // server late meets a taken name.
        if !matches!(failure, Some(Failure::Unknown(_))) && !self.unsure.contains_key(item) {
            self.seeds.remove(item);
        }
        self.queue.done(item, failure.is_some(), now);
        match failure {
            Some(failure) => self.failures.insert(item.clone(), failure),
            None => self.failures.remove(item),
        };
    }

    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.queue.next_due()
    }

    pub(crate) fn controller_name(&self, number: usize) -> &'static str {
        self.controllers.get(number).map_or("", |c| c.name())
    }
}
