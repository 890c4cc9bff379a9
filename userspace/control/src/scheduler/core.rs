//! The scheduler's pure core: from changes of the cluster to decisions about pods. PURE.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};
use skep_api::fit::requested;

use super::budgets::Budgets;
use super::decide::{self, Choice};
use super::name::SCHEDULER_NAME;
use super::preempt::{self, NoPlan, Plan};
use super::queue::{AttemptResult, ClusterChange, Queue};
use super::snapshot::{Snapshot, priority};
use super::volumes::{Progress, VolumePlan};
use super::waiting::WaitingPods;
use crate::cache::{Change, Key, Kind, Object};
use crate::controllers::pods::{finished, node_name};
use crate::guard::{Panicked, caught};
use crate::meta;

/// Upstream's reason when the scheduler itself failed.
pub(super) const FAULT: &str = "SchedulerError";

/// What the scheduler decided about a pod.
#[derive(Debug)]
pub enum Decision {
    Bind {
        pod: Arc<Pod>,
        node: Arc<str>,
    },
    /// The node is chosen; before the pod is bound, its volumes are.
    PrepareVolumes {
        pod: Arc<Pod>,
        node: Arc<str>,
        plan: VolumePlan,
    },
    Refuse {
        pod: Arc<Pod>,
        reason: &'static str,
        message: String,
        /// The pods to remove so that it fits.
        plan: Option<Plan>,
        /// The node that has room reserved for it.
        nominated: Option<Arc<str>>,
    },
}

/// Decides which pod goes to which node. Public for simulations and benchmarks.
///
/// The caller keeps this order:
/// 1. `apply` with every change, in the order in which it happened. The same version may come twice.
/// 2. `next`, once every object was listed, until it returns `None`. A decided pod is not returned again before step 3; its
///    room is taken from the decision on.
/// 3. Each decision is written. On success nothing is called: the change of the pod comes through `apply`. If the server
///    did not accept a binding, `binding_failed`; if a victim of a plan could not be removed, `preemption_failed`. After the
///    volumes of a pod were written, `volumes_written`, and `next` binds the pod when its claims are bound; if they could not
///    be, `volumes_failed`. All may come late or twice: a uid that is no longer current is ignored.
///
/// `next_due` is the time at which to call `next` again without a change.
#[derive(Default)]
pub struct Scheduler {
    pub(super) snapshot: Snapshot,
    pub(super) queue: Queue,
    /// Pods that wait for this scheduler.
    pods: HashMap<Key, Arc<Pod>>,
    budgets: Budgets,
    waiting: WaitingPods,
    decided: u64,
}

impl Scheduler {
    /// Stores a change of a kind that the scheduler reads; others are ignored.
    pub fn apply(&mut self, change: &Change, now: Timestamp) {
        self.snapshot.apply(change);
        match (&change.old, &change.new) {
            (old, Some(Object::Pod(pod))) => {
                let old = old.as_ref().and_then(as_pod);
                self.put_pod(pod, now);
                if let Some(change) = pod_change(old, pod) {
                    self.queue.cluster_changed(change, now);
                }
            }
            (Some(Object::Pod(pod)), None) => {
                let key = Key::of(&pod.metadata);
                let held_room = !node_name(pod).is_empty() || self.pods.contains_key(&key);
                self.remove_pod(&key, now);
                if held_room && !finished(pod) {
                    self.queue.cluster_changed(ClusterChange::PodGone, now);
                }
            }
            (None, Some(Object::Node(_))) => self.queue.cluster_changed(ClusterChange::NodeAdded, now),
            (Some(Object::Node(_)), None) => self.queue.cluster_changed(ClusterChange::NodeGone, now),
            (Some(Object::Node(old)), Some(Object::Node(node))) => self.node_changed(old, node, now),
            (_, Some(Object::Namespace(_))) => self.queue.cluster_changed(ClusterChange::Namespace, now),
            (_, Some(Object::PodDisruptionBudget(budget))) => {
                self.budgets.insert(Key::of(&budget.metadata), budget.clone());
            }
            (Some(Object::PodDisruptionBudget(budget)), None) => {
                self.budgets.remove(&Key::of(&budget.metadata));
            }
            (old, new) => {
                if let Some(object) = new.as_ref().or(old.as_ref()).filter(|object| is_of_storage(object)) {
                    self.waiting.changed(object);
                    self.queue.cluster_changed(ClusterChange::Volumes, now);
                }
            }
        }
    }

    /// When a pod becomes ready by itself; `None` if none does.
    pub fn next_due(&self) -> Option<Timestamp> {
        [self.queue.next_due(), self.waiting.next_due()].into_iter().flatten().min()
    }

