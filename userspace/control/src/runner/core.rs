//! The pure core of the runner: queues and controllers, with no I/O. PURE.
//! In: changes of the view and the outcomes of performed tasks. Out: [`Task`]s to perform and the next time to wake.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::Timestamp;

use crate::action::{Action, Context, Controller, Failure};
use crate::cache::{Answer, Change, Key, Kind, View};
use crate::clock::Now;
use crate::guard::{Panicked, caught};
use crate::work_queue::{Item, WorkQueue};

/// Actions of one reconcile, to be performed in order.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) item: Item,
    pub(crate) actions: Vec<Action>,
    /// The reconcile failed; the actions only report it.
    pub(crate) failure: Option<Failure>,
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
/// 2. `listed`, when the first list of a kind is complete; a controller decides once every kind that it reads is listed.
///    `next_task`, until it returns `None`. Each task that it returns must be performed; the same key is not returned again
///    before step 4.
/// 3. After a task, the view absorbs `Outcome::answers`, and `route` gets the changes of that. Only then
/// 4. `finish`, exactly once for each task. This order lets a controller read its own writes.
///
/// On failure, `finish` queues the key again after a backoff. If the fate of a write is unknown (`Outcome::unsure`), the
/// next task of the key only asks the server for those objects, and the key keeps its seed, so that a repeated create uses
/// the same names.
///
/// A controller that panics fails only for that key: the task of the key reports the fault, and its failure backs off.
///
/// `next_due` is the time on the steady clock at which to call `next_task` again without a change; `finish` takes that
/// clock's time too.
pub(crate) struct Core {
    controllers: Vec<Box<dyn Controller>>,
    queue: WorkQueue,
    failures: HashMap<Item, Failure>,
    /// Seeds of keys whose last actions have an unknown fate.
    seeds: HashMap<Item, u64>,
    next_seed: u64,
    /// Objects that a key's last actions may or may not have changed.
    unsure: HashMap<Item, Vec<(Kind, Key)>>,
    /// Keys whose task asks the server about such objects.
    confirming: HashSet<Item>,
    /// Tasks returned and not finished.
    active_tasks: usize,
    listed: BTreeSet<Kind>,
    /// By controller: keys that wait until every kind that the controller reads is listed; `None` once they are.
    parked: Vec<Option<BTreeSet<Key>>>,
}

/// More ready keys wait in the queue.
const MAX_ACTIVE_TASKS: usize = 64;
/// Actions of one reconcile that are performed; the key is reconciled again for the others.
pub(crate) const MAX_ACTIONS: usize = 4096;
/// The reason of the Event about an object whose reconcile panicked.
const PANICKED: &str = "ReconcilePanicked";

impl Core {
    pub(crate) fn new(controllers: Vec<Box<dyn Controller>>, seed: u64) -> Self {
        let parked = controllers.iter().map(|_| Some(BTreeSet::new())).collect();
        Core {
            controllers,
            queue: WorkQueue::default(),
            failures: HashMap::new(),
            seeds: HashMap::new(),
            next_seed: seed,
            unsure: HashMap::new(),
            confirming: HashSet::new(),
            active_tasks: 0,
            listed: BTreeSet::new(),
            parked,
        }
    }

    /// Queues the keys that the changes concern. Returns the faults of controllers that could not say which those are.
    pub(crate) fn route(&mut self, changes: &[Change], view: &View) -> Vec<(&'static str, Panicked)> {
        let (mut keys, mut faults) = (Vec::new(), Vec::new());
        for change in changes {
            for (number, controller) in self.controllers.iter().enumerate() {
                let routed = caught(|| controller.route(change, view, &mut keys));
                faults.extend(routed.err().map(|fault| (controller.name(), fault)));
                match self.parked.get_mut(number) {
                    Some(Some(parked)) => parked.extend(keys.drain(..)),
                    _ => keys.drain(..).for_each(|key| self.queue.add((number, key))),
                }
            }
        }
        faults
    }

