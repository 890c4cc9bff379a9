//! Which of the nodes that can take a pod should. PURE. Weights are upstream's.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeSelectorTerm, PodSpec};

use super::resources::Resources;
use super::snapshot::{NodeInfo, Snapshot};
use crate::controllers::nodes::term_admits;
use crate::controllers::taint_eviction::tolerates;

/// A node that can take the pod.
pub(super) struct Candidate<'a> {
    pub(super) name: &'a Arc<str>,
    pub(super) info: &'a NodeInfo,
    pub(super) node: &'a Node,
    /// Pods nearby that this one should be spread away from.
    pub(super) crowd: f64,
    /// What other pods make of the node; `None`: nothing.
    pub(super) preference: Option<i64>,
    /// Bytes of the pod's images that are there, see [`images_there`].
    pub(super) images: f64,
}

const FULL: f64 = 100.0;
const TAINTS: f64 = 3.0;
const NODE_AFFINITY: f64 = 2.0;
const SPREAD: f64 = 2.0;
const POD_AFFINITY: f64 = 2.0;
const LEAST_USED: f64 = 1.0;
const BALANCE: f64 = 1.0;
const IMAGES: f64 = 1.0;

/// Images below this in all are fetched soon enough; above the other, for each container, more makes no difference.
const SMALL_IMAGES: f64 = 23.0 * 1024.0 * 1024.0;
const LARGE_IMAGE: f64 = 1000.0 * 1024.0 * 1024.0;

/// The best; of equals one by the seed.
pub(super) fn best(
    candidates: &[Candidate<'_>],
    spec: &PodSpec,
    weight: &Resources,
    seed: u64,
) -> Option<Arc<str>> {
    let of = |f: &dyn Fn(&Candidate<'_>) -> f64| -> Vec<f64> { candidates.iter().map(f).collect() };
    let taints = fewer_is_better(&of(&|c| soft_taints(spec, c.node)));
    let liked = more_is_better(&of(&|c| node_preference(spec, c.node)));
    let spread = fewer_is_better(&of(&|c| c.crowd));
    let pods = between(&of(&|c| c.preference.unwrap_or(0) as f64));
    let mut top: Option<(f64, u64, usize)> = None;
    for (at, candidate) in candidates.iter().enumerate() {
        let at_of = |scores: &[f64]| scores.get(at).copied().unwrap_or(0.0);
        let (least_used, balance) = room(candidate.info, weight);
        let score = TAINTS * at_of(&taints)
            + NODE_AFFINITY * at_of(&liked)
            + SPREAD * at_of(&spread)
            + POD_AFFINITY * at_of(&pods)
            + LEAST_USED * least_used
            + BALANCE * balance
            + IMAGES * images(candidate.images, spec);
        // Scores are compared as upstream has them: whole numbers.
        let score = score.floor();
        let lot = mix(seed, at as u64);
        if top.is_none_or(|(best, best_lot, _)| score > best || score == best && lot > best_lot) {
            top = Some((score, lot, at));
        }
    }
    top.and_then(|(_, _, at)| candidates.get(at)).map(|candidate| candidate.name.clone())
}

fn mix(seed: u64, at: u64) -> u64 {
    // splitmix64
    let mut z = seed ^ at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn soft_taints(spec: &PodSpec, node: &Node) -> f64 {
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let soft = taints.filter(|taint| taint.effect == "PreferNoSchedule");
    soft.filter(|taint| !tolerations.iter().any(|t| tolerates(t, taint))).count() as f64
}

fn node_preference(spec: &PodSpec, node: &Node) -> f64 {
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let terms = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let holds = |term: &NodeSelectorTerm| term_admits(term, node);
    terms.into_iter().flatten().filter(|t| holds(&t.preference)).map(|t| f64::from(t.weight)).sum()
}

/// How much of the node stays free, and how evenly its resources are used.
fn room(info: &NodeInfo, weight: &Resources) -> (f64, f64) {
    let used = |used: i64, more: i64, of: i64| {
        if of <= 0 { 1.0 } else { ((used.saturating_add(more)) as f64 / of as f64).min(1.0) }
    };
    let cpu = used(info.weight.cpu, weight.cpu, info.allocatable.cpu);
    let memory = used(info.weight.memory, weight.memory, info.allocatable.memory);
    let least_used = FULL * (1.0 - (cpu + memory) / 2.0);
    let balance = FULL * (1.0 - (cpu - memory).abs() / 2.0);
    (least_used, balance)
}

/// Bytes of the pod's images on the node. An image that few nodes have counts for little: else all its pods would
/// go where its first one went.
pub(super) fn images_there(snapshot: &Snapshot, info: &NodeInfo, images: &[String]) -> f64 {
    let size = |image: &String| Some(*info.images.get(image)? as f64 * snapshot.share_of_nodes(image));
    images.iter().filter_map(size).sum()
}

fn images(bytes: f64, spec: &PodSpec) -> f64 {
    let containers = spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len);
    let most = LARGE_IMAGE * containers.max(1) as f64;
    FULL * (bytes.clamp(SMALL_IMAGES, most) - SMALL_IMAGES) / (most - SMALL_IMAGES)
}

fn bounds(scores: &[f64]) -> (f64, f64) {
    let fold = |with: fn(f64, f64) -> f64, first: f64| scores.iter().copied().fold(first, with);
    (fold(f64::min, f64::INFINITY), fold(f64::max, f64::NEG_INFINITY))
}

/// From the fewest, which is full, down in proportion.
fn fewer_is_better(scores: &[f64]) -> Vec<f64> {
    let (least, most) = bounds(scores);
    let scale = |score: f64| if most <= 0.0 { FULL } else { FULL * (most + least - score) / most };
    scores.iter().map(|score| scale(*score)).collect()
}

fn more_is_better(scores: &[f64]) -> Vec<f64> {
    let (_, most) = bounds(scores);
    scores.iter().map(|score| if most <= 0.0 { 0.0 } else { FULL * score / most }).collect()
}

/// The lowest is 0, the highest full; scores may be below 0.
fn between(scores: &[f64]) -> Vec<f64> {
    let (least, most) = bounds(scores);
    scores
        .iter()
        .map(|score| if most <= least { 0.0 } else { FULL * (score - least) / (most - least) })
        .collect()
}
