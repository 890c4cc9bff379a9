//! Pods that wait for a node, in three places: ready (by priority, then by age), backing off after a failure, and
//! unschedulable until the cluster changes in a way that could help them. PURE: `now` is passed in.
//! A pod is handed out once at a time; what happens meanwhile is remembered until its fate is told.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use jiff::Timestamp;

use crate::view::Key;

/// Backoff as upstream's defaults.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_LONGEST: Duration = Duration::from_secs(10);
/// However little changes, an unschedulable pod is looked at again after this time.
const LONGEST_REST: Duration = Duration::from_secs(300);

/// What rejected a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Cause {
    /// Cordons, taints, node selectors and affinity, missing topology labels: the node itself.
    Node,
    /// Resources or ports that other pods hold, or that the node lacks.
    Room,
    /// Affinity, anti-affinity or spreading with respect to other pods.
    Pods,
}

/// What changed in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Change {
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
}

impl Change {
    /// Whether a pod that was rejected for this cause may fit now.
    pub(super) fn helps(self, cause: Cause) -> bool {
        match (self, cause) {
            (Change::NodeAdded, _) => true,
            (Change::NodeTraits, Cause::Node | Cause::Pods) => true,
            (Change::NodeAllocatable | Change::PodGone, Cause::Room) => true,
            // A domain that vanishes can raise the least count of a spread constraint.
            (Change::PodPlaced | Change::PodGone | Change::NodeGone | Change::Namespace, Cause::Pods) => true,
            _ => false,
        }
    }
}

/// How an attempt to place a pod failed; a pod that is placed is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// No node fits, for these causes.
    Unschedulable(BTreeSet<Cause>),
    /// The server refused or did not answer: the pod comes back after its backoff.
    Failed,
}

type Rank = (Reverse<i32>, Timestamp, u64, Key);

#[derive(Debug)]
enum Place {
    Ready,
    Backoff {
        until: Timestamp,
    },
    Resting {
        until: Timestamp,
        causes: BTreeSet<Cause>,
    },
    /// Handed out; changes since then that may matter when its fate is told.
    Out {
        seen: BTreeSet<Change>,
        touched: bool,
    },
}

#[derive(Debug)]
struct Entry {
    uid: String,
    priority: i32,
    since: Timestamp,
    sequence: u64,
    attempts: u32,
    /// Before this the pod does not become ready again.
    backoff_until: Timestamp,
    place: Place,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: HashMap<Key, Entry>,
    ready: BTreeSet<Rank>,
    /// Ends of backoffs and of rests.
    timers: BTreeSet<(Timestamp, Key)>,
    sequence: u64,
}

impl Queue {
    /// Takes in a pod that waits for a node. A known pod that was changed by its owner is tried again after its backoff;
    /// pass `changed` as false for echoes of what the scheduler itself wrote.
    pub(super) fn add(&mut self, key: &Key, uid: &str, priority: i32, changed: bool, now: Timestamp) {
        if self.entries.get(key).is_some_and(|e| e.uid != uid) {
            // Another pod by the same name.
            self.remove(key);
        }
        if let Some(entry) = self.entries.get_mut(key) {
            let old = rank(key, entry);
            entry.priority = priority;
            if matches!(entry.place, Place::Ready) {
                self.ready.remove(&old);
                self.ready.insert(rank(key, entry));
            }
            if changed {
                self.touch(key, now);
            }
            return;
        }
        self.sequence += 1;
        let entry = Entry {
            uid: uid.to_owned(),
            priority,
            since: now,
            sequence: self.sequence,
            attempts: 0,
            backoff_until: now,
            place: Place::Ready,
        };
        self.ready.insert(rank(key, &entry));
        self.entries.insert(key.clone(), entry);
    }

    /// The pod is gone, bound, or no longer ours.
    pub(super) fn remove(&mut self, key: &Key) {
        let Some(entry) = self.entries.remove(key) else { return };
        match entry.place {
            Place::Ready => drop(self.ready.remove(&rank(key, &entry))),
            Place::Backoff { until } | Place::Resting { until, .. } => {
                self.timers.remove(&(until, key.clone()));
            }
            Place::Out { .. } => {}
        }
    }

