//! Scores the feasible nodes of a pod. PURE. Weights are upstream's.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeSelectorTerm, PodSpec};
use skep_api::fit::{Amounts, term_admits, tolerates};

use super::snapshot::{NodeInfo, Snapshot};

/// A feasible node.
pub(super) struct FeasibleNode<'a> {
    pub(super) name: &'a Arc<str>,
    pub(super) info: &'a NodeInfo,
    pub(super) node: &'a Node,
    /// Number of pods nearby that this one should be spread away from, weighted.
    pub(super) crowding: f64,
    /// The preference by affinity between pods; `None` if there is none.
    pub(super) preference: Option<i64>,
    /// Bytes of the pod's images on the node, see [`image_bytes`].
    pub(super) images: f64,
}

const MAX_SCORE: f64 = 100.0;

// Weights.
const TAINTS: f64 = 3.0;
const NODE_AFFINITY: f64 = 2.0;
const SPREAD: f64 = 2.0;
const POD_AFFINITY: f64 = 2.0;
const LEAST_USED: f64 = 1.0;
const BALANCE: f64 = 1.0;
const IMAGES: f64 = 1.0;

/// Images of fewer bytes in sum do not count, and more bytes for each container than the maximum do not count either.
const MIN_IMAGE_BYTES: f64 = 23.0 * 1024.0 * 1024.0;
const MAX_IMAGE_BYTES: f64 = 1000.0 * 1024.0 * 1024.0;

/// The candidate with the highest score; the seed selects one of equals.
pub(super) fn best(
    candidates: &[FeasibleNode<'_>],
    spec: &PodSpec,
    weight: &Amounts,
    seed: u64,
) -> Option<Arc<str>> {
    let of = |f: &dyn Fn(&FeasibleNode<'_>) -> f64| -> Vec<f64> { candidates.iter().map(f).collect() };
    let taints = fewer_is_better(&of(&|c| soft_taints(spec, c.node)));
    let preferred = more_is_better(&of(&|c| node_preference(spec, c.node)));
    let spread = fewer_is_better(&of(&|c| c.crowding));
    let pods = normalized(&of(&|c| c.preference.unwrap_or(0) as f64));
    let mut top: Option<(f64, u64, usize)> = None;
    for (at, candidate) in candidates.iter().enumerate() {
        let at_of = |scores: &[f64]| scores.get(at).copied().unwrap_or(0.0);
        let (least_used, balance) = resource_scores(candidate.info, weight);
        let score = TAINTS * at_of(&taints)
            + NODE_AFFINITY * at_of(&preferred)
            + SPREAD * at_of(&spread)
            + POD_AFFINITY * at_of(&pods)
            + LEAST_USED * least_used
            + BALANCE * balance
            + IMAGES * images(candidate.images, spec);
        // As upstream, scores are compared as whole numbers.
        let score = score.floor();
        let tie_breaker = mix(seed, at as u64);
        if top.is_none_or(|(best, best_tie_breaker, _)| {
            score > best || score == best && tie_breaker > best_tie_breaker
        }) {
            top = Some((score, tie_breaker, at));
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

/// Scores for the free share of the node, and for the even use of its resources.
fn resource_scores(info: &NodeInfo, weight: &Amounts) -> (f64, f64) {
    let used = |used: i64, more: i64, of: i64| {
        if of <= 0 { 1.0 } else { ((used.saturating_add(more)) as f64 / of as f64).min(1.0) }
    };
    let cpu = used(info.weight.cpu, weight.cpu, info.room.allocatable.cpu);
    let memory = used(info.weight.memory, weight.memory, info.room.allocatable.memory);
    let least_used = MAX_SCORE * (1.0 - (cpu + memory) / 2.0);
    let balance = MAX_SCORE * (1.0 - (cpu - memory).abs() / 2.0);
    (least_used, balance)
}

/// Bytes of the pod's images on the node, each weighted by the share of nodes that have it: otherwise all pods of an image
/// would follow the first one.
pub(super) fn image_bytes(snapshot: &Snapshot, info: &NodeInfo, images: &[String]) -> f64 {
    let size = |image: &String| Some(*info.images.get(image)? as f64 * snapshot.share_of_nodes(image));
    images.iter().filter_map(size).sum()
}

fn images(bytes: f64, spec: &PodSpec) -> f64 {
    let containers = spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len);
    let most = MAX_IMAGE_BYTES * containers.max(1) as f64;
    MAX_SCORE * (bytes.clamp(MIN_IMAGE_BYTES, most) - MIN_IMAGE_BYTES) / (most - MIN_IMAGE_BYTES)
}

fn bounds(scores: &[f64]) -> (f64, f64) {
    let fold = |with: fn(f64, f64) -> f64, first: f64| scores.iter().copied().fold(first, with);
    (fold(f64::min, f64::INFINITY), fold(f64::max, f64::NEG_INFINITY))
}

/// The lowest gets the full score, the others proportionally less.
fn fewer_is_better(scores: &[f64]) -> Vec<f64> {
    let (least, most) = bounds(scores);
    let scale = |score: f64| if most <= 0.0 { MAX_SCORE } else { MAX_SCORE * (most + least - score) / most };
    scores.iter().map(|score| scale(*score)).collect()
}

fn more_is_better(scores: &[f64]) -> Vec<f64> {
    let (_, most) = bounds(scores);
    scores.iter().map(|score| if most <= 0.0 { 0.0 } else { MAX_SCORE * score / most }).collect()
}

/// The lowest gets 0, the highest the full score; values may be negative.
fn normalized(scores: &[f64]) -> Vec<f64> {
    let (least, most) = bounds(scores);
    scores
        .iter()
        .map(|score| if most <= least { 0.0 } else { MAX_SCORE * (score - least) / (most - least) })
        .collect()
}
