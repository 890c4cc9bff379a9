//! The graph of owners and dependents over every kind, and the decision about each object. PURE.
//! Only what deletion needs is kept of an object: its key, its owners, and two finalizers.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::action::Propagation;
use crate::cache::Key;

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

pub(super) type Uid = Arc<str>;

/// A reference of a dependent to its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: Uid,
    pub(super) api_version: Arc<str>,
    pub(super) kind: Arc<str>,
    pub(super) name: Arc<str>,
    /// A foreground deletion of the owner waits for this dependent.
    pub(super) blocks: bool,
}

/// One object. `resource` is the caller's number for its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GcObject {
    pub(super) resource: u32,
    pub(super) key: Key,
    pub(super) owners: Vec<Owner>,
    pub(super) deleting: bool,
    pub(super) foreground: bool,
    pub(super) orphan: bool,
}

impl GcObject {
    pub(super) fn new(resource: u32, meta: &ObjectMeta) -> Self {
        let finalizer = |name: &str| meta.finalizers.iter().flatten().any(|f| f == name);
        GcObject {
            resource,
            key: Key::of(meta),
            owners: meta.owner_references.iter().flatten().map(Owner::from).collect(),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: finalizer(FOREGROUND),
            orphan: finalizer(ORPHAN),
        }
    }

    /// Whether its deletion waits for its blocking dependents.
    fn waits(&self) -> bool {
        self.deleting && self.foreground
    }
}

impl From<&OwnerReference> for Owner {
    fn from(o: &OwnerReference) -> Self {
        Owner {
            uid: o.uid.as_str().into(),
            api_version: o.api_version.as_str().into(),
            kind: o.kind.as_str().into(),
            name: o.name.as_str().into(),
            blocks: o.block_owner_deletion == Some(true),
        }
    }
}

/// What to do about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum GcDecision {
    Nothing,
    /// No watch has shown these owners: the server must be asked whether they exist.
    CheckOwners(Vec<Owner>),
    Delete(Propagation),
    /// Some owner exists; the references to these others are removed.
    DropOwners(Vec<Uid>),
    /// A cycle of foreground deletions: this object must no longer block its owners.
    Unblock,
    /// These dependents lose the reference to this object, then its finalizer is removed.
    Orphan(Vec<Uid>),
    /// Nothing blocks its deletion any more.
    Finish,
}

#[derive(Default)]
pub(super) struct Graph {
    items: HashMap<Uid, GcObject>,
    dependents: HashMap<Uid, BTreeSet<Uid>>,
    /// Uids known not to exist, the latest few thousand.
    absent: HashSet<Uid>,
    absent_order: VecDeque<Uid>,
}

impl Graph {
    const MAX_ABSENT: usize = 8192;

    pub(super) fn get(&self, uid: &str) -> Option<&GcObject> {
        self.items.get(uid)
    }

    /// Stores the present version of an object; returns the uids that must be decided affected.
    pub(super) fn apply(&mut self, uid: Uid, item: GcObject) -> Vec<Uid> {
        if self.absent.contains(&uid) && !self.items.contains_key(&uid) {
            // A version from before its deletion.
            return Vec::new();
        }
        let old = self.items.insert(uid.clone(), item.clone());
        if old.as_ref() == Some(&item) {
            return Vec::new();
        }
        for owner in old.iter().flat_map(|o| &o.owners) {
            self.unlink(&owner.uid, &uid);
        }
        for owner in &item.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        let mut affected = Vec::new();
        if !item.owners.is_empty() || item.deleting {
            affected.push(uid.clone());
        }
        // An owner may no longer have to wait for this object.
        affected.extend(item.owners.iter().chain(old.iter().flat_map(|o| &o.owners)).map(|o| o.uid.clone()));
        if item.waits() && !old.is_some_and(|o| o.waits()) {
            affected.extend(self.dependents_of(&uid).cloned());
        }
        affected.retain(|u| self.items.contains_key(u));
        affected
    }

    /// Removes an object that was deleted; returns the uids that must be decided affected.
    pub(super) fn remove(&mut self, uid: &Uid) -> Vec<Uid> {
        self.set_absent(uid.clone());
        let mut affected: Vec<Uid> = self.dependents_of(uid).cloned().collect();
        if let Some(old) = self.items.remove(uid) {
            for owner in &old.owners {
                self.unlink(&owner.uid, uid);
                affected.push(owner.uid.clone());
            }
        }
        affected.retain(|u| self.items.contains_key(u));
        affected
    }