    /// The first list of a kind is complete.
    pub(crate) fn listed(&mut self, kind: Kind) {
        self.listed.insert(kind);
        for (number, (controller, parked)) in self.controllers.iter().zip(&mut self.parked).enumerate() {
            if controller.reads().iter().all(|kind| self.listed.contains(kind)) {
                let keys = parked.take().unwrap_or_default();
                keys.into_iter().for_each(|key| self.queue.add((number, key)));
            }
        }
    }

    /// Controllers that do not decide yet, and the kinds that they wait for.
    pub(crate) fn waiting(&self) -> Vec<(&'static str, Vec<&'static str>)> {
        let waiting = self.controllers.iter().zip(&self.parked).filter(|(_, parked)| parked.is_some());
        let unlisted = |kind: &&Kind| !self.listed.contains(*kind);
        waiting
            .map(|(c, _)| (c.name(), c.reads().iter().filter(unlisted).map(|kind| kind.name()).collect()))
            .collect()
    }

    /// Reconciles ready keys until one has actions; keys without actions are finished on the way.
    pub(crate) fn next_task(&mut self, view: &View, now: Now) -> Option<Task> {
        while self.active_tasks < MAX_ACTIVE_TASKS {
            let item = self.queue.take(now.steady)?;
            if let Some(unsure) = self.unsure.remove(&item) {
                self.confirming.insert(item.clone());
                self.active_tasks += 1;
                let actions = unsure.into_iter().map(|(kind, key)| Action::Confirm { kind, key }).collect();
                return Some(Task { item, actions, failure: None });
            }
            let (actions, failure) = match self.reconcile(&item, view, now) {
                Ok(actions) if actions.is_empty() => {
                    self.settle(&item, None, now.steady);
                    continue;
                }
                Ok(actions) => (actions, None),
                Err(fault) => (self.report(&item, view, &fault), Some(Failure::Panicked(fault.0))),
            };
            self.active_tasks += 1;
            return Some(Task { item, actions, failure });
        }
        None
    }

    /// The Event that tells the object's users about a fault in its reconcile.
    fn report(&self, item: &Item, view: &View, fault: &Panicked) -> Vec<Action> {
        let Some(controller) = self.controllers.get(item.0) else { return Vec::new() };
        let object = controller.reads().iter().find_map(|kind| view.get(*kind, &item.1));
        let message = format!("Controller {} {fault}; the object is retried", controller.name());
        object.map(|object| Action::record(&object, true, PANICKED, message)).into_iter().collect()
    }

    /// The actions of one reconcile; requests to requeue go to the queue.
    fn reconcile(&mut self, item: &Item, view: &View, now: Now) -> Result<Vec<Action>, Panicked> {
        let seed = *self.seeds.entry(item.clone()).or_insert_with(|| {
            self.next_seed = self.next_seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            self.next_seed
        });
        let Some(controller) = self.controllers.get(item.0) else { return Ok(Vec::new()) };
        let context = Context { now: now.wall, steady: now.steady, seed, failure: self.failures.get(item) };
        let mut actions = caught(|| controller.reconcile(view, &item.1, context))?;
        actions.retain(|action| match action {
            Action::RequeueAt(at) => {
                self.queue.add_at(item.clone(), now.steady_of(*at));
                false
            }
            _ => true,
        });
        if actions.len() > MAX_ACTIONS {
            actions.truncate(MAX_ACTIONS);
            self.queue.add(item.clone());
        }
        Ok(actions)
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
        if self.confirming.remove(item) && failure.is_none() {
            // The key is reconciled after the answers.
            self.queue.prepared(item, now);
        } else {
            self.queue.done(item, failure.is_some(), now);
        }
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

    pub(crate) fn event_source(&self, number: usize) -> &'static str {
        self.controllers.get(number).map_or("", |c| c.event_source())
    }
}
