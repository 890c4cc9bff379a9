//! Pods that wait for a node: ready (by priority, then by age), backing off after a failure, or unschedulable until the
//! cluster changes in a way that may help. PURE: `now` is passed in.
//! A pod is handed out once at a time; changes during the attempt are kept until its result is known.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use skep_api::time;

use crate::cache::Key;

/// Upstream's defaults.
const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// An unschedulable pod is tried again after this time, even if nothing changes.
const MAX_UNSCHEDULABLE_TIME: Duration = Duration::from_secs(300);

/// What rejected a pod on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Cause {
    /// The node itself: cordon, taints, node selector and affinity, missing topology labels.
    Node,
    /// Resources or ports that other pods hold, or that the node lacks.
    Room,
    /// Affinity to, anti-affinity to or spreading over other pods.
    Pods,
    /// Claims that are missing or not bound, or volumes of other nodes.
    Volumes,
}

/// A change of the cluster that may help a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum ClusterChange {
    NodeAdded,
    /// Labels, taints or the cordon of a node.
    NodeTraits,
    NodeAllocatable,
    NodeGone,
    /// A pod came to a node, or the labels of one changed.
    PodPlaced,
    /// A pod left its node, or needs less of it.
    PodGone,
    /// Labels of a namespace.
    Namespace,
    /// A claim, a volume or a class of storage.
    Volumes,
}

impl ClusterChange {
    /// Whether a pod that was rejected for this cause may fit now.
    pub(super) fn helps(self, cause: Cause) -> bool {
        match (self, cause) {
            (ClusterChange::NodeAdded, _) => true,
            (ClusterChange::NodeTraits, Cause::Node | Cause::Pods | Cause::Volumes) => true,
            (ClusterChange::Volumes, Cause::Volumes) => true,
            (ClusterChange::NodeAllocatable | ClusterChange::PodGone, Cause::Room) => true,
            // A domain that vanishes can raise the least count of a spread constraint.
            (
                ClusterChange::PodPlaced
                | ClusterChange::PodGone
                | ClusterChange::NodeGone
                | ClusterChange::Namespace,
                Cause::Pods,
            ) => true,
            _ => false,
        }
    }
}

/// How an attempt failed. After a successful one the pod is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AttemptResult {
    /// No node fits, for these causes.
    Unschedulable(BTreeSet<Cause>),
    /// The server refused or did not answer: the pod comes back after its backoff.
    Failed,
}

type Rank = (Reverse<i32>, Timestamp, u64, Key);

#[derive(Debug)]
enum PodState {
    Ready,
    Backoff {
        until: Timestamp,
    },
    Unschedulable {
        until: Timestamp,
        causes: BTreeSet<Cause>,
    },
    /// Handed out. The changes since then matter when the attempt fails.
    InAttempt {
        changes: BTreeSet<ClusterChange>,
        /// The pod itself changed.
        touched: bool,
    },
}

#[derive(Debug)]
struct WaitingPod {
    uid: String,
    priority: i32,
    since: Timestamp,
    sequence: u64,
    attempts: u32,
    /// Before this the pod does not become ready again.
    backoff_until: Timestamp,
    state: PodState,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: HashMap<Key, WaitingPod>,
    ready: BTreeSet<Rank>,
    /// Ends of backoffs and of unschedulable times.
    timers: BTreeSet<(Timestamp, Key)>,
    sequence: u64,
}

impl Queue {
    /// Adds a pod that waits for a node, or updates it. `changed`: it is worth another attempt after its backoff; false for
    /// changes that the scheduler itself wrote.
    pub(super) fn add(&mut self, key: &Key, uid: &str, priority: i32, changed: bool, now: Timestamp) {
        if self.entries.get(key).is_some_and(|e| e.uid != uid) {
            // Another pod of the same name.
            self.remove(key);
        }
        if let Some(entry) = self.entries.get_mut(key) {
            let old = rank(key, entry);
            entry.priority = priority;
            if matches!(entry.state, PodState::Ready) {
                self.ready.remove(&old);
                self.ready.insert(rank(key, entry));
            }
            if changed {
                self.touch(key, now);
            }
            return;
        }
        self.sequence += 1;
        let entry = WaitingPod {
            uid: uid.to_owned(),
            priority,
            since: now,
            sequence: self.sequence,
            attempts: 0,
            backoff_until: now,
            state: PodState::Ready,
        };
        self.ready.insert(rank(key, &entry));
        self.entries.insert(key.clone(), entry);
    }

    /// The pod is gone, bound, or has another scheduler.
    pub(super) fn remove(&mut self, key: &Key) {
        let Some(entry) = self.entries.remove(key) else { return };
        match entry.state {
            PodState::Ready => drop(self.ready.remove(&rank(key, &entry))),
            PodState::Backoff { until } | PodState::Unschedulable { until, .. } => {
                self.timers.remove(&(until, key.clone()));
            }
            PodState::InAttempt { .. } => {}
        }
    }

