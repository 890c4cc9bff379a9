//! Preemption: which pods to remove so that one of higher priority can run. PURE: pods are removed from the snapshot for a
//! dry run, and put back before the answer.
//! Order of preference between nodes as upstream: fewest violated disruption budgets, lowest highest priority of a victim,
//! lowest sum of priorities, fewest victims, and the latest start of the victims with the highest priority.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};

use super::affinity::Affinities;
use super::budgets::Budgets;
use super::decide::tally;
use super::dry_run::{ClusterDryRun, MinimalSet, NodeDryRun, minimal_set};
use super::filter::{Requirements, admits_statically};
use super::snapshot::{NodeInfo, PlacedPod, Snapshot, priority};
use crate::controllers::pods::condition;
use crate::meta;

pub(super) const TARGET_REASON: &str = "PreemptionByScheduler";

/// The pods to remove from a node.
#[derive(Clone, Debug)]
pub struct Plan {
    pub node: Arc<str>,
    pub victims: Vec<Arc<Pod>>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoPlan {
    /// Victims of an earlier plan are still terminating.
    InProgress,
    /// The reason for the pod's condition.
    Useless(String),
}

impl fmt::Display for NoPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoPlan::InProgress => "not eligible due to a terminating pod on the nominated node.",
            NoPlan::Useless(why) => why,
        })
    }
}

/// As upstream, a tenth of the nodes is compared, and at least this many.
const MIN_CANDIDATE_NODES: usize = 100;

const NO_HELP: &str = "Preemption is not helpful for scheduling";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";

/// The least is the best.
type Rank = (usize, i32, i64, usize, Reverse<Timestamp>);

pub(super) fn plan(
    snapshot: &mut Snapshot,
    pod: &Pod,
    spec: &PodSpec,
    budgets: &Budgets,
    seed: u64,
) -> Result<Plan, NoPlan> {
    if spec.preemption_policy.as_deref() == Some("Never") {
        return Err(NoPlan::Useless("not eligible due to preemptionPolicy=Never.".to_owned()));
    }
    if snapshot.nomination(pod).is_some_and(|node| has_terminating_victims(snapshot, pod, node)) {
        return Err(NoPlan::InProgress);
    }
    let Ok(requirements) = Requirements::of(snapshot, pod, spec) else {
        let nodes = snapshot.known_count();
        return Err(NoPlan::Useless(tally(nodes, &BTreeMap::from([(NO_HELP, nodes)]))));
    };
    // Otherwise other nodes do not matter, and a copy of the one node's room is enough.
    let depends_on_pods = !spec.topology_spread_constraints.as_ref().is_none_or(Vec::is_empty)
        || !requirements.volumes.exclusive.is_empty()
        || !Affinities::new(snapshot, pod, spec).allows_everything();
    let search = Search::new(snapshot.known_count());
    match depends_on_pods {
        true => {
            let names: Vec<Arc<str>> = snapshot.known_names(seed).cloned().collect();
            search.run(names.iter(), |name| in_cluster(snapshot, &requirements, name, budgets))
        }
        false => {
            search.run(snapshot.known_from(seed), |node| on_node(snapshot, &requirements, node, budgets))
        }
    }
}

/// A node's pods to remove.
struct Candidate<V> {
    rank: Rank,
    node: Arc<str>,
    victims: V,
}

/// Compares nodes until enough were found.
struct Search {
    nodes: usize,
    /// How many nodes are compared.
    limit: usize,
    found: usize,
    best: Option<(Rank, Plan)>,
    reasons: BTreeMap<&'static str, usize>,
}

impl Search {
    fn new(nodes: usize) -> Search {
        let limit = (nodes / 10).max(MIN_CANDIDATE_NODES);
        Search { nodes, limit, found: 0, best: None, reasons: BTreeMap::new() }
    }

    fn run<N, V: IntoIterator<Item = Arc<Pod>>>(
        mut self,
        nodes: impl Iterator<Item = N>,
        mut victims_of: impl FnMut(N) -> Result<Candidate<V>, &'static str>,
    ) -> Result<Plan, NoPlan> {
        for node in nodes {
            match victims_of(node) {
                Ok(candidate) => self.offer(candidate),
                Err(reason) => *self.reasons.entry(reason).or_default() += 1,
            }
            if self.found >= self.limit {
                break;
            }
        }
        self.best.map(|(_, plan)| plan).ok_or_else(|| NoPlan::Useless(tally(self.nodes, &self.reasons)))
    }

    fn offer<V: IntoIterator<Item = Arc<Pod>>>(&mut self, candidate: Candidate<V>) {
        self.found += 1;
        let Candidate { rank, node, victims } = candidate;
        if self.best.as_ref().is_none_or(|(best, _)| rank < *best) {
            self.best = Some((rank, Plan { node, victims: victims.into_iter().collect() }));
        }
    }
}

