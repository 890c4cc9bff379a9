//! Affinity and anti-affinity between pods. PURE.
//!
//! Terms speak of topology domains: all nodes with the same value of a label. What is needed of them is counted once for
//! a pod, then each node is one lookup a key. Pods that are terminating count: they still run.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::{Affinity, Node, Pod, PodAffinityTerm, PodSpec, WeightedPodAffinityTerm};

use super::classes::Class;
use super::reason::Reason;
use super::snapshot::Snapshot;
use crate::meta::{self, Labels};

/// Values by topology key.
type Domains<T> = HashMap<String, T>;

/// What the required affinity of a pod that is there already adds to a node's preference, as upstream's default.
const WEIGHT_OF_REQUIRED: i64 = 1;

/// What other pods mean for the placing of one pod.
#[derive(Default)]
pub(super) struct Affinities {
    /// For each required affinity term its key, and the values with a pod that all the terms select.
    required: Vec<(String, HashSet<String>)>,
    /// No pod anywhere matches, but the pod itself matches all its terms: the first of its kind may go anywhere.
    is_first: bool,
    forbidden: Domains<HashSet<String>>,
    /// Domains that a pod which is there already keeps this one out of.
    guarded: Domains<HashSet<String>>,
    /// Sums of weights of preferred terms, both ways.
    preferred: Domains<HashMap<String, i64>>,
}

impl Affinities {
    pub(super) fn new(snapshot: &Snapshot, pod: &Pod, spec: &PodSpec) -> Affinities {
        let mut affinities = Affinities::default();
        if let Some(affinity) = &spec.affinity {
            affinities.own_terms(snapshot, pod, affinity);
        }
        affinities.terms_of_others(snapshot, pod);
        affinities
    }

    fn own_terms(&mut self, snapshot: &Snapshot, pod: &Pod, affinity: &Affinity) {
        let terms = Terms::of(affinity);
        if terms.is_empty() {
            return;
        }
        self.required = terms.near.iter().map(|term| (term.topology_key.clone(), HashSet::new())).collect();
        let own_namespace = Some(meta::namespace(&pod.metadata)).filter(|_| terms.are_local());
        for class in snapshot.classes.within(own_namespace) {
            let selected = |term: &&PodAffinityTerm| selects(snapshot, pod, term, &class.sample);
            let together = !terms.near.is_empty() && terms.near.iter().all(|term| selected(&term));
            let apart: Vec<_> = terms.apart.iter().filter(&selected).collect();
            let liked: Vec<_> = terms.liked().filter(|(term, _)| selected(term)).collect();
            if !together && apart.is_empty() && liked.is_empty() {
                continue;
            }
            for (node, count) in nodes_of(snapshot, class) {
                if together {
                    self.required.iter_mut().for_each(|(key, values)| note(values, node, key));
                }
                apart.iter().for_each(|term| insert(&mut self.forbidden, node, term));
                for (term, weight) in &liked {
                    add(&mut self.preferred, node, term, weight * count);
                }
            }
        }
        self.is_first = self.required.iter().all(|(_, values)| values.is_empty())
            && terms.near.iter().all(|term| selects(snapshot, pod, term, pod));
    }

    fn terms_of_others(&mut self, snapshot: &Snapshot, pod: &Pod) {
        for class in snapshot.classes.choosy() {
            let Some(affinity) = class.sample.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else {
                continue;
            };
            let terms = Terms::of(affinity);
            let selected = |term: &&PodAffinityTerm| selects(snapshot, &class.sample, term, pod);
            let apart: Vec<_> = terms.apart.iter().filter(&selected).collect();
            let near = terms.near.iter().map(|term| (term, WEIGHT_OF_REQUIRED));
            let liked: Vec<_> = near.chain(terms.liked()).filter(|(term, _)| selected(term)).collect();
            if apart.is_empty() && liked.is_empty() {
                continue;
            }
            for (node, count) in nodes_of(snapshot, class) {
                apart.iter().for_each(|term| insert(&mut self.guarded, node, term));
                for (term, weight) in &liked {
                    add(&mut self.preferred, node, term, weight * count);
                }
            }
        }
    }

    pub(super) fn check(&self, node: &Node) -> Result<(), Reason> {
        let together = self.required.iter().all(|(key, values)| {
            meta::label(&node.metadata, key).is_some_and(|value| self.is_first || values.contains(value))
        });
        let within = |domains: &Domains<HashSet<String>>| {
            let mut domains = domains.iter();
            domains.any(|(key, values)| meta::label(&node.metadata, key).is_some_and(|v| values.contains(v)))
        };
        if !together {
            return Err(Reason::PodAffinity);
        }
        if within(&self.forbidden) {
            return Err(Reason::PodAntiAffinity);
        }
        if within(&self.guarded) {
            return Err(Reason::GuardedByPods);
        }
        Ok(())
    }

    /// Whether no node is refused, whatever its labels.
    pub(super) fn allows_everything(&self) -> bool {
        self.required.is_empty() && self.forbidden.is_empty() && self.guarded.is_empty()
    }

