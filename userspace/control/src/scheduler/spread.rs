//! Spreading pods over topology domains: what a pod demands or prefers, and by default its controller's pods evenly over
//! nodes and zones. PURE.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, TopologySpreadConstraint};

use super::affinity::same;
use super::snapshot::{NodeInfo, Snapshot};
use crate::controllers::nodes::{admits, tolerated};
use crate::meta;

const ZONE: &str = "topology.kubernetes.io/zone";

/// How many pods are counted in each domain of one constraint.
struct Counts<'a> {
    constraint: &'a TopologySpreadConstraint,
    domains: HashMap<String, i64>,
    /// Whether the pod itself is counted where it goes.
    itself: i64,
}

/// A pod's constraints, counted.
pub struct Spread<'a> {
    hard: Vec<Counts<'a>>,
    soft: Vec<Counts<'a>>,
    /// Pods of the same controller in each zone, if nothing is said.
    zones: HashMap<String, i64>,
    owner: Option<&'a str>,
}

impl<'a> Spread<'a> {
    pub fn new(snapshot: &Snapshot, pod: &'a Pod, spec: &'a PodSpec) -> Spread<'a> {
        let constraints = spec.topology_spread_constraints.as_deref().unwrap_or_default();
        let count = |hard: bool| {
            let wanted = constraints.iter().filter(|c| (c.when_unsatisfiable == "DoNotSchedule") == hard);
            wanted.map(|constraint| counted(snapshot, pod, spec, constraint)).collect()
        };
        let owner = meta::controller_of(&pod.metadata).map(|owner| owner.uid.as_str());
        let owner = owner.filter(|_| constraints.is_empty());
        let mut zones = HashMap::new();
        for (_, info, node) in snapshot.known() {
            if let (Some(zone), Some(owner)) = (meta::label(&node.metadata, ZONE), owner) {
                *zones.entry(zone.to_owned()).or_default() += of_owner(info, owner);
            }
        }
        Spread { hard: count(true), soft: count(false), zones, owner }
    }

    pub fn check(&self, node: &Node) -> Result<(), &'static str> {
        for counts in &self.hard {
            let Some(value) = meta::label(&node.metadata, &counts.constraint.topology_key) else {
                return Err("node(s) didn't match pod topology spread constraints (missing required label)");
            };
            let here = counts.domains.get(value).copied().unwrap_or(0);
            let too_few = counts
                .constraint
                .min_domains
                .is_some_and(|least| counts.domains.len() < usize::try_from(least).unwrap_or(0));
            let least = if too_few { 0 } else { counts.domains.values().copied().min().unwrap_or(0) };
            if here + counts.itself - least > i64::from(counts.constraint.max_skew) {
                return Err("node(s) didn't match pod topology spread constraints");
            }
        }
        Ok(())
    }

    /// How crowded the node is; less is better.
    pub fn crowd(&self, info: &NodeInfo, node: &Node) -> f64 {
        let mut crowd = 0.0;
        for counts in &self.soft {
            let value = meta::label(&node.metadata, &counts.constraint.topology_key);
            let here = value.and_then(|value| counts.domains.get(value)).copied();
            // A node outside of every domain is the last choice.
            let here = here.unwrap_or_else(|| counts.domains.values().sum());
            // Small topologies weigh less: their domains are crowded anyhow.
            crowd += here as f64 * (counts.domains.len() as f64 + 2.0).ln();
        }
        if let Some(owner) = self.owner {
            let zone = meta::label(&node.metadata, ZONE).and_then(|zone| self.zones.get(zone));
            crowd += of_owner(info, owner) as f64 + zone.copied().unwrap_or(0) as f64;
        }
        crowd
    }
}

fn of_owner(info: &NodeInfo, owner: &str) -> i64 {
    info.owners.get(owner).map_or(0, |count| *count as i64)
}

fn counted<'a>(
    snapshot: &Snapshot,
    pod: &Pod,
    spec: &PodSpec,
    constraint: &'a TopologySpreadConstraint,
) -> Counts<'a> {
    let mut domains: HashMap<String, i64> = HashMap::new();
    let selects = |other: &Pod| {
        let labels = other.metadata.labels.as_ref();
        constraint.label_selector.as_ref().is_some_and(|selector| meta::selects(selector, labels))
            && same(pod, labels, constraint.match_label_keys.as_deref())
    };
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    for (_, info, node) in snapshot.known() {
        let Some(value) = meta::label(&node.metadata, &constraint.topology_key) else { continue };
        let honours =
            |policy: &Option<String>, default: &str| policy.as_deref().unwrap_or(default) == "Honor";
        if honours(&constraint.node_affinity_policy, "Honor") && !admits(spec, node)
            || honours(&constraint.node_taints_policy, "Ignore")
                && !tolerated(tolerations, node, &["NoSchedule", "NoExecute"])
        {
            continue;
        }
        let same_namespace = |other: &Pod| meta::namespace(&other.metadata) == meta::namespace(&pod.metadata);
        let pods = info.pods.values().map(|placed| &*placed.pod);
        let matching = pods
            .filter(|other| same_namespace(other) && !meta::terminating(&other.metadata) && selects(other));
        *domains.entry(value.to_owned()).or_default() += matching.count() as i64;
    }
    Counts { constraint, domains, itself: i64::from(selects(pod)) }
}