/// Whether victims of an earlier plan for this pod are still terminating.
fn has_terminating_victims(snapshot: &Snapshot, pod: &Pod, node: &str) -> bool {
    let pods = snapshot.nodes.get(node).into_iter().flat_map(|info| info.pods.values());
    let mut pods = pods.map(|placed| &*placed.pod);
    pods.any(|other| {
        meta::terminating(&other.metadata)
            && priority(other) < priority(pod)
            && condition(other, "DisruptionTarget").and_then(|c| c.reason.as_deref()) == Some(TARGET_REASON)
    })
}

/// The pods to remove from a node, of which nothing but its room matters.
fn on_node<'a>(
    snapshot: &'a Snapshot,
    requirements: &'a Requirements<'a>,
    (name, info, node): (&Arc<str>, &'a NodeInfo, &Arc<Node>),
    budgets: &Budgets,
) -> Result<Candidate<impl Iterator<Item = Arc<Pod>> + use<'a>>, &'static str> {
    may_help(requirements, info, node)?;
    let lower = lower(info, priority(requirements.pod));
    let mut run = NodeDryRun::new(snapshot, requirements, (name, &info.room));
    let set = minimal_set(&mut run, &lower, budgets).filter(is_useful).ok_or(NO_VICTIMS)?;
    let rank = rank(&set, |at| lower.get(at).copied());
    let victims = set.victims.into_iter().filter_map(move |at| Some(lower.get(at)?.pod.clone()));
    Ok(Candidate { rank, node: name.clone(), victims })
}

/// The pods to remove from a node so that a pod fits whose placement depends on pods of other nodes too.
fn in_cluster(
    snapshot: &mut Snapshot,
    requirements: &Requirements<'_>,
    name: &Arc<str>,
    budgets: &Budgets,
) -> Result<Candidate<Vec<Arc<Pod>>>, &'static str> {
    let Some((info, node)) = snapshot.known_node(name) else { return Err(NO_HELP) };
    may_help(requirements, info, node)?;
    let lower: Vec<PlacedPod> = lower(info, priority(requirements.pod)).into_iter().cloned().collect();
    let set = minimal_set(&mut ClusterDryRun::new(snapshot, requirements, name), &lower, budgets);
    let set = set.filter(is_useful).ok_or(NO_VICTIMS)?;
    let rank = rank(&set, |at| lower.get(at));
    let victims = set.victims.iter().filter_map(|at| Some(lower.get(*at)?.pod.clone())).collect();
    Ok(Candidate { rank, node: name.clone(), victims })
}

/// Pods of lower priority. Those of higher priority and older ones are kept first.
fn lower(info: &NodeInfo, than: i32) -> Vec<&PlacedPod> {
    let mut lower: Vec<&PlacedPod> = info.pods.values().filter(|other| other.priority < than).collect();
    lower.sort_by_key(|placed| (Reverse(placed.priority), placed.started));
    lower
}

/// Without victims the pod fits by now: a change since its attempt has made room, and its next attempt uses it.
fn is_useful(set: &MinimalSet) -> bool {
    !set.victims.is_empty()
}

/// Whether the removal of pods may help at all.
fn may_help(requirements: &Requirements<'_>, info: &NodeInfo, node: &Node) -> Result<(), &'static str> {
    let is_possible = fits_empty_node(requirements, info)
        && admits_statically(requirements, node).is_ok()
        && requirements.volumes.check(node).is_empty();
    match (is_possible, info.has_lower_priority(priority(requirements.pod))) {
        (false, _) => Err(NO_HELP),
        (true, false) => Err(NO_VICTIMS),
        (true, true) => Ok(()),
    }
}

/// Whether the pod would fit onto the node without other pods.
fn fits_empty_node(requirements: &Requirements<'_>, info: &NodeInfo) -> bool {
    let (requested, has) = (&requirements.demand.requested, &info.room.allocatable);
    requested.cpu <= has.cpu && requested.memory <= has.memory && requested.storage <= has.storage
}

fn rank<'p>(set: &MinimalSet, pod: impl Fn(usize) -> Option<&'p PlacedPod>) -> Rank {
    let victims =
        || set.victims.iter().filter_map(|at| pod(*at)).map(|placed| (placed.priority, placed.started));
    let highest = victims().map(|(priority, _)| priority).max().unwrap_or(i32::MIN);
    // Counted from the lowest possible priority: one more victim is never better, however low its priority.
    let sum = victims().map(|(priority, _)| i64::from(priority) - i64::from(i32::MIN) + 1).sum();
    let oldest = victims().filter(|(priority, _)| *priority == highest).map(|(_, started)| started).min();
    (set.violations, highest, sum, set.victims.len(), Reverse(oldest.unwrap_or(Timestamp::MIN)))
}