    /// The sum of what is preferred about the node; `None` if nothing is preferred anywhere.
    pub(super) fn preference(&self, node: &Node) -> Option<i64> {
        if self.preferred.is_empty() {
            return None;
        }
        let of = |(key, values): (&String, &HashMap<String, i64>)| {
            meta::label(&node.metadata, key).and_then(|value| values.get(value)).copied()
        };
        Some(self.preferred.iter().filter_map(of).sum())
    }
}

/// A pod's terms, by what they say.
struct Terms<'a> {
    near: &'a [PodAffinityTerm],
    apart: &'a [PodAffinityTerm],
    drawn: &'a [WeightedPodAffinityTerm],
    averse: &'a [WeightedPodAffinityTerm],
}

impl<'a> Terms<'a> {
    fn of(affinity: &'a Affinity) -> Terms<'a> {
        let (with, against) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
        let near = with.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref());
        let apart = against.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref());
        let drawn = with.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
        let averse = against.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
        Terms {
            near: near.unwrap_or_default(),
            apart: apart.unwrap_or_default(),
            drawn: drawn.unwrap_or_default(),
            averse: averse.unwrap_or_default(),
        }
    }

    fn is_empty(&self) -> bool {
        self.near.is_empty() && self.apart.is_empty() && self.drawn.is_empty() && self.averse.is_empty()
    }

    /// Whether all of them speak of the pod's own namespace only.
    fn are_local(&self) -> bool {
        let local = |term: &PodAffinityTerm| {
            term.namespace_selector.is_none() && term.namespaces.as_ref().is_none_or(Vec::is_empty)
        };
        self.near.iter().chain(self.apart).all(local) && self.liked().all(|(term, _)| local(term))
    }

    /// Preferred terms with their weights; aversion weighs below zero.
    fn liked(&self) -> impl Iterator<Item = (&'a PodAffinityTerm, i64)> {
        let of = |sign: i64| {
            move |t: &'a WeightedPodAffinityTerm| (&t.pod_affinity_term, sign * i64::from(t.weight))
        };
        self.drawn.iter().map(of(1)).chain(self.averse.iter().map(of(-1)))
    }
}

/// The known nodes with pods of a class, and how many.
fn nodes_of<'a>(snapshot: &'a Snapshot, class: &'a Class) -> impl Iterator<Item = (&'a Node, i64)> {
    let nodes = class.nodes.iter();
    nodes.filter_map(|(name, count)| Some((&**snapshot.known_node(name)?.1, count.all as i64)))
}

fn insert(domains: &mut Domains<HashSet<String>>, node: &Node, term: &PodAffinityTerm) {
    if !domains.contains_key(&term.topology_key) {
        domains.insert(term.topology_key.clone(), HashSet::new());
    }
    if let Some(values) = domains.get_mut(&term.topology_key) {
        note(values, node, &term.topology_key);
    }
}

fn note(values: &mut HashSet<String>, node: &Node, key: &str) {
    if let Some(value) = meta::label(&node.metadata, key)
        && !values.contains(value)
    {
        values.insert(value.to_owned());
    }
}

fn add(domains: &mut Domains<HashMap<String, i64>>, node: &Node, term: &PodAffinityTerm, weight: i64) {
    if let Some(value) = meta::label(&node.metadata, &term.topology_key) {
        *domains.entry(term.topology_key.clone()).or_default().entry(value.to_owned()).or_default() += weight;
    }
}

/// Whether a term of `owner` selects `other`.
fn selects(snapshot: &Snapshot, owner: &Pod, term: &PodAffinityTerm, other: &Pod) -> bool {
    let namespace = meta::namespace(&other.metadata);
    let named = term.namespaces.as_deref().unwrap_or_default();
    let in_namespace = match (&term.namespace_selector, named.is_empty()) {
        (None, true) => namespace == meta::namespace(&owner.metadata),
        (selector, _) => {
            named.iter().any(|name| name == namespace)
                || selector
                    .as_ref()
                    .is_some_and(|selector| meta::selects(selector, snapshot.namespaces.get(namespace)))
        }
    };
    // No selector selects nothing.
    let Some(selector) = term.label_selector.as_ref().filter(|_| in_namespace) else { return false };
    let labels = other.metadata.labels.as_ref();
    meta::selects(selector, labels)
        && same(owner, labels, term.match_label_keys.as_deref())
        && !term.mismatch_label_keys.iter().flatten().any(|key| {
            let own = meta::label(&owner.metadata, key);
            own.is_some() && own == labels.and_then(|labels| labels.get(key)).map(String::as_str)
        })
}

/// Whether labels have the owner's values of these keys; keys that the owner has not say nothing (KEP-3633).
pub(super) fn same(owner: &Pod, labels: Option<&Labels>, keys: Option<&[String]>) -> bool {
    keys.unwrap_or_default().iter().all(|key| {
        let own = meta::label(&owner.metadata, key);
        own.is_none() || own == labels.and_then(|labels| labels.get(key)).map(String::as_str)
    })
}
