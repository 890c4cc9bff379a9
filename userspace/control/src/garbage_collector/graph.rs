//! The graph of owners and dependents over every kind, and the decision about each object. PURE.
//! Only what deletion needs is kept of an object: its key, its owners, and two finalizers.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

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

impl Owner {
    pub(super) fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct GroupKind {
    pub(super) group: String,
    pub(super) kind: String,
}

/// One object. `resource` is the caller's number for its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GcObject {
    pub(super) resource: u32,
    pub(super) kind: Arc<GroupKind>,
    pub(super) key: Key,
    pub(super) owners: Vec<Owner>,
    pub(super) deleting: bool,
    pub(super) foreground: bool,
    pub(super) orphan: bool,
}

impl GcObject {
    pub(super) fn new(resource: u32, kind: Arc<GroupKind>, meta: &ObjectMeta) -> Self {
        let finalizer = |name: &str| meta.finalizers.iter().flatten().any(|f| f == name);
        GcObject {
            resource,
            kind,
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
    /// The graph does not show that every owner lives: the server must be asked, and its answers decide.
    Verify {
        has_dependents: bool,
        /// References to objects that live in another namespace than this one.
        foreign: Vec<Owner>,
    },
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
    /// Uids of deleted objects, the latest few thousand.
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
        if item.waits() && !old.as_ref().is_some_and(|o| o.waits()) {
            affected.extend(self.dependents_of(&uid).cloned());
        }
        if old.is_none() {
            // Only now it shows that these name another object than the one with this uid.
            let names_other = |d: &&Uid| {
                self.items
                    .get(*d)
                    .is_some_and(|d| d.owners.iter().any(|o| o.uid == uid && !names(d, o, &item)))
            };
            affected.extend(self.dependents_of(&uid).filter(names_other).cloned());
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

    /// The decision about one object.
    pub(super) fn decide(&self, uid: &str) -> GcDecision {
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
        let lives = |owner: &Owner| {
            self.items.get(&owner.uid).is_some_and(|found| !found.waits() && names(item, owner, found))
        };
        if item.owners.iter().all(lives) {
            return GcDecision::Nothing;
        }
        let is_foreign =
            |owner: &&Owner| self.items.get(&owner.uid).is_some_and(|found| !may_own(item, found));
        GcDecision::Verify {
            has_dependents: self.dependents.contains_key(uid),
            foreign: item.owners.iter().filter(is_foreign).cloned().collect(),
        }
    }

    /// Whether a dependent blocks the deletion. A reference that names another object does not.
    fn blocked(&self, uid: &str) -> bool {
        let Some(item) = self.items.get(uid) else { return false };
        self.dependents_of(uid)
            .filter_map(|d| self.items.get(d))
            .any(|d| d.owners.iter().any(|o| &*o.uid == uid && o.blocks && names(d, o, item)))
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

/// Whether a reference names exactly the object that has its uid. Versions do not matter: they share their objects.
fn names(dependent: &GcObject, reference: &Owner, found: &GcObject) -> bool {
    reference.group() == found.kind.group
        && *reference.kind == *found.kind.kind
        && reference.name == found.key.name
        && may_own(dependent, found)
}

/// An owner is in the namespace of its dependent, or in none.
fn may_own(dependent: &GcObject, owner: &GcObject) -> bool {
    owner.key.namespace.is_empty() || owner.key.namespace == dependent.key.namespace
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, owners: &[(&str, bool)]) -> GcObject {
        GcObject {
            resource: 0,
            kind: Arc::new(GroupKind { group: "".into(), kind: "Thing".into() }),
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

    fn verify(has_dependents: bool) -> GcDecision {
        GcDecision::Verify { has_dependents, foreign: Vec::new() }
    }

    #[test]
    fn the_end_of_an_owner_is_checked_before_the_dependent_goes() {
        let mut g = Graph::default();
        g.apply("a".into(), item("a", &[]));
        g.apply("b".into(), item("b", &[("a", true)]));
        assert_eq!(g.decide("b"), GcDecision::Nothing);
        assert_eq!(g.remove(&"a".into()), vec![Uid::from("b")]);
        assert_eq!(g.decide("b"), verify(false));
    }

    #[test]
    fn an_owner_counts_as_living_only_under_its_own_name_and_kind() {
        type Change = fn(&mut Owner);
        let rows: [(&str, Change, bool); 5] = [
            ("as it is", |_| {}, true),
            ("another version", |o| o.api_version = "v2".into(), true),
            ("another group", |o| o.api_version = "a.io/v1".into(), false),
            ("another kind", |o| o.kind = "Other".into(), false),
            ("another name", |o| o.name = "other".into(), false),
        ];
        for (row, change, lives) in rows {
            let mut g = Graph::default();
            let mut dependent = item("b", &[("a", true)]);
            change(&mut dependent.owners[0]);
            g.apply("b".into(), dependent);
            let affected = g.apply("a".into(), item("a", &[]));
            assert_eq!(affected.contains(&"b".into()), !lives, "{row}: decided again when the owner shows");
            assert_eq!(g.decide("b") == GcDecision::Nothing, lives, "{row}");
        }
    }

    #[test]
    fn a_foreground_owner_goes_after_its_blocking_dependents() {
        let mut g = Graph::default();
        g.apply("b".into(), item("b", &[("a", true)]));
        g.apply("c".into(), item("c", &[("a", false)]));
        let affected = g.apply("a".into(), GcObject { deleting: true, foreground: true, ..item("a", &[]) });
        assert!(affected.contains(&"b".into()) && affected.contains(&"c".into()));
        assert_eq!(g.decide("a"), GcDecision::Nothing);
        assert_eq!(g.decide("b"), verify(false));
        let affected = g.remove(&"b".into());
        assert!(affected.contains(&"a".into()));
        assert_eq!(g.decide("a"), GcDecision::Finish, "c does not block");
    }

    #[test]
    fn a_reference_from_elsewhere_does_not_block_a_foreground_deletion() {
        let mut g = Graph::default();
        g.apply("b".into(), GcObject { key: Key::cluster("b"), ..item("b", &[("a", true)]) });
        g.apply("a".into(), GcObject { deleting: true, foreground: true, ..item("a", &[]) });
        assert_eq!(g.decide("a"), GcDecision::Finish);
    }

    #[test]
    fn an_orphaning_owner_frees_its_dependents() {
        let mut g = Graph::default();
        g.apply("b".into(), item("b", &[("a", true)]));
        g.apply("a".into(), GcObject { deleting: true, orphan: true, ..item("a", &[]) });
        assert_eq!(g.decide("a"), GcDecision::Orphan(vec!["b".into()]));
    }

    #[test]
    fn a_cycle_of_foreground_deletions_is_broken() {
        let mut g = Graph::default();
        let waiting =
            |name, owner| GcObject { deleting: true, foreground: true, ..item(name, &[(owner, true)]) };
        g.apply("a".into(), waiting("a", "b"));
        g.apply("b".into(), waiting("b", "a"));
        assert_eq!(g.decide("a"), GcDecision::Unblock);
    }

    #[test]
    fn an_owner_in_another_namespace_is_reported() {
        for key in [Key::new("other", "b"), Key::cluster("b")] {
            let mut g = Graph::default();
            let dependent = GcObject { key, ..item("b", &[("a", true)]) };
            let foreign = dependent.owners.clone();
            g.apply("b".into(), dependent);
            assert_eq!(g.decide("b"), verify(false), "the owner is not known yet");
            assert_eq!(g.apply("a".into(), item("a", &[])), vec![Uid::from("b")]);
            assert_eq!(g.decide("b"), GcDecision::Verify { has_dependents: false, foreign });
        }
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
