//! Affinity and anti-affinity between pods. PURE.
//!
//! Terms speak of topology domains: all nodes with the same value of a label. What is needed of them is counted once for
//! a pod, then each node is one lookup.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::{Node, Pod, PodAffinityTerm, PodSpec};

use super::snapshot::Snapshot;
use crate::meta::{self, Labels};

/// A topology key with one of its values.
type Domain = (String, String);

/// What other pods mean for the placing of one pod.
#[derive(Default)]
pub struct Affinities {
    /// For each required affinity term: its key, the domains with a matching pod, and whether the pod itself matches.
    required: Vec<(String, HashSet<String>)>,
    /// No pod anywhere matches, but the pod itself matches all its terms: the first of its kind may go anywhere.
    is_first: bool,
    forbidden: HashSet<Domain>,
    /// Domains that a pod which is there already keeps this one out of.
    guarded: HashSet<Domain>,
    /// Sums of weights of preferred terms, both ways.
    preferred: HashMap<Domain, i64>,
}

impl Affinities {
    pub fn new(snapshot: &Snapshot, pod: &Pod, spec: &PodSpec) -> Affinities {
        let mut affinities = Affinities::default();
        affinities.own_terms(snapshot, pod, spec);
        affinities.terms_of_others(snapshot, pod);
        affinities
    }

    fn own_terms(&mut self, snapshot: &Snapshot, pod: &Pod, spec: &PodSpec) {
        let Some(affinity) = &spec.affinity else { return };
        let with = affinity.pod_affinity.as_ref();
        let against = affinity.pod_anti_affinity.as_ref();
        let mut any = false;
        let mut matches_itself = true;
        for term in with.iter().flat_map(|a| required(&a.required_during_scheduling_ignored_during_execution))
        {
            let mut found = HashSet::new();
            each_match(snapshot, pod, term, |domain| {
                found.insert(domain.1);
            });
            any |= !found.is_empty();
            matches_itself &= selects(snapshot, pod, term, pod);
            self.required.push((term.topology_key.clone(), found));
        }
        self.is_first = !any && matches_itself;
        for term in
            against.iter().flat_map(|a| required(&a.required_during_scheduling_ignored_during_execution))
        {
            each_match(snapshot, pod, term, |domain| {
                self.forbidden.insert(domain);
            });
        }
        let liked =
            with.iter().flat_map(|a| a.preferred_during_scheduling_ignored_during_execution.iter().flatten());
        let disliked = against
            .iter()
            .flat_map(|a| a.preferred_during_scheduling_ignored_during_execution.iter().flatten());
        for (term, sign) in liked.map(|term| (term, 1)).chain(disliked.map(|term| (term, -1))) {
            each_match(snapshot, pod, &term.pod_affinity_term, |domain| {
                *self.preferred.entry(domain).or_default() += sign * i64::from(term.weight);
            });
        }
    }

    fn terms_of_others(&mut self, snapshot: &Snapshot, pod: &Pod) {
        for (_, info, node) in snapshot.known() {
            for placed in info.choosy.iter().filter_map(|key| info.pods.get(key)) {
                let Some(affinity) = placed.pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else {
                    continue;
                };
                let against = affinity.pod_anti_affinity.as_ref();
                let terms = against.iter();
                for term in
                    terms.flat_map(|a| required(&a.required_during_scheduling_ignored_during_execution))
                {
                    if let Some(domain) = domain(node, &term.topology_key)
                        && selects(snapshot, &placed.pod, term, pod)
                    {
                        self.guarded.insert(domain);
                    }
                }
                let liked = affinity.pod_affinity.iter();
                let liked = liked
                    .flat_map(|a| a.preferred_during_scheduling_ignored_during_execution.iter().flatten());
                let disliked = against.iter();
                let disliked = disliked
                    .flat_map(|a| a.preferred_during_scheduling_ignored_during_execution.iter().flatten());
                for (term, sign) in liked.map(|term| (term, 1)).chain(disliked.map(|term| (term, -1))) {
                    if let Some(domain) = domain(node, &term.pod_affinity_term.topology_key)
                        && selects(snapshot, &placed.pod, &term.pod_affinity_term, pod)
                    {
                        *self.preferred.entry(domain).or_default() += sign * i64::from(term.weight);
                    }
                }
            }
        }
    }

    pub fn check(&self, node: &Node) -> Result<(), &'static str> {
        let has = |domains: &HashSet<Domain>| {
            domains.iter().any(|(key, value)| meta::label(&node.metadata, key) == Some(value))
        };
        let together = self.required.iter().all(|(key, values)| {
            meta::label(&node.metadata, key).is_some_and(|value| self.is_first || values.contains(value))
        });
        if !together {
            return Err("node(s) didn't match pod affinity rules");
        }
        if has(&self.forbidden) {
            return Err("node(s) didn't match pod anti-affinity rules");
        }
        if has(&self.guarded) {
            return Err("node(s) didn't satisfy existing pods anti-affinity rules");
        }
        Ok(())
    }

    /// The sum of what is preferred about the node; `None` if nothing is preferred anywhere.
    pub fn preference(&self, node: &Node) -> Option<i64> {
        if self.preferred.is_empty() {
            return None;
        }
        let of = |(key, value): &Domain| meta::label(&node.metadata, key) == Some(value);
        Some(self.preferred.iter().filter(|(domain, _)| of(domain)).map(|(_, weight)| weight).sum())
    }
}

fn required(terms: &Option<Vec<PodAffinityTerm>>) -> &[PodAffinityTerm] {
    terms.as_deref().unwrap_or_default()
}

fn domain(node: &Node, key: &str) -> Option<Domain> {
    Some((key.to_owned(), meta::label(&node.metadata, key)?.to_owned()))
}

/// Calls `each` with the domain of every pod that a term of `pod` selects.
fn each_match(snapshot: &Snapshot, pod: &Pod, term: &PodAffinityTerm, mut each: impl FnMut(Domain)) {
    for (_, info, node) in snapshot.known() {
        let Some(domain) = domain(node, &term.topology_key) else { continue };
        for placed in info.pods.values().filter(|placed| selects(snapshot, pod, term, &placed.pod)) {
            if !meta::terminating(&placed.pod.metadata) {
                each(domain.clone());
            }
        }
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
pub fn same(owner: &Pod, labels: Option<&Labels>, keys: Option<&[String]>) -> bool {
    keys.unwrap_or_default().iter().all(|key| {
        let own = meta::label(&owner.metadata, key);
        own.is_none() || own == labels.and_then(|labels| labels.get(key)).map(String::as_str)
    })
}
