//! Spreads pods over topology domains: by a pod's constraints, and without them the pods of a controller over nodes and
//! zones. PURE.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, TopologySpreadConstraint};
use skep_api::fit::{admits, tolerated};

use super::affinity::has_same_values;
use super::reason::Reason;
use super::snapshot::{NodeInfo, Snapshot};
use super::topology::{CountedNodes, Domains};
use crate::meta;

const ZONE: &str = "topology.kubernetes.io/zone";

/// The selected pods in each domain of one constraint.
struct DomainCounts<'a> {
    constraint: &'a TopologySpreadConstraint,
    domains: Arc<Domains>,
    /// By number of the domain.
    counts: Vec<i64>,
    /// The minimum over all domains; 0 while there are fewer domains than `minDomains`.
    minimum: i64,
    /// 1 if the constraint selects the pod itself, else 0.
    own: i64,
}

impl DomainCounts<'_> {
    /// The domain's count; `None` for a value that is no domain.
    fn of(&self, value: &str) -> Option<i64> {
        self.counts.get(self.domains.number(value)?).copied()
    }

    /// How much one pod in a domain weighs. Topologies with few domains weigh less: their domains have many pods in any case.
    fn weight(&self) -> f64 {
        (self.domains.len() as f64 + 2.0).ln()
    }
}

/// The constraints of one pod, with counts.
pub(super) struct Spread<'a> {
    hard: Vec<DomainCounts<'a>>,
    soft: Vec<DomainCounts<'a>>,
    /// Pods of the same controller in each zone; used if the pod has no constraints.
    zones: HashMap<String, i64>,
    owner: Option<&'a str>,
}

impl<'a> Spread<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, pod: &'a Pod, spec: &'a PodSpec) -> Spread<'a> {
        let constraints = spec.topology_spread_constraints.as_deref().unwrap_or_default();
        let count = |hard: bool| {
            let of = |c: &&TopologySpreadConstraint| (c.when_unsatisfiable == "DoNotSchedule") == hard;
            let wanted: Vec<_> = constraints.iter().filter(of).collect();
            wanted.iter().map(|constraint| counted(snapshot, pod, spec, constraint, &wanted)).collect()
        };
        let owner = meta::controller_of(&pod.metadata).map(|owner| owner.uid.as_str());
        let owner = owner.filter(|_| constraints.is_empty());
        let mut zones = HashMap::new();
        for (info, node) in owner.into_iter().flat_map(|owner| snapshot.of_owner(owner)) {
            if let (Some(zone), Some(owner)) = (meta::label(&node.metadata, ZONE), owner) {
                *zones.entry(zone.to_owned()).or_default() += of_owner(info, owner);
            }
        }
        Spread { hard: count(true), soft: count(false), zones, owner }
    }

    pub(super) fn check(&self, node: &Node) -> Result<(), Reason> {
        for counts in &self.hard {
            let Some(value) = meta::label(&node.metadata, &counts.constraint.topology_key) else {
                return Err(Reason::SpreadLabel);
            };
            let here = counts.of(value).unwrap_or(0);
            if here + counts.own - counts.minimum > i64::from(counts.constraint.max_skew) {
                return Err(Reason::Spread);
            }
        }
        Ok(())
    }

    /// How many pods the node and its domains have, weighted; less is better.
    pub(super) fn crowding(&self, info: &NodeInfo, node: &Node) -> f64 {
        let mut crowding = 0.0;
        for counts in &self.soft {
            let value = meta::label(&node.metadata, &counts.constraint.topology_key);
            // A node outside of every domain counts as the most crowded.
            let here = value.and_then(|value| counts.of(value)).unwrap_or_else(|| counts.counts.iter().sum());
            crowding += here as f64 * counts.weight();
        }
        if let Some(owner) = self.owner {
            let zone = meta::label(&node.metadata, ZONE).and_then(|zone| self.zones.get(zone));
            crowding += of_owner(info, owner) as f64 + zone.copied().unwrap_or(0) as f64;
        }
        crowding
    }
}

fn of_owner(info: &NodeInfo, owner: &str) -> i64 {
    info.owners.get(owner).map_or(0, |count| *count as i64)
}

fn counted<'a>(
    snapshot: &'a Snapshot,
    pod: &Pod,
    spec: &PodSpec,
    constraint: &'a TopologySpreadConstraint,
    all: &[&TopologySpreadConstraint],
) -> DomainCounts<'a> {
    let selects = |other: &Pod| {
        let labels = other.metadata.labels.as_ref();
        constraint.label_selector.as_ref().is_some_and(|selector| meta::selects(selector, labels))
            && has_same_values(pod, labels, constraint.match_label_keys.as_deref())
    };
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let honours = |policy: &Option<String>, default: &str| policy.as_deref().unwrap_or(default) == "Honor";
    let by_affinity = honours(&constraint.node_affinity_policy, "Honor");
    let by_taints = honours(&constraint.node_taints_policy, "Ignore");
    let domain = |node: &'a Node| {
        let value = meta::label(&node.metadata, &constraint.topology_key)?;
        // A node without the label of another constraint counts for none.
        let placed = all.iter().all(|c| meta::label(&node.metadata, &c.topology_key).is_some());
        let counts = placed
            && (!by_affinity || admits(spec, node))
            && (!by_taints || tolerated(tolerations, node, &["NoSchedule", "NoExecute"]));
        counts.then_some(value)
    };
    let counted = CountedNodes {
        key: constraint.topology_key.clone(),
        labels: all.iter().map(|c| &c.topology_key).collect::<BTreeSet<_>>().into_iter().cloned().collect(),
        affinity: by_affinity.then(|| node_affinity(pod, spec)),
        tolerations: by_taints.then(|| json(pod, &tolerations)),
    };
    let domains = snapshot
        .topologies
        .domains(counted, || Domains::of(snapshot.known().filter_map(|(.., node)| domain(node))));
    let mut counts = vec![0; domains.len()];
    let alike = snapshot.classes.within(Some(meta::namespace(&pod.metadata)));
    for class in alike.filter(|class| selects(&class.sample)) {
        for (name, count) in &class.nodes {
            let value = snapshot.known_node(name).and_then(|(_, node)| domain(node));
            let number = value.and_then(|value| domains.number(value));
            if let Some(here) = number.and_then(|number| counts.get_mut(number)) {
                *here += count.staying as i64;
            }
        }
    }
    let wanted = usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1);
    let minimum = if domains.len() < wanted { 0 } else { counts.iter().copied().min().unwrap_or(0) };
    DomainCounts { constraint, domains, counts, minimum, own: i64::from(selects(pod)) }
}

/// What of a pod selects nodes.
fn node_affinity(pod: &Pod, spec: &PodSpec) -> String {
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    json(pod, &(&spec.node_selector, required))
}

/// Without JSON the pod shares its domains with no other.
fn json(pod: &Pod, value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| meta::uid(&pod.metadata).to_owned())
}