    /// The server knows no object with this uid.
    pub(super) fn set_absent(&mut self, uid: Uid) {
        if self.absent.insert(uid.clone()) {
            self.absent_order.push_back(uid);
        }
        while self.absent_order.len() > Self::MAX_ABSENT {
            if let Some(oldest) = self.absent_order.pop_front() {
                self.absent.remove(&oldest);
            }
        }
    }

    fn unlink(&mut self, owner: &str, dependent: &Uid) {
        if let Some(set) = self.dependents.get_mut(owner) {
            set.remove(dependent);
            if set.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    fn dependents_of(&self, uid: &str) -> impl Iterator<Item = &Uid> {
        self.dependents.get(uid).into_iter().flatten()
    }

    /// Uids of one resource's objects.
    pub(super) fn of_resource(&self, resource: u32) -> impl Iterator<Item = &Uid> {
        self.items.iter().filter(move |(_, i)| i.resource == resource).map(|(u, _)| u)
    }

    /// The decision about one object. `present`: owners that the server has by its own answer.
    pub(super) fn decide(&self, uid: &str, present: &HashSet<Uid>) -> GcDecision {
        let Some(item) = self.items.get(uid) else { return GcDecision::Nothing };
        if item.deleting && item.orphan {
            return GcDecision::Orphan(self.dependents_of(uid).cloned().collect());
        }
        if item.waits() {
            return if self.blocked(uid) { self.unblock(uid, item) } else { GcDecision::Finish };
        }
        if item.deleting || item.owners.is_empty() {
            return GcDecision::Nothing;
        }
        self.by_owners(uid, item, present)
    }

    fn by_owners(&self, uid: &str, item: &GcObject, present: &HashSet<Uid>) -> GcDecision {
        let (mut existing, mut gone, mut waiting, mut unknown) = (0, Vec::new(), Vec::new(), Vec::new());
        for owner in &item.owners {
            match self.items.get(&owner.uid) {
                Some(o) if o.waits() => waiting.push(owner.uid.clone()),
                Some(o) if may_own(item, o) => existing += 1,
                // An owner in another namespace does not count.
                Some(_) => gone.push(owner.uid.clone()),
                None if self.absent.contains(&owner.uid) => gone.push(owner.uid.clone()),
                None if present.contains(&owner.uid) => existing += 1,
                None => unknown.push(owner.clone()),
            }
        }
        if !unknown.is_empty() {
            return GcDecision::CheckOwners(unknown);
        }
        match (existing, gone.len() + waiting.len()) {
            (_, 0) => GcDecision::Nothing,
            (0, _) if !waiting.is_empty() && self.dependents.contains_key(uid) => {
                GcDecision::Delete(Propagation::Foreground)
            }
            (0, _) if item.orphan => GcDecision::Delete(Propagation::Orphan),
            (0, _) if item.foreground => GcDecision::Delete(Propagation::Foreground),
            (0, _) => GcDecision::Delete(Propagation::Background),
            _ => {
                gone.extend(waiting);
                GcDecision::DropOwners(gone)
            }
        }
    }

    /// Whether a dependent blocks the deletion.
    fn blocked(&self, uid: &str) -> bool {
        self.dependents_of(uid)
            .filter_map(|d| self.items.get(d))
            .any(|d| d.owners.iter().any(|o| &*o.uid == uid && o.blocks))
    }

    /// Objects that wait for each other in a cycle would wait for ever.
    fn unblock(&self, uid: &str, item: &GcObject) -> GcDecision {
        let blocks_waiting =
            item.owners.iter().any(|o| o.blocks && self.items.get(&o.uid).is_some_and(GcObject::waits));
        if blocks_waiting && self.reaches(uid, uid) { GcDecision::Unblock } else { GcDecision::Nothing }
    }

    /// Whether a path of waiting dependents connects one object to another.
    fn reaches(&self, from: &str, to: &str) -> bool {
        let mut visited = HashSet::new();
        let mut stack = vec![from];
        while let Some(at) = stack.pop() {
            for next in self.dependents_of(at) {
                if &**next == to {
                    return true;
                }
                if self.items.get(next).is_some_and(GcObject::waits) && visited.insert(next) {
                    stack.push(next);
                }
            }
        }
        false
    }
}

fn may_own(dependent: &GcObject, owner: &GcObject) -> bool {
    owner.key.namespace.is_empty() || owner.key.namespace == dependent.key.namespace
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, owners: &[(&str, bool)]) -> GcObject {
        GcObject {
            resource: 0,
            key: Key::new("ns", name),
            owners: owners
                .iter()
                .map(|(uid, blocks)| Owner {
                    uid: (*uid).into(),
                    api_version: "v1".into(),
                    kind: "Thing".into(),
                    name: (*uid).into(),
                    blocks: *blocks,
                })
                .collect(),
            deleting: false,
            foreground: false,
            orphan: false,
        }
    }

    fn decide(graph: &Graph, uid: &str) -> GcDecision {
        graph.decide(uid, &HashSet::new())
    }

    #[test]
    fn the_end_of_the_only_owner_deletes_the_dependent() {
        let mut g = Graph::default();
        g.apply("a".into(), item("a", &[]));
        g.apply("b".into(), item("b", &[("a", true)]));
        assert_eq!(decide(&g, "b"), GcDecision::Nothing);
        assert_eq!(g.remove(&"a".into()), vec![Uid::from("b")]);
        assert_eq!(decide(&g, "b"), GcDecision::Delete(Propagation::Background));
    }

    #[test]
    fn an_owner_that_no_watch_showed_is_checked_and_never_guessed() {
        let mut g = Graph::default();
        g.apply("b".into(), item("b", &[("a", true)]));
        assert!(matches!(decide(&g, "b"), GcDecision::CheckOwners(o) if o.len() == 1));
        assert_eq!(g.decide("b", &HashSet::from(["a".into()])), GcDecision::Nothing);
        g.set_absent("a".into());
        assert_eq!(decide(&g, "b"), GcDecision::Delete(Propagation::Background));
    }

    #[test]
    fn a_second_living_owner_keeps_the_dependent() {
        let mut g = Graph::default();
        g.apply("a".into(), item("a", &[]));
        g.apply("b".into(), item("b", &[("a", false), ("x", false)]));
        g.set_absent("x".into());
        assert_eq!(decide(&g, "b"), GcDecision::DropOwners(vec!["x".into()]));
    }

    #[test]
    fn a_foreground_owner_goes_after_its_blocking_dependents() {
        let mut g = Graph::default();
        g.apply("b".into(), item("b", &[("a", true)]));
        g.apply("c".into(), item("c", &[("a", false)]));
        let affected = g.apply("a".into(), GcObject { deleting: true, foreground: true, ..item("a", &[]) });
        assert!(affected.contains(&"b".into()) && affected.contains(&"c".into()));
        assert_eq!(decide(&g, "a"), GcDecision::Nothing);
        assert_eq!(decide(&g, "b"), GcDecision::Delete(Propagation::Background));
        let affected = g.remove(&"b".into());
        assert!(affected.contains(&"a".into()));
        assert_eq!(decide(&g, "a"), GcDecision::Finish, "c does not block");
    }

    #[test]
    fn an_orphaning_owner_frees_its_dependents() {
        let mut g = Graph::default();
        g.apply("b".into(), item("b", &[("a", true)]));
        g.apply("a".into(), GcObject { deleting: true, orphan: true, ..item("a", &[]) });
        assert_eq!(decide(&g, "a"), GcDecision::Orphan(vec!["b".into()]));
    }

    #[test]
    fn a_cycle_of_foreground_deletions_is_broken() {
        let mut g = Graph::default();
        let waiting =
            |name, owner| GcObject { deleting: true, foreground: true, ..item(name, &[(owner, true)]) };
        g.apply("a".into(), waiting("a", "b"));
        g.apply("b".into(), waiting("b", "a"));
        assert_eq!(decide(&g, "a"), GcDecision::Unblock);
    }

    #[test]
    fn an_owner_in_another_namespace_does_not_count() {
        let mut g = Graph::default();
        g.apply("a".into(), GcObject { key: Key::new("other", "a"), ..item("a", &[]) });
        g.apply("b".into(), item("b", &[("a", true)]));
        assert_eq!(decide(&g, "b"), GcDecision::Delete(Propagation::Background));
    }

    #[test]
    fn a_late_answer_does_not_revive_a_deleted_object() {
        let mut g = Graph::default();
        g.apply("a".into(), item("a", &[]));
        g.remove(&"a".into());
        g.apply("a".into(), item("a", &[]));
        assert!(g.get("a").is_none());
    }
}