    /// The next pod to place, and the number of the attempt (from 1).
    pub(super) fn take(&mut self, now: Timestamp) -> Option<(Key, u32)> {
        while let Some((until, _)) = self.timers.first()
            && *until <= now
            && let Some((_, key)) = self.timers.pop_first()
        {
            self.make_ready(&key);
        }
        let (.., key) = self.ready.pop_first()?;
        let entry = self.entries.get_mut(&key)?;
        entry.attempts = entry.attempts.saturating_add(1);
        entry.state = PodState::InAttempt { changes: BTreeSet::new(), touched: false };
        Some((key, entry.attempts))
    }

    /// Ends a failed attempt.
    pub(super) fn attempt_failed(&mut self, key: &Key, uid: &str, result: AttemptResult, now: Timestamp) {
        // The pod may have been removed or replaced meanwhile.
        let Some(entry) = self.entries.get_mut(key).filter(|e| e.uid == uid) else { return };
        let PodState::InAttempt { changes, touched } = &entry.state else { return };
        let causes = match result {
            AttemptResult::Failed => None,
            AttemptResult::Unschedulable(causes) => {
                let helped = *touched || changes.iter().any(|change| causes.iter().any(|c| change.helps(*c)));
                (!helped).then_some(causes)
            }
        };
        entry.backoff_until = time::after(now, backoff(entry.attempts));
        entry.state = match causes {
            Some(causes) => {
                PodState::Unschedulable { until: time::after(now, MAX_UNSCHEDULABLE_TIME), causes }
            }
            None => PodState::Backoff { until: entry.backoff_until },
        };
        let (PodState::Unschedulable { until, .. } | PodState::Backoff { until }) = entry.state else {
            return;
        };
        self.timers.insert((until, key.clone()));
    }

    /// Queues the pods that the change may help.
    pub(super) fn cluster_changed(&mut self, change: ClusterChange, now: Timestamp) {
        let mut helped = Vec::new();
        for (key, entry) in &mut self.entries {
            match &mut entry.state {
                PodState::InAttempt { changes, .. } => drop(changes.insert(change)),
                PodState::Unschedulable { causes, .. } if causes.iter().any(|c| change.helps(*c)) => {
                    helped.push(key.clone());
                }
                _ => {}
            }
        }
        helped.iter().for_each(|key| self.touch(key, now));
    }

    /// When a pod becomes ready by itself; `None` if none does.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn touch(&mut self, key: &Key, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        match &mut entry.state {
            PodState::InAttempt { touched, .. } => *touched = true,
            PodState::Unschedulable { until, .. } => {
                self.timers.remove(&(*until, key.clone()));
                let due = entry.backoff_until;
                if due <= now {
                    return self.make_ready(key);
                }
                entry.state = PodState::Backoff { until: due };
                self.timers.insert((due, key.clone()));
            }
            PodState::Ready | PodState::Backoff { .. } => {}
        }
    }

    fn make_ready(&mut self, key: &Key) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.state = PodState::Ready;
            self.ready.insert(rank(key, entry));
        }
    }
}

fn rank(key: &Key, entry: &WaitingPod) -> Rank {
    (Reverse(entry.priority), entry.since, entry.sequence, key.clone())
}