    fn node_changed(&mut self, old: &Node, node: &Node, now: Timestamp) {
        let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
        if old.spec != node.spec || old.metadata.labels != node.metadata.labels {
            self.queue.cluster_changed(ClusterChange::NodeTraits, now);
        }
        if allocatable(old) != allocatable(node) {
            self.queue.cluster_changed(ClusterChange::NodeAllocatable, now);
        }
    }

    fn put_pod(&mut self, pod: &Arc<Pod>, now: Timestamp) {
        let key = Key::of(&pod.metadata);
        if !is_waiting_for_us(pod) {
            return self.remove_pod(&key, now);
        }
        // Our own status writes come back as changes too; they do not make the pod worth another attempt.
        let changed = |old: &Arc<Pod>| old.spec != pod.spec || old.metadata.labels != pod.metadata.labels;
        let changed = self.pods.get(&key).is_some_and(changed);
        self.pods.insert(key.clone(), pod.clone());
        self.queue.add(&key, meta::uid(&pod.metadata), priority(pod), changed, now);
    }

    fn remove_pod(&mut self, key: &Key, now: Timestamp) {
        self.pods.remove(key);
        self.queue.remove(key);
        if let Some(waiting) = self.waiting.remove(key) {
            self.snapshot.volumes.finish(&waiting.plan);
            self.snapshot.release_assumed(key, meta::uid(&waiting.pod.metadata));
        }
        self.withdraw(key, now);
    }

    /// Ends the nomination of a pod; its room is free for others.
    fn withdraw(&mut self, key: &Key, now: Timestamp) {
        if self.snapshot.withdraw(key) {
            self.queue.cluster_changed(ClusterChange::PodGone, now);
        }
    }

