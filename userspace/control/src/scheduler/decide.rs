//! Chooses a node for a pod: filters first, then scores. PURE.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};

use super::affinity::Affinities;
use super::filter::{self, Wanted};
use super::resources::{requested, weight};
use super::score::{Candidate, best};
use super::snapshot::{NodeInfo, Snapshot, host_ports};
use super::spread::Spread;

/// No node can take the pod: how many there are, and for how many each reason holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unschedulable {
    pub nodes: usize,
    pub reasons: BTreeMap<String, usize>,
}

impl fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0/{} nodes are available", self.nodes)?;
        let mut reasons: Vec<String> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        match reasons.is_empty() {
            true => f.write_str("."),
            false => write!(f, ": {}.", reasons.join(", ")),
        }
    }
}

/// In a large cluster enough good nodes are compared, not all: upstream's share, and never fewer than this.
const ENOUGH: usize = 100;

fn enough(nodes: usize) -> usize {
    let percent = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(ENOUGH)
}

/// The node to run on. `seed` says where to begin looking, and decides between equals.
pub fn choose(snapshot: &Snapshot, pod: &Pod, spec: &PodSpec, seed: u64) -> Result<Arc<str>, Unschedulable> {
    let wanted = Wanted { pod, spec, requested: requested(pod), ports: host_ports(pod) };
    let affinities = Affinities::new(snapshot, pod, spec);
    let spread = Spread::new(snapshot, pod, spec);
    let nodes: Vec<(&Arc<str>, &NodeInfo, &Arc<Node>)> = snapshot.known().collect();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut candidates = Vec::new();
    let start = usize::try_from(seed).unwrap_or(0) % nodes.len().max(1);
    let limit = enough(nodes.len());
    for (name, info, node) in nodes.iter().cycle().skip(start).take(nodes.len()) {
        let verdict = filter::check(&wanted, info, node)
            .and_then(|()| spread.check(node).map_err(|reason| vec![reason.to_owned()]))
            .and_then(|()| affinities.check(node).map_err(|reason| vec![reason.to_owned()]));
        match verdict {
            Ok(()) => candidates.push(Candidate {
                name,
                info,
                node,
                crowd: spread.crowd(info, node),
                preference: affinities.preference(node),
            }),
            Err(why) => why.into_iter().for_each(|reason| *reasons.entry(reason).or_default() += 1),
        }
        if candidates.len() >= limit {
            break;
        }
    }
    best(&candidates, spec, &weight(pod), seed).ok_or(Unschedulable { nodes: nodes.len(), reasons })
}