fn backoff(attempts: u32) -> Duration {
    (MIN_BACKOFF * 2_u32.pow(attempts.saturating_sub(1).min(8))).min(MAX_BACKOFF)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(1_000_000 + ms).unwrap()
    }

    fn key(name: &str) -> Key {
        Key::new("ns", name)
    }

    fn unschedulable(cause: Cause) -> AttemptResult {
        AttemptResult::Unschedulable(BTreeSet::from([cause]))
    }

    fn taken(queue: &mut Queue, ms: i64) -> Option<String> {
        queue.take(at(ms)).map(|(key, _)| key.name.to_string())
    }

    #[test]
    fn the_higher_priority_goes_first_then_the_older() {
        let mut q = Queue::default();
        q.add(&key("old"), "1", 0, false, at(0));
        q.add(&key("new"), "2", 0, false, at(1));
        q.add(&key("great"), "3", 10, false, at(2));
        let order: Vec<_> = std::iter::from_fn(|| taken(&mut q, 3)).collect();
        assert_eq!(order, ["great", "old", "new"]);
    }

    #[test]
    fn only_a_change_that_may_help_makes_an_unschedulable_pod_ready() {
        let mut q = Queue::default();
        q.add(&key("a"), "1", 0, false, at(0));
        taken(&mut q, 0);
        q.attempt_failed(&key("a"), "1", unschedulable(Cause::Room), at(0));
        q.cluster_changed(ClusterChange::NodeTraits, at(2000));
        assert_eq!(taken(&mut q, 2000), None);
        q.cluster_changed(ClusterChange::PodGone, at(2000));
        assert_eq!(taken(&mut q, 2000).as_deref(), Some("a"));
    }

    #[test]
    fn help_before_the_backoff_is_over_waits_for_its_end() {
        let mut q = Queue::default();
        q.add(&key("a"), "1", 0, false, at(0));
        taken(&mut q, 0);
        q.attempt_failed(&key("a"), "1", unschedulable(Cause::Room), at(0));
        q.cluster_changed(ClusterChange::NodeAdded, at(10));
        assert_eq!(taken(&mut q, 999), None);
        assert_eq!(q.next_due(), Some(at(1000)));
        assert_eq!(taken(&mut q, 1000).as_deref(), Some("a"));
    }

    #[test]
    fn a_change_during_the_attempt_is_not_lost() {
        let mut q = Queue::default();
        q.add(&key("a"), "1", 0, false, at(0));
        taken(&mut q, 0);
        q.cluster_changed(ClusterChange::PodGone, at(1));
        q.attempt_failed(&key("a"), "1", unschedulable(Cause::Room), at(2));
        assert_eq!(q.next_due(), Some(at(1002)), "it backs off and is not unschedulable");
    }

    #[test]
    fn an_unschedulable_pod_is_tried_again_without_a_change() {
        let mut q = Queue::default();
        q.add(&key("a"), "1", 0, false, at(0));
        taken(&mut q, 0);
        q.attempt_failed(&key("a"), "1", unschedulable(Cause::Node), at(0));
        assert_eq!(taken(&mut q, 299_999), None);
        assert_eq!(taken(&mut q, 300_000).as_deref(), Some("a"));
    }

    #[test]
    fn a_new_pod_of_the_same_name_starts_with_its_first_attempt() {
        let mut q = Queue::default();
        q.add(&key("a"), "1", 0, false, at(0));
        taken(&mut q, 0);
        q.add(&key("a"), "2", 0, false, at(1));
        q.attempt_failed(&key("a"), "1", AttemptResult::Failed, at(2));
        assert_eq!(q.take(at(2)), Some((key("a"), 1)));
    }

    #[test]
    fn backoff_doubles_up_to_its_maximum() {
        let seconds: Vec<_> = (1..=6).map(|n| backoff(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 10, 10]);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Add(u8, i32),
        Remove(u8),
        Take,
        Settle(u8, bool),
        Change(u8),
        Wait(u16),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0..6u8, -2..3).prop_map(|(k, p)| Op::Add(k, p)),
            (0..6u8).prop_map(Op::Remove),
            Just(Op::Take),
            (0..6u8, any::<bool>()).prop_map(|(k, f)| Op::Settle(k, f)),
            (0..8u8).prop_map(Op::Change),
            (0..4000u16).prop_map(Op::Wait),
        ]
    }

    proptest! {
        #[test]
        fn no_pod_is_lost_and_none_is_handed_out_twice(ops in prop::collection::vec(op(), 0..80)) {
            let mut q = Queue::default();
            let (mut known, mut out) = (BTreeSet::new(), BTreeSet::new());
            let mut now = 0_i64;
            for op in ops {
                match op {
                    Op::Add(k, p) => {
                        q.add(&key(&k.to_string()), "u", p, true, at(now));
                        known.insert(k);
                    }
                    Op::Remove(k) => {
                        q.remove(&key(&k.to_string()));
                        known.remove(&k);
                        out.remove(&k);
                    }
                    Op::Take => if let Some((key, _)) = q.take(at(now)) {
                        let k: u8 = key.name.parse().unwrap();
                        prop_assert!(known.contains(&k));
                        prop_assert!(out.insert(k), "{} was handed out twice", k);
                    },
                    Op::Settle(k, failed) => {
                        let result = if failed { AttemptResult::Failed } else { unschedulable(Cause::Room) };
                        q.attempt_failed(&key(&k.to_string()), "u", result, at(now));
                        out.remove(&k);
                    }
                    Op::Change(c) => {
                        let all = [ClusterChange::NodeAdded, ClusterChange::NodeTraits, ClusterChange::NodeAllocatable, ClusterChange::NodeGone,
                            ClusterChange::PodPlaced, ClusterChange::PodGone, ClusterChange::Namespace, ClusterChange::Volumes];
                        q.cluster_changed(all[usize::from(c)], at(now));
                    }
                    Op::Wait(ms) => now += i64::from(ms),
                }
            }
            now += 400_000;
            while let Some((key, _)) = q.take(at(now)) {
                prop_assert!(out.insert(key.name.parse().unwrap()));
            }
            prop_assert_eq!(out, known, "in the end every waiting pod has been handed out");
        }
    }
}
