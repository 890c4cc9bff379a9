//! The scheduler's mind: from changes of the cluster to decisions about pods. PURE.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};

use super::preempt::{self, Budgets, NoPlan, Plan};
use super::queue::{self, Fate, Queue};
use super::resources::requested;
use super::snapshot::{Snapshot, priority};
use super::{NAME, decide};
use crate::controllers::pods::{finished, node_name};
use crate::meta;
use crate::view::{Change, Key, Object};

/// What the scheduler decided about a pod.
#[derive(Debug)]
pub enum Decision {
    Bind {
        pod: Arc<Pod>,
        node: Arc<str>,
    },
    /// `plan`: what is done about it.
    Refuse {
        pod: Arc<Pod>,
        reason: &'static str,
        message: String,
        plan: Option<Plan>,
    },
}

/// Fed with every change, asked for one decision after the other. Public for simulations and benchmarks.
#[derive(Default)]
pub struct Mind {
    pub(super) snapshot: Snapshot,
    pub(super) queue: Queue,
    /// Pods that are for this scheduler to place.
    pods: HashMap<Key, Arc<Pod>>,
    budgets: Budgets,
    decided: u64,
}

impl Mind {
    /// Takes in a change of a pod, a node, a namespace or a disruption budget; others are not looked at.
    pub fn apply(&mut self, change: &Change, now: Timestamp) {
        self.snapshot.apply(change);
        match (&change.old, &change.new) {
            (old, Some(Object::Pod(pod))) => {
                let old = old.as_ref().and_then(as_pod);
                self.put_pod(pod, now);
                if let Some(change) = pod_change(old, pod) {
                    self.queue.changed(change, now);
                }
            }
            (Some(Object::Pod(pod)), None) => {
                let key = Key::of(&pod.metadata);
                let held_room = !node_name(pod).is_empty() || self.pods.contains_key(&key);
                self.forget(&key, now);
                if held_room && !finished(pod) {
                    self.queue.changed(queue::Change::PodGone, now);
                }
            }
            (None, Some(Object::Node(_))) => self.queue.changed(queue::Change::NodeAdded, now),
            (Some(Object::Node(_)), None) => self.queue.changed(queue::Change::NodeGone, now),
            (Some(Object::Node(old)), Some(Object::Node(node))) => self.node_changed(old, node, now),
            (_, Some(Object::Namespace(_))) => self.queue.changed(queue::Change::Namespace, now),
            (_, Some(Object::PodDisruptionBudget(budget))) => {
                self.budgets.insert(Key::of(&budget.metadata), budget.clone());
            }
            (Some(Object::PodDisruptionBudget(budget)), None) => {
                self.budgets.remove(&Key::of(&budget.metadata));
            }
            _ => {}
        }
    }

    fn node_changed(&mut self, old: &Node, node: &Node, now: Timestamp) {
        let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
        if old.spec != node.spec || old.metadata.labels != node.metadata.labels {
            self.queue.changed(queue::Change::NodeTraits, now);
        }
        if allocatable(old) != allocatable(node) {
            self.queue.changed(queue::Change::NodeAllocatable, now);
        }
    }

    fn put_pod(&mut self, pod: &Arc<Pod>, now: Timestamp) {
        let key = Key::of(&pod.metadata);
        if !is_ours(pod) {
            return self.forget(&key, now);
        }
        // Our own status writes come back too; they change nothing that matters here.
        let changed = |old: &Arc<Pod>| old.spec != pod.spec || old.metadata.labels != pod.metadata.labels;
        let changed = self.pods.get(&key).is_some_and(changed);
        self.pods.insert(key.clone(), pod.clone());
        self.queue.add(&key, meta::uid(&pod.metadata), priority(pod), changed, now);
    }

    fn forget(&mut self, key: &Key, now: Timestamp) {
        self.pods.remove(key);
        self.queue.remove(key);
        self.withdraw(key, now);
    }

    /// Room that is no longer kept for a pod is room for others.
    fn withdraw(&mut self, key: &Key, now: Timestamp) {
        if self.snapshot.withdraw(key) {
            self.queue.changed(queue::Change::PodGone, now);
        }
    }