    /// Decides about the next ready pod; its room is taken from now on. `None` if no pod is ready.
    pub fn next(&mut self, now: Timestamp, seed: u64) -> Option<Decision> {
        if let Some(decision) = self.next_waiting(now) {
            return Some(decision);
        }
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
                // No cause: only a change of the pod itself can help.
                self.queue.attempt_failed(&key, uid, AttemptResult::Unschedulable(BTreeSet::new()), now);
                let message = "Scheduling is blocked due to non-empty scheduling gates".to_owned();
                return Some(self.refuse(pod, "SchedulingGated", message, None));
            }
            self.decided = self.decided.wrapping_add(1);
            let seed = seed.wrapping_add(self.decided);
            let chosen = match caught(|| decide::choose(&self.snapshot, &pod, &spec, seed)) {
                Ok(chosen) => chosen,
                Err(fault) => return Some(self.fault(pod, &fault, now)),
            };
            let why = match chosen {
                Ok(Choice { node, volumes }) => {
                    self.withdraw(&key, now);
                    self.snapshot.assume(&pod, &node);
                    match volumes {
                        None => return Some(Decision::Bind { pod, node }),
                        Some(plan) => match self.prepare_volumes(&pod, &node, plan, now) {
                            Some(decision) => return Some(decision),
                            None => continue,
                        },
                    }
                }
                Err(why) => why,
            };
            self.queue.attempt_failed(&key, uid, AttemptResult::Unschedulable(why.causes()), now);
            let mut message = why.to_string();
            let plan = match caught(|| self.plan(&pod, &spec, seed, now, &mut message)) {
                Ok(plan) => plan,
                Err(fault) => return Some(self.fault(pod, &fault, now)),
            };
            return Some(self.refuse(pod, "Unschedulable", message, plan));
        }
    }

    /// The pod waits for its volumes; the decision to write what they need, if that is anything.
    fn prepare_volumes(
        &mut self,
        pod: &Arc<Pod>,
        node: &Arc<str>,
        plan: VolumePlan,
        now: Timestamp,
    ) -> Option<Decision> {
        self.snapshot.volumes.begin(&plan, node);
        self.waiting.insert(pod, node, plan.clone(), now);
        if plan.volumes.is_empty() && plan.claims.is_empty() {
            // Everything was written before, perhaps by an earlier scheduler.
            return self.next_waiting(now);
        }
        Some(Decision::PrepareVolumes { pod: pod.clone(), node: node.clone(), plan })
    }

    /// The next pod whose volumes are bound, or will not be.
    fn next_waiting(&mut self, now: Timestamp) -> Option<Decision> {
        loop {
            let (key, expired) = self.waiting.take_due(now)?;
            let Some(waiting) = self.waiting.get(&key) else { continue };
            let node = self.snapshot.known_node(&waiting.node);
            let progress = match node {
                _ if expired => Progress::Failed("binding volumes: context deadline exceeded".to_owned()),
                Some((_, node)) => self.snapshot.volumes.progress(&waiting.pod, node),
                None => Progress::Failed(format!("node {:?} not found", waiting.node)),
            };
            if progress == Progress::Waiting {
                continue;
            }
            let Some(waiting) = self.waiting.remove(&key) else { continue };
            self.snapshot.volumes.finish(&waiting.plan);
            let (pod, node) = (waiting.pod, waiting.node);
            let Progress::Failed(why) = progress else { return Some(Decision::Bind { pod, node }) };
            self.binding_failed(&key, meta::uid(&pod.metadata), now);
            let message = format!("running PreBind plugin \"VolumeBinding\": {why}");
            return Some(self.refuse(pod, FAULT, message, None));
        }
    }

    /// The volumes of a pod were written, with these versions as the result.
    pub(super) fn volumes_written(&mut self, key: &Key, uid: &str, written: Vec<Object>, now: Timestamp) {
        for object in written {
            self.apply(&Change { old: None, new: Some(object) }, now);
        }
        let plan = self.waiting.written(key, uid);
        self.snapshot.volumes.finish(&plan);
    }

    /// They could not be written: the pod is tried again.
    pub(super) fn volumes_failed(&mut self, key: &Key, uid: &str, written: Vec<Object>, now: Timestamp) {
        for object in written {
            self.apply(&Change { old: None, new: Some(object) }, now);
        }
        if self.waiting.get(key).is_some_and(|waiting| meta::uid(&waiting.pod.metadata) == uid)
            && let Some(waiting) = self.waiting.remove(key)
        {
            self.snapshot.volumes.finish(&waiting.plan);
            self.binding_failed(key, uid, now);
        }
    }

    /// A fault of ours: the pod is tried again after a back-off, and the others go on.
    fn fault(&mut self, pod: Arc<Pod>, fault: &Panicked, now: Timestamp) -> Decision {
        let (key, uid) = (Key::of(&pod.metadata), meta::uid(&pod.metadata));
        self.queue.attempt_failed(&key, uid, AttemptResult::Failed, now);
        // If the attempt had already ended, the pod does not wait for a change of the cluster.
        self.queue.add(&key, uid, priority(&pod), true, now);
        self.refuse(pod, FAULT, format!("the scheduler {fault}"), None)
    }

    fn refuse(&self, pod: Arc<Pod>, reason: &'static str, message: String, plan: Option<Plan>) -> Decision {
        let nominated = self.snapshot.nomination(&pod).cloned();
        Decision::Refuse { pod, reason, message, plan, nominated }
    }

    /// Plans the removal of pods of lower priority. Without a plan, the reason is added to the message.
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
                if why != NoPlan::InProgress {
                    self.withdraw(&Key::of(&pod.metadata), now);
                }
                *message = format!("{message} preemption: {why}");
                None
            }
        }
    }

    /// A victim could not be removed: the pod is tried again.
    pub(super) fn preemption_failed(&mut self, key: &Key, uid: &str, now: Timestamp) {
        if let Some(pod) = self.pods.get(key).filter(|pod| meta::uid(&pod.metadata) == uid) {
            self.queue.add(key, uid, priority(pod), true, now);
            self.withdraw(key, now);
        }
    }

    /// The server did not accept the binding: the room is free again.
    pub(super) fn binding_failed(&mut self, key: &Key, uid: &str, now: Timestamp) {
        if self.pods.get(key).is_some_and(|pod| meta::uid(&pod.metadata) == uid) {
            self.snapshot.release(key, uid);
            self.queue.attempt_failed(key, uid, AttemptResult::Failed, now);
            self.queue.cluster_changed(ClusterChange::PodGone, now);
        }
    }
}

fn is_of_storage(object: &Object) -> bool {
    matches!(object.kind(), Kind::PersistentVolumeClaim | Kind::PersistentVolume | Kind::StorageClass)
}

fn as_pod(object: &Object) -> Option<&Arc<Pod>> {
    match object {
        Object::Pod(pod) => Some(pod),
        _ => None,
    }
}

fn is_waiting_for_us(pod: &Pod) -> bool {
    let name = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or(SCHEDULER_NAME);
    (name == SCHEDULER_NAME || name.is_empty())
        && node_name(pod).is_empty()
        && !finished(pod)
        && !meta::terminating(&pod.metadata)
}

/// What the change of a pod means for the pods that wait.
fn pod_change(old: Option<&Arc<Pod>>, new: &Pod) -> Option<ClusterChange> {
    let placed = |pod: &Pod| !node_name(pod).is_empty() && !finished(pod);
    let old = old.filter(|old| placed(old));
    match (old, placed(new)) {
        (None, true) => Some(ClusterChange::PodPlaced),
        (Some(_), false) => Some(ClusterChange::PodGone),
        (Some(old), true) if old.metadata.labels != new.metadata.labels => Some(ClusterChange::PodPlaced),
        // It needs less, or no longer counts for spreading.
        (Some(old), true)
            if requested(old) != requested(new)
                || meta::terminating(&old.metadata) != meta::terminating(&new.metadata) =>
        {
            Some(ClusterChange::PodGone)
        }
        _ => None,
    }
}
