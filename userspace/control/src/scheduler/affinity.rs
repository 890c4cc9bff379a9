//! Affinity and anti-affinity between pods. PURE.
//!
//! Terms refer to topology domains: all nodes with the same value of a label. The domains are counted once for a pod; then
//! each node costs one lookup for each key. Terminating pods count: they still run.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::{Affinity, Node, Pod, PodAffinityTerm, PodSpec, WeightedPodAffinityTerm};

use super::classes::Class;
use super::reason::Reason;
use super::snapshot::Snapshot;
use crate::meta::{self, Labels};

/// Values by topology key.
type Domains<T> = HashMap<String, T>;

/// Weight of the required affinity terms of existing pods in the preference of a node, as upstream's default.
const REQUIRED_TERM_WEIGHT: i64 = 1;

/// The affinity terms of one pod and of existing pods, evaluated for that pod.
#[derive(Default)]
pub(super) struct Affinities {
    /// For each required affinity term its key, and the domains with a pod that all terms select.
    required: Vec<(String, HashSet<String>)>,
    /// No existing pod matches, but the pod matches all its own terms: the first of a group may go anywhere.
    is_first: bool,
    /// Domains with a pod that the pod's own anti-affinity selects.
    forbidden: Domains<HashSet<String>>,
    /// Domains with a pod whose anti-affinity selects this one.
    guarded: Domains<HashSet<String>>,
    /// Sums of the weights of preferred terms, of this pod and of existing ones.
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
            let preferred: Vec<_> = terms.preferred().filter(|(term, _)| selected(term)).collect();
            if !together && apart.is_empty() && preferred.is_empty() {
                continue;
            }
            for (node, count) in nodes_of(snapshot, class) {
                if together {
                    self.required.iter_mut().for_each(|(key, values)| add_domain(values, node, key));
                }
                apart.iter().for_each(|term| insert(&mut self.forbidden, node, term));
                for (term, weight) in &preferred {
                    add(&mut self.preferred, node, term, weight * count);
                }
            }
        }
        self.is_first = self.required.iter().all(|(_, values)| values.is_empty())
            && terms.near.iter().all(|term| selects(snapshot, pod, term, pod));
    }

    fn terms_of_others(&mut self, snapshot: &Snapshot, pod: &Pod) {
        for class in snapshot.classes.with_pod_affinity() {
            let Some(affinity) = class.sample.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else {
                continue;
            };
            let terms = Terms::of(affinity);
            let selected = |term: &&PodAffinityTerm| selects(snapshot, &class.sample, term, pod);
            let apart: Vec<_> = terms.apart.iter().filter(&selected).collect();
            let near = terms.near.iter().map(|term| (term, REQUIRED_TERM_WEIGHT));
            let preferred: Vec<_> =
                near.chain(terms.preferred()).filter(|(term, _)| selected(term)).collect();
            if apart.is_empty() && preferred.is_empty() {
                continue;
            }
            for (node, count) in nodes_of(snapshot, class) {
                apart.iter().for_each(|term| insert(&mut self.guarded, node, term));
                for (term, weight) in &preferred {
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

    /// Whether every node passes.
    pub(super) fn allows_everything(&self) -> bool {
        self.required.is_empty() && self.forbidden.is_empty() && self.guarded.is_empty()
    }

    /// The sum of the weights for the node; `None` if no term has a weight anywhere.
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

/// A pod's terms: required affinity and anti-affinity, preferred affinity and anti-affinity.
struct Terms<'a> {
    near: &'a [PodAffinityTerm],
    apart: &'a [PodAffinityTerm],
    preferred_near: &'a [WeightedPodAffinityTerm],
    preferred_apart: &'a [WeightedPodAffinityTerm],
}

impl<'a> Terms<'a> {
    fn of(affinity: &'a Affinity) -> Terms<'a> {
        let (with, against) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
        let near = with.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref());
        let apart = against.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref());
        let preferred_near =
            with.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
        let preferred_apart =
            against.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
        Terms {
            near: near.unwrap_or_default(),
            apart: apart.unwrap_or_default(),
            preferred_near: preferred_near.unwrap_or_default(),
            preferred_apart: preferred_apart.unwrap_or_default(),
        }
    }

    fn is_empty(&self) -> bool {
        self.near.is_empty()
            && self.apart.is_empty()
            && self.preferred_near.is_empty()
            && self.preferred_apart.is_empty()
    }

    /// Whether all of them select only in the pod's own namespace.
    fn are_local(&self) -> bool {
        let local = |term: &PodAffinityTerm| {
            term.namespace_selector.is_none() && term.namespaces.as_ref().is_none_or(Vec::is_empty)
        };
        self.near.iter().chain(self.apart).all(local) && self.preferred().all(|(term, _)| local(term))
    }

    /// Preferred terms with their weights; negative for anti-affinity.
    fn preferred(&self) -> impl Iterator<Item = (&'a PodAffinityTerm, i64)> {
        let of = |sign: i64| {
            move |t: &'a WeightedPodAffinityTerm| (&t.pod_affinity_term, sign * i64::from(t.weight))
        };
        self.preferred_near.iter().map(of(1)).chain(self.preferred_apart.iter().map(of(-1)))
    }
}

/// The known nodes with pods of a class, and the number of pods.
fn nodes_of<'a>(snapshot: &'a Snapshot, class: &'a Class) -> impl Iterator<Item = (&'a Node, i64)> {
    let nodes = class.nodes.iter();
    nodes.filter_map(|(name, count)| Some((&**snapshot.known_node(name)?.1, count.all as i64)))
}

fn insert(domains: &mut Domains<HashSet<String>>, node: &Node, term: &PodAffinityTerm) {
    if !domains.contains_key(&term.topology_key) {
        domains.insert(term.topology_key.clone(), HashSet::new());
    }
    if let Some(values) = domains.get_mut(&term.topology_key) {
        add_domain(values, node, &term.topology_key);
    }
}

fn add_domain(values: &mut HashSet<String>, node: &Node, key: &str) {
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
    // A missing selector selects nothing.
    let Some(selector) = term.label_selector.as_ref().filter(|_| in_namespace) else { return false };
    let labels = other.metadata.labels.as_ref();
    meta::selects(selector, labels)
        && has_same_values(owner, labels, term.match_label_keys.as_deref())
        && !term.mismatch_label_keys.iter().flatten().any(|key| {
            let own = meta::label(&owner.metadata, key);
            own.is_some() && own == labels.and_then(|labels| labels.get(key)).map(String::as_str)
        })
}

/// Whether the labels have the owner's values of these keys; keys that the owner does not have are ignored (KEP-3633).
pub(super) fn has_same_values(owner: &Pod, labels: Option<&Labels>, keys: Option<&[String]>) -> bool {
    keys.unwrap_or_default().iter().all(|key| {
        let own = meta::label(&owner.metadata, key);
        own.is_none() || own == labels.and_then(|labels| labels.get(key)).map(String::as_str)
    })
}