    /// The decision about the pod whose turn it is; its room is taken from now on. `None`: none can be tried now.
    pub fn next(&mut self, now: Timestamp, seed: u64) -> Option<Decision> {
        loop {
            let (key, _) = self.queue.take(now)?;
            let Some((pod, spec)) =
                self.pods.get(&key).and_then(|pod| Some((pod.clone(), pod.spec.clone()?)))
            else {
                self.queue.remove(&key);
                continue;
            };
            let uid = meta::uid(&pod.metadata);
            if spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
                // Only a change of the pod itself can help.
                self.queue.settle(&key, uid, Fate::Unschedulable(BTreeSet::new()), now);
                let message = "Scheduling is blocked due to non-empty scheduling gates".to_owned();
                return Some(Decision::Refuse { pod, reason: "SchedulingGated", message, plan: None });
            }
            self.decided += 1;
            let seed = seed.wrapping_add(self.decided);
            let why = match decide::choose(&self.snapshot, &pod, &spec, seed) {
                Ok(node) => {
                    self.withdraw(&key, now);
                    self.snapshot.assume(&pod, &node);
                    return Some(Decision::Bind { pod, node });
                }
                Err(why) => why,
            };
            self.queue.settle(&key, uid, Fate::Unschedulable(why.causes()), now);
            let mut message = why.to_string();
            let plan = self.plan(&pod, &spec, seed, now, &mut message);
            return Some(Decision::Refuse { pod, reason: "Unschedulable", message, plan });
        }
    }

    /// Room for a pod that no node can take now; without a plan the message says why not.
    fn plan(
        &mut self,
        pod: &Arc<Pod>,
        spec: &PodSpec,
        seed: u64,
        now: Timestamp,
        message: &mut String,
    ) -> Option<Plan> {
        self.snapshot.known().next()?;
        match preempt::plan(&mut self.snapshot, pod, spec, &self.budgets, seed) {
            Ok(plan) => {
                self.withdraw(&Key::of(&pod.metadata), now);
                self.snapshot.nominate(pod, &plan.node);
                Some(plan)
            }
            Err(why) => {
                if why != NoPlan::Underway {
                    self.withdraw(&Key::of(&pod.metadata), now);
                }
                *message = format!("{message} preemption: {why}");
                None
            }
        }
    }

    /// Room could not be made as planned: the pod is looked at again.
    pub(super) fn not_made(&mut self, key: &Key, uid: &str, now: Timestamp) {
        if let Some(pod) = self.pods.get(key).filter(|pod| meta::uid(&pod.metadata) == uid) {
            self.queue.add(key, uid, priority(pod), true, now);
            self.withdraw(key, now);
        }
    }

    /// The server did not take the binding: the room is free again.
    pub(super) fn not_bound(&mut self, key: &Key, uid: &str, now: Timestamp) {
        if self.pods.get(key).is_some_and(|pod| meta::uid(&pod.metadata) == uid) {
            self.snapshot.release(key, uid);
            self.queue.settle(key, uid, Fate::Failed, now);
            self.queue.changed(queue::Change::PodGone, now);
        }
    }
}

fn as_pod(object: &Object) -> Option<&Arc<Pod>> {
    match object {
        Object::Pod(pod) => Some(pod),
        _ => None,
    }
}

fn is_ours(pod: &Pod) -> bool {
    let name = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or(NAME);
    (name == NAME || name.is_empty())
        && node_name(pod).is_empty()
        && !finished(pod)
        && !meta::terminating(&pod.metadata)
}

/// What the change of a pod means for those that wait.
fn pod_change(old: Option<&Arc<Pod>>, new: &Pod) -> Option<queue::Change> {
    let placed = |pod: &Pod| !node_name(pod).is_empty() && !finished(pod);
    let old = old.filter(|old| placed(old));
    match (old, placed(new)) {
        (None, true) => Some(queue::Change::PodPlaced),
        (Some(_), false) => Some(queue::Change::PodGone),
        (Some(old), true) if old.metadata.labels != new.metadata.labels => Some(queue::Change::PodPlaced),
        // It needs less, or no longer counts for spreading.
        (Some(old), true)
            if requested(old) != requested(new)
                || meta::terminating(&old.metadata) != meta::terminating(&new.metadata) =>
        {
            Some(queue::Change::PodGone)
        }
        _ => None,
    }
}
