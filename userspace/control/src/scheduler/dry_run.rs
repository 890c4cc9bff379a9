//! Dry runs of preemption: pods are removed from a node and put back. PURE: afterwards the snapshot is as before.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::budgets::{Budgets, violations};
use super::decide::fits;
use super::filter::{Requirements, has_room};
use super::room::Room;
use super::snapshot::{PlacedPod, Snapshot};
use crate::cache::Key;

pub(super) trait DryRun {
    /// A pod of the node.
    type Pod: AsRef<Arc<Pod>>;

    fn remove(&mut self, pod: &Self::Pod);
    fn put_back(&mut self, pod: &Self::Pod);
    /// Whether the incoming pod fits now.
    fn fits(&self) -> bool;
}

/// The pods to remove, by their indexes.
pub(super) struct MinimalSet {
    pub(super) victims: Vec<usize>,
    /// How many of them violate a budget.
    pub(super) violations: usize,
}

/// Which of the pods of lower priority to remove; those that are named first are kept first. `None` if not even all suffice.
pub(super) fn minimal_set<R: DryRun>(run: &mut R, lower: &[R::Pod], budgets: &Budgets) -> Option<MinimalSet> {
    lower.iter().for_each(|pod| run.remove(pod));
    if !run.fits() {
        return None;
    }
    let violates = violations(lower.iter().map(AsRef::as_ref), budgets);
    let mut set = MinimalSet { victims: Vec::new(), violations: 0 };
    for is_violation in [true, false] {
        let group = lower.iter().zip(&violates).enumerate();
        for (at, (pod, _)) in group.filter(|(_, (_, violates))| **violates == is_violation) {
            run.put_back(pod);
            if !run.fits() {
                run.remove(pod);
                set.victims.push(at);
                set.violations += usize::from(is_violation);
            }
        }
    }
    Some(set)
}

impl AsRef<Arc<Pod>> for PlacedPod {
    fn as_ref(&self) -> &Arc<Pod> {
        &self.pod
    }
}

/// On a copy of a node's room, for pods whose placement depends on nothing else there.
pub(super) struct NodeDryRun<'a> {
    requirements: &'a Requirements<'a>,
    room: Room,
}

impl<'a> NodeDryRun<'a> {
    pub(super) fn new(
        snapshot: &Snapshot,
        requirements: &'a Requirements<'a>,
        (name, room): (&str, &Room),
    ) -> Self {
        let room = snapshot.with_nominated(name, room, requirements.pod).unwrap_or_else(|| room.clone());
        NodeDryRun { requirements, room }
    }
}

impl<'a> DryRun for NodeDryRun<'a> {
    type Pod = &'a PlacedPod;

    fn remove(&mut self, pod: &Self::Pod) {
        self.room.subtract(&pod.demand);
    }

    fn put_back(&mut self, pod: &Self::Pod) {
        self.room.add(&pod.demand);
    }

    fn fits(&self) -> bool {
        has_room(&self.requirements.demand, &self.room)
    }
}

/// In the snapshot itself, for pods whose placement depends on pods of other nodes. What is removed is put back when it is
/// dropped, also after a panic.
pub(super) struct ClusterDryRun<'a> {
    snapshot: &'a mut Snapshot,
    requirements: &'a Requirements<'a>,
    name: &'a Arc<str>,
    /// With their computed values, so that putting them back is cheap.
    removed: HashMap<Key, PlacedPod>,
}

impl<'a> ClusterDryRun<'a> {
    pub(super) fn new(
        snapshot: &'a mut Snapshot,
        requirements: &'a Requirements<'a>,
        name: &'a Arc<str>,
    ) -> Self {
        ClusterDryRun { snapshot, requirements, name, removed: HashMap::new() }
    }
}

impl DryRun for ClusterDryRun<'_> {
    type Pod = PlacedPod;

    fn remove(&mut self, placed: &PlacedPod) {
        let key = Key::of(&placed.pod.metadata);
        self.removed.extend(self.snapshot.remove_pod(&key).map(|placed| (key, placed)));
    }

    fn put_back(&mut self, placed: &PlacedPod) {
        let key = Key::of(&placed.pod.metadata);
        if let Some(placed) = self.removed.remove(&key) {
            self.snapshot.put_back(key, placed, self.name.clone());
        }
    }

    fn fits(&self) -> bool {
        fits(self.snapshot, self.requirements, self.name)
    }
}

impl Drop for ClusterDryRun<'_> {
    fn drop(&mut self) {
        for (key, placed) in self.removed.drain() {
            self.snapshot.put_back(key, placed, self.name.clone());
        }
    }
}
