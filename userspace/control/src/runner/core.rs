//! The pure core of the runner: queues and controllers, with no I/O. PURE.
//! In: changes of the view and the outcomes of performed tasks. Out: [`Task`]s to perform and the next time to wake.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::action::{Action, Context, Controller, Failure};
use crate::cache::{Answer, Change, Key, Kind, View};
use crate::work_queue::{Item, WorkQueue};

/// Actions of one reconcile, to be performed in order.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) item: Item,
    pub(crate) actions: Vec<Action>,
}

/// How a task ended.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) item: Item,
    pub(crate) answers: Vec<Answer>,
    pub(crate) failure: Option<Failure>,
    /// Objects that may or may not have changed.
    pub(crate) unsure: Vec<(Kind, Key)>,
}

/// Decides which key is reconciled when, and what follows from the result.
///
/// The caller keeps this order:
/// 1. `route` with every change of the view, after the view holds it. It may be called again with the same change: keys
///    are only queued.
/// 2. `next_task`, once the first list of every kind is complete, until it returns `None`. Each task that it returns must
///    be performed; the same key is not returned again before step 4.
/// 3. After a task, the view absorbs `Outcome::answers`, and `route` gets the changes of that. Only then
/// 4. `finish`, exactly once for each task. This order lets a controller read its own writes.
///
/// On failure, `finish` queues the key again after a backoff. If the fate of a write is unknown (`Outcome::unsure`), the
/// next task of the key only asks the server for those objects, and the key keeps its seed, so that a repeated create uses
/// the same names.
///
/// `next_due` is the time at which to call `next_task` again without a change.
pub(crate) struct Core {
    controllers: Vec<Box<dyn Controller>>,
    queue: WorkQueue,
    failures: HashMap<Item, Failure>,
    /// Seeds of keys whose last actions have an unknown fate.
    seeds: HashMap<Item, u64>,
    next_seed: u64,
    /// Objects that a key's last actions may or may not have changed.
    unsure: HashMap<Item, Vec<(Kind, Key)>>,
    /// Tasks returned and not finished.
    active_tasks: usize,
}

/// More ready keys wait in the queue.
const MAX_ACTIVE_TASKS: usize = 64;

impl Core {
    pub(crate) fn new(controllers: Vec<Box<dyn Controller>>, seed: u64) -> Self {
        Core {
            controllers,
            queue: WorkQueue::default(),
            failures: HashMap::new(),
            seeds: HashMap::new(),
            next_seed: seed,
            unsure: HashMap::new(),
            active_tasks: 0,
        }
    }

    /// Queues the keys that the changes concern.
    pub(crate) fn route(&mut self, changes: &[Change], view: &View) {
        let mut keys = Vec::new();
        for change in changes {
            for (number, controller) in self.controllers.iter().enumerate() {
                controller.route(change, view, &mut keys);
                for key in keys.drain(..) {
                    self.queue.add((number, key));
                }
            }
        }
    }

    /// Reconciles ready keys until one has actions; keys without actions are finished on the way.
    pub(crate) fn next_task(&mut self, view: &View, now: Timestamp) -> Option<Task> {
        while self.active_tasks < MAX_ACTIVE_TASKS {
            let item = self.queue.take(now)?;
            if let Some(unsure) = self.unsure.remove(&item) {
                // The key is reconciled after the answers, whatever they are.
                self.queue.add(item.clone());
                self.active_tasks += 1;
                let actions = unsure.into_iter().map(|(kind, key)| Action::Confirm { kind, key }).collect();
                return Some(Task { item, actions });
            }
            let actions = self.reconcile(&item, view, now);
            if actions.is_empty() {
                self.settle(&item, None, now);
                continue;
            }
            self.active_tasks += 1;
            return Some(Task { item, actions });
        }
        None
    }

    /// The actions of one reconcile; requests to requeue go to the queue.
    fn reconcile(&mut self, item: &Item, view: &View, now: Timestamp) -> Vec<Action> {
        let seed = *self.seeds.entry(item.clone()).or_insert_with(|| {
            self.next_seed = self.next_seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            self.next_seed
        });
        let Some(controller) = self.controllers.get(item.0) else { return Vec::new() };
        let context = Context { now, seed, failure: self.failures.get(item) };
        let mut actions = controller.reconcile(view, &item.1, context);
        actions.retain(|action| match action {
            Action::RequeueAt(at) => {
                self.queue.add_at(item.clone(), *at);
                false
            }
            _ => true,
        });
        actions
    }

    /// Ends a task, after its answers were absorbed and routed.
    pub(crate) fn finish(
        &mut self,
        item: &Item,
        failure: Option<Failure>,
        unsure: Vec<(Kind, Key)>,
        now: Timestamp,
    ) {
        self.active_tasks = self.active_tasks.saturating_sub(1);
        if !unsure.is_empty() {
            self.unsure.insert(item.clone(), unsure);
        }
        self.settle(item, failure, now);
    }

    fn settle(&mut self, item: &Item, failure: Option<Failure>, now: Timestamp) {
        // After a lost answer the seed stays, so that the retry uses the same names: a create that reaches the server
        // late then fails with AlreadyExists.
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
