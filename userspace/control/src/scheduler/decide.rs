//! Chooses a node for a pod: filters first, then scores. PURE.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};
use skep_api::fit::weight;

use super::affinity::Affinities;
use super::filter::{self, Requirements};
use super::queue::Cause;
use super::reason::Reason;
use super::score::{FeasibleNode, best, image_bytes};
use super::snapshot::{NodeInfo, Snapshot, with_tag};
use super::spread::Spread;
use super::volumes::VolumePlan;

/// No node can take the pod: the number of nodes, and for how many of them each reason holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unschedulable {
    pub(super) nodes: usize,
    pub(super) reasons: BTreeMap<Reason, usize>,
    /// Why no node at all can take it; then no node was asked.
    pub(super) of_pod: Option<String>,
}

impl Unschedulable {
    /// What must change before another attempt is worthwhile. Without nodes: a node.
    pub(super) fn causes(&self) -> BTreeSet<Cause> {
        if self.of_pod.is_some() {
            return BTreeSet::from([Cause::Volumes]);
        }
        let causes = self.reasons.keys().map(Reason::cause);
        if self.reasons.is_empty() { BTreeSet::from([Cause::Node]) } else { causes.collect() }
    }
}

impl fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.nodes, &self.of_pod) {
            (0, _) => f.write_str("no nodes available to schedule pods"),
            (nodes, Some(why)) => write!(f, "0/{nodes} nodes are available: {why}."),
            (nodes, None) => f.write_str(&tally(nodes, &self.reasons)),
        }
    }
}

/// `0/3 nodes are available: 2 this, 1 that.`
pub(super) fn tally(nodes: usize, reasons: &BTreeMap<impl fmt::Display, usize>) -> String {
    let mut reasons: Vec<String> =
        reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.sort();
    format!("0/{nodes} nodes are available: {}.", reasons.join(", "))
}

/// In a large cluster not all feasible nodes are compared: upstream's share, and at least this many.
const MIN_FEASIBLE_NODES: usize = 100;

fn feasible_nodes_to_find(nodes: usize) -> usize {
    let percent = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(MIN_FEASIBLE_NODES)
}

/// The filters for one pod: its own requirements, and those that depend on the pods of the cluster.
struct Filters<'a> {
    requirements: &'a Requirements<'a>,
    affinities: Affinities,
    spread: Spread<'a>,
}

impl<'a> Filters<'a> {
    fn new(snapshot: &'a Snapshot, requirements: &'a Requirements<'a>) -> Self {
        Filters {
            requirements,
            affinities: Affinities::new(snapshot, requirements.pod, requirements.spec),
            spread: Spread::new(snapshot, requirements.pod, requirements.spec),
        }
    }

    fn check(
        &self,
        snapshot: &Snapshot,
        name: &str,
        info: &NodeInfo,
        node: &Node,
    ) -> Result<(), Vec<Reason>> {
        let fuller = snapshot.with_nominated(name, &info.room, self.requirements.pod);
        filter::check(self.requirements, fuller.as_ref().unwrap_or(&info.room), node)?;
        if snapshot.volumes.is_in_use(&self.requirements.volumes.exclusive) {
            return Err(vec![Reason::ClaimInUse]);
        }
        self.spread.check(node).map_err(|reason| vec![reason])?;
        self.affinities.check(node).map_err(|reason| vec![reason])
    }
}

/// Whether the node passes every filter.
pub(super) fn fits(snapshot: &Snapshot, requirements: &Requirements<'_>, name: &str) -> bool {
    let filters = Filters::new(snapshot, requirements);
    snapshot.known_node(name).is_some_and(|(info, node)| filters.check(snapshot, name, info, node).is_ok())
}

fn images(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    containers.filter_map(|container| container.image.as_deref())
}

/// A node for a pod; with the plan of its volumes unless they are bound.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) node: Arc<str>,
    pub(super) volumes: Option<VolumePlan>,
}

impl Choice {
    fn new(snapshot: &Snapshot, requirements: &Requirements<'_>, node: Arc<str>) -> Option<Choice> {
        let volumes = match requirements.volumes.are_bound() {
            true => None,
            false => Some(requirements.volumes.plan(snapshot.known_node(&node)?.1)?),
        };
        Some(Choice { node, volumes })
    }
}

/// The best node. `seed` selects the first node to check, and one of nodes with equal scores.
pub(super) fn choose(
    snapshot: &Snapshot,
    pod: &Pod,
    spec: &PodSpec,
    seed: u64,
) -> Result<Choice, Unschedulable> {
    let requirements = Requirements::of(snapshot, pod, spec).map_err(|why| Unschedulable {
        nodes: snapshot.known_count(),
        reasons: BTreeMap::new(),
        of_pod: Some(why.to_string()),
    })?;
    // Its nominated node is not compared with others.
    let nominated = snapshot.nomination(pod).filter(|name| fits(snapshot, &requirements, name));
    if let Some(choice) = nominated.and_then(|name| Choice::new(snapshot, &requirements, name.clone())) {
        return Ok(choice);
    }
    let filters = Filters::new(snapshot, &requirements);
    let nodes = snapshot.known_count();
    let mut reasons: BTreeMap<Reason, usize> = BTreeMap::new();
    let mut candidates = Vec::new();
    let limit = feasible_nodes_to_find(nodes);
    let images: Vec<String> = images(spec).map(with_tag).collect();
    for (name, info, node) in snapshot.known_from(seed) {
        match filters.check(snapshot, name, info, node) {
            Ok(()) => candidates.push(FeasibleNode {
                name,
                info,
                node,
                crowding: filters.spread.crowding(info, node),
                preference: filters.affinities.preference(node),
                images: image_bytes(snapshot, info, &images),
            }),
            Err(why) => why.into_iter().for_each(|reason| *reasons.entry(reason).or_default() += 1),
        }
        if candidates.len() >= limit {
            break;
        }
    }
    best(&candidates, spec, &weight(pod), seed)
        .and_then(|node| Choice::new(snapshot, &requirements, node))
        .ok_or(Unschedulable { nodes, reasons, of_pod: None })
}
