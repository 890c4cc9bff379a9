//! Chooses a node for a pod: filters first, then scores. PURE.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};

use super::affinity::Affinities;
use super::filter::{self, Wanted};
use super::queue::Cause;
use super::reason::Reason;
use super::resources::weight;
use super::score::{Candidate, best, images_there};
use super::snapshot::{NodeInfo, Snapshot, with_tag};
use super::spread::Spread;

/// No node can take the pod: how many there are, and for how many each reason holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unschedulable {
    pub(super) nodes: usize,
    pub(super) reasons: BTreeMap<Reason, usize>,
}

impl Unschedulable {
    /// What would have to change. Without nodes: a node.
    pub(super) fn causes(&self) -> BTreeSet<Cause> {
        let causes = self.reasons.keys().map(Reason::cause);
        if self.reasons.is_empty() { BTreeSet::from([Cause::Node]) } else { causes.collect() }
    }
}

impl fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nodes {
            0 => f.write_str("no nodes available to schedule pods"),
            nodes => f.write_str(&tally(nodes, &self.reasons)),
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

/// In a large cluster enough good nodes are compared, not all: upstream's share, and never fewer than this.
const ENOUGH: usize = 100;

fn enough(nodes: usize) -> usize {
    let percent = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(ENOUGH)
}

/// All that one pod is held against: itself, and what the pods that are placed mean for it.
struct Trial<'a> {
    wanted: &'a Wanted<'a>,
    affinities: Affinities,
    spread: Spread<'a>,
}

impl<'a> Trial<'a> {
    fn new(snapshot: &'a Snapshot, wanted: &'a Wanted<'a>) -> Self {
        Trial {
            wanted,
            affinities: Affinities::new(snapshot, wanted.pod, wanted.spec),
            spread: Spread::new(snapshot, wanted.pod, wanted.spec),
        }
    }

    fn check(
        &self,
        snapshot: &Snapshot,
        name: &str,
        info: &NodeInfo,
        node: &Node,
    ) -> Result<(), Vec<Reason>> {
        match snapshot.with_nominated(name, info, self.wanted.pod) {
            Some(fuller) => filter::check(self.wanted, &fuller, node)?,
            None => filter::check(self.wanted, info, node)?,
        }
        self.spread.check(node).map_err(|reason| vec![reason])?;
        self.affinities.check(node).map_err(|reason| vec![reason])
    }
}

/// Whether every filter lets the pod onto the node.
pub(super) fn fits(snapshot: &Snapshot, wanted: &Wanted<'_>, name: &str) -> bool {
    let trial = Trial::new(snapshot, wanted);
    snapshot.known_node(name).is_some_and(|(info, node)| trial.check(snapshot, name, info, node).is_ok())
}

fn images(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    containers.filter_map(|container| container.image.as_deref())
}

/// The node to run on. `seed` says where to begin looking, and decides between equals.
pub(super) fn choose(
    snapshot: &Snapshot,
    pod: &Pod,
    spec: &PodSpec,
    seed: u64,
) -> Result<Arc<str>, Unschedulable> {
    let wanted = Wanted::of(pod, spec);
    // Room was made for it there: unless that changed, no other node is compared.
    if let Some(name) = snapshot.nomination(pod).filter(|name| fits(snapshot, &wanted, name)) {
        return Ok(name.clone());
    }
    let trial = Trial::new(snapshot, &wanted);
    let nodes: Vec<(&Arc<str>, &NodeInfo, &Arc<Node>)> = snapshot.known().collect();
    let mut reasons: BTreeMap<Reason, usize> = BTreeMap::new();
    let mut candidates = Vec::new();
    let start = usize::try_from(seed).unwrap_or(0) % nodes.len().max(1);
    let limit = enough(nodes.len());
    let images: Vec<String> = images(spec).map(with_tag).collect();
    for (name, info, node) in nodes.iter().cycle().skip(start).take(nodes.len()) {
        match trial.check(snapshot, name, info, node) {
            Ok(()) => candidates.push(Candidate {
                name,
                info,
                node,
                crowd: trial.spread.crowd(info, node),
                preference: trial.affinities.preference(node),
                images: images_there(snapshot, info, &images),
            }),
            Err(why) => why.into_iter().for_each(|reason| *reasons.entry(reason).or_default() += 1),
        }
        if candidates.len() >= limit {
            break;
        }
    }
    best(&candidates, spec, &weight(pod), seed).ok_or(Unschedulable { nodes: nodes.len(), reasons })
}