    /// The next pod to place, and the attempt's number (from 1).
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
        entry.place = Place::Out { seen: BTreeSet::new(), touched: false };
        Some((key, entry.attempts))
    }

    /// Tells how an attempt ended.
    pub(super) fn settle(&mut self, key: &Key, uid: &str, fate: Fate, now: Timestamp) {
        // A pod that was removed or replaced meanwhile is nobody's business.
        let Some(entry) = self.entries.get_mut(key).filter(|e| e.uid == uid) else { return };
        let Place::Out { seen, touched } = &entry.place else { return };
        let causes = match fate {
            Fate::Failed => None,
            Fate::Unschedulable(causes) => {
                let helped = *touched || seen.iter().any(|change| causes.iter().any(|c| change.helps(*c)));
                (!helped).then_some(causes)
            }
        };
        entry.backoff_until = now + backoff(entry.attempts);
        entry.place = match causes {
            Some(causes) => Place::Resting { until: now + LONGEST_REST, causes },
            None => Place::Backoff { until: entry.backoff_until },
        };
        let (Place::Resting { until, .. } | Place::Backoff { until }) = entry.place else { return };
        self.timers.insert((until, key.clone()));
    }

    /// Moves on the pods that the change may help.
    pub(super) fn changed(&mut self, change: Change, now: Timestamp) {
        let mut helped = Vec::new();
        for (key, entry) in &mut self.entries {
            match &mut entry.place {
                Place::Out { seen, .. } => drop(seen.insert(change)),
                Place::Resting { causes, .. } if causes.iter().any(|c| change.helps(*c)) => {
                    helped.push(key.clone());
                }
                _ => {}
            }
        }
        helped.iter().for_each(|key| self.touch(key, now));
    }

    /// When a pod becomes ready by itself; `None` while none is going to.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn touch(&mut self, key: &Key, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        match &mut entry.place {
            Place::Out { touched, .. } => *touched = true,
            Place::Resting { until, .. } => {
                self.timers.remove(&(*until, key.clone()));
                let due = entry.backoff_until;
                if due <= now {
                    return self.make_ready(key);
                }
                entry.place = Place::Backoff { until: due };
                self.timers.insert((due, key.clone()));
            }
            Place::Ready | Place::Backoff { .. } => {}
        }
    }

    fn make_ready(&mut self, key: &Key) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.place = Place::Ready;
            self.ready.insert(rank(key, entry));
        }
    }
}

fn rank(key: &Key, entry: &Entry) -> Rank {
    (Reverse(entry.priority), entry.since, entry.sequence, key.clone())
}

fn backoff(attempts: u32) -> Duration {
    (BACKOFF_FIRST * 2_u32.pow(attempts.saturating_sub(1).min(8))).min(BACKOFF_LONGEST)
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

    fn unschedulable(cause: Cause) -> Fate {
        Fate::Unschedulable(BTreeSet::from([cause]))
    }

    fn taken(queue: &mut Queue, ms: i64) -> Option<String> {
        queue.take(at(ms)).map(|(key, _)| key.name.to_string())
    }

    #[test]
    fn the_greater_priority_goes_first_then_the_older() {
        let mut q = Queue::default();
        q.add(&key("old"), "1", 0, false, at(0));
        q.add(&key("new"), "2", 0, false, at(1));
        q.add(&key("great"), "3", 10, false, at(2));
        let order: Vec<_> = std::iter::from_fn(|| taken(&mut q, 3)).collect();
        assert_eq!(order, ["great", "old", "new"]);
    }

    #[test]
    fn only_a_change_that_may_help_ends_a_rest() {
        let mut q = Queue::default();
        q.add(&key("a"), "1", 0, false, at(0));
        taken(&mut q, 0);
        q.settle(&key("a"), "1", unschedulable(Cause::Room), at(0));
        q.changed(Change::NodeTraits, at(2000));
        assert_eq!(taken(&mut q, 2000), None);
        q.changed(Change::PodGone, at(2000));
        assert_eq!(taken(&mut q, 2000).as_deref(), Some("a"));
    }

    #[test]
    fn help_before_the_backoff_is_over_waits_for_its_end() {
        let mut q = Queue::default();
        q.add(&key("a"), "1", 0, false, at(0));
        taken(&mut q, 0);
        q.settle(&key("a"), "1", unschedulable(Cause::Room), at(0));
        q.changed(Change::NodeAdded, at(10));
        assert_eq!(taken(&mut q, 999), None);
        assert_eq!(q.next_due(), Some(at(1000)));
        assert_eq!(taken(&mut q, 1000).as_deref(), Some("a"));
    }

    #[test]
    fn a_change_during_the_attempt_is_not_lost() {
        let mut q = Queue::default();
        q.add(&key("a"), "1", 0, false, at(0));
        taken(&mut q, 0);
        q.changed(Change::PodGone, at(1));
        q.settle(&key("a"), "1", unschedulable(Cause::Room), at(2));
        assert_eq!(q.next_due(), Some(at(1002)), "it backs off and does not rest");
    }

    #[test]
    fn what_never_changes_is_looked_at_again_in_the_end() {
        let mut q = Queue::default();
        q.add(&key("a"), "1", 0, false, at(0));
        taken(&mut q, 0);
        q.settle(&key("a"), "1", unschedulable(Cause::Node), at(0));
        assert_eq!(taken(&mut q, 299_999), None);
        assert_eq!(taken(&mut q, 300_000).as_deref(), Some("a"));
    }

    #[test]
    fn a_new_pod_by_the_same_name_starts_anew() {
        let mut q = Queue::default();
        q.add(&key("a"), "1", 0, false, at(0));
        taken(&mut q, 0);
        q.add(&key("a"), "2", 0, false, at(1));
        q.settle(&key("a"), "1", Fate::Failed, at(2));
        assert_eq!(q.take(at(2)), Some((key("a"), 1)));
    }

    #[test]
    fn backoff_doubles_up_to_the_longest() {
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
            (0..7u8).prop_map(Op::Change),
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
                        let fate = if failed { Fate::Failed } else { unschedulable(Cause::Room) };
                        q.settle(&key(&k.to_string()), "u", fate, at(now));
                        out.remove(&k);
                    }
                    Op::Change(c) => {
                        let all = [Change::NodeAdded, Change::NodeTraits, Change::NodeAllocatable, Change::NodeGone,
                            Change::PodPlaced, Change::PodGone, Change::Namespace];
                        q.changed(all[usize::from(c)], at(now));
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
