//! Preemption: which pods to remove so that one of higher priority can run. PURE: pods are removed from the snapshot for a
//! dry run, and put back before the answer.
//! Order of preference between nodes as upstream: fewest violated disruption budgets, lowest highest priority of a victim,
//! lowest sum of priorities, fewest victims, and the latest start of the victims with the highest priority.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::affinity::Affinities;
use super::decide::{fits, tally};
use super::filter::{self, Requirements, admits_statically};
use super::snapshot::{NodeInfo, PlacedPod, Snapshot, priority};
use crate::cache::Key;
use crate::controllers::pods::condition;
use crate::meta;

pub(super) const TARGET_REASON: &str = "PreemptionByScheduler";

pub(super) type Budgets = BTreeMap<Key, Arc<PodDisruptionBudget>>;

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

type NodeRank = (usize, i32, i64, usize, Reverse<Timestamp>);

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
    let names: Vec<Arc<str>> = snapshot.known().map(|(name, ..)| name.clone()).collect();
    let (mut reasons, mut found) = (BTreeMap::<&str, usize>::new(), Vec::new());
    let Ok(requirements) = Requirements::of(snapshot, pod, spec) else {
        return Err(NoPlan::Useless(tally(names.len(), &BTreeMap::from([(NO_HELP, names.len())]))));
    };
    let limit = (names.len() / 10).max(MIN_CANDIDATE_NODES);
    let start = usize::try_from(seed).unwrap_or(0) % names.len().max(1);
    // Otherwise other nodes do not matter, and a copy of the one node is enough.
    let depends_on_pods = !spec.topology_spread_constraints.as_ref().is_none_or(Vec::is_empty)
        || !requirements.volumes.exclusive.is_empty()
        || !Affinities::new(snapshot, pod, spec).allows_everything();
    for name in names.iter().cycle().skip(start).take(names.len()) {
        match victims(snapshot, &requirements, name, budgets, depends_on_pods) {
            Ok((violations, victims)) => found.push((rank(violations, &victims), name, victims)),
            Err(reason) => *reasons.entry(reason).or_default() += 1,
        }
        if found.len() >= limit {
            break;
        }
    }
    let best = found.into_iter().min_by(|a, b| a.0.cmp(&b.0));
    best.map(|(_, name, victims)| Plan { node: name.clone(), victims })
        .ok_or_else(|| NoPlan::Useless(tally(names.len(), &reasons)))
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

/// A dry run: pods are removed from a node and put back.
trait DryRun {
    fn remove_pod(&mut self, key: &Key) -> Option<PlacedPod>;
    fn put_back(&mut self, key: Key, placed: PlacedPod);
    fn fits(&self) -> bool;
}

/// In the snapshot itself, for pods whose placement depends on pods of other nodes. Removed pods must be put back.
struct ClusterDryRun<'a> {
    snapshot: &'a mut Snapshot,
    requirements: &'a Requirements<'a>,
    name: &'a Arc<str>,
}

impl DryRun for ClusterDryRun<'_> {
    fn remove_pod(&mut self, key: &Key) -> Option<PlacedPod> {
        self.snapshot.remove_pod(key)
    }

    fn put_back(&mut self, key: Key, placed: PlacedPod) {
        self.snapshot.put_back(key, placed, self.name.clone());
    }

    fn fits(&self) -> bool {
        fits(self.snapshot, self.requirements, self.name)
    }
}

/// On a copy of one node, for pods whose placement depends only on that node.
struct NodeDryRun<'a> {
    snapshot: &'a Snapshot,
    requirements: &'a Requirements<'a>,
    name: &'a Arc<str>,
    info: NodeInfo,
    node: &'a Node,
}

impl DryRun for NodeDryRun<'_> {
    fn remove_pod(&mut self, key: &Key) -> Option<PlacedPod> {
        self.info.remove(key)
    }

    fn put_back(&mut self, key: Key, placed: PlacedPod) {
        self.info.insert(key, placed);
    }

    fn fits(&self) -> bool {
        let fuller = self.snapshot.with_nominated(self.name, &self.info, self.requirements.pod);
        filter::check(self.requirements, fuller.as_ref().unwrap_or(&self.info), self.node).is_ok()
    }
}

/// A minimal set of pods to remove from the node, and how many of them violate a budget.
fn victims(
    snapshot: &mut Snapshot,
    requirements: &Requirements<'_>,
    name: &Arc<str>,
    budgets: &Budgets,
    depends_on_pods: bool,
) -> Result<(usize, Vec<Arc<Pod>>), &'static str> {
    const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
    let Some((info, node)) = snapshot.known_node(name) else { return Err(NO_HELP) };
    if admits_statically(requirements, node).is_err()
        || !fits_empty_node(requirements, info)
        || !requirements.volumes.check(node).is_empty()
    {
        return Err(NO_HELP);
    }
    if !info.has_lower_priority(priority(requirements.pod)) {
        return Err(NO_VICTIMS);
    }
    let has_lower_priority = |other: &&Arc<Pod>| priority(other) < priority(requirements.pod);
    let mut lower: Vec<Arc<Pod>> =
        info.pods.values().map(|placed| &placed.pod).filter(has_lower_priority).cloned().collect();
    // Pods of higher priority and older ones are kept first.
    lower.sort_by_key(|pod| (Reverse(priority(pod)), started(pod)));
    let minimal = if depends_on_pods {
        minimal_set(&mut ClusterDryRun { snapshot, requirements, name }, &lower, budgets)
    } else {
        minimal_set(
            &mut NodeDryRun { snapshot, requirements, name, info: info.clone(), node },
            &lower,
            budgets,
        )
    };
    // Without victims the pod fits by now: a change since its attempt has made room, and its next attempt uses it.
    minimal.filter(|(_, victims)| !victims.is_empty()).ok_or(NO_VICTIMS)
}

/// Which of the pods of lower priority to remove; afterwards the state is as before. `None` if not even all suffice.
fn minimal_set(
    run: &mut impl DryRun,
    lower: &[Arc<Pod>],
    budgets: &Budgets,
) -> Option<(usize, Vec<Arc<Pod>>)> {
    let mut without = WithoutPods { run, removed: HashMap::new() };
    for pod in lower {
        without.remove(Key::of(&pod.metadata));
    }
    if !without.run.fits() {
        return None;
    }
    let (violating, others) = split_by_budget(lower, budgets);
    let mut victims = |pods: Vec<Arc<Pod>>| -> Vec<Arc<Pod>> {
        pods.into_iter().filter(|pod| !without.can_stay(Key::of(&pod.metadata))).collect()
    };
    let (violating, others) = (victims(violating), victims(others));
    let count = violating.len();
    Some((count, violating.into_iter().chain(others).collect()))
}

/// Puts the removed pods back when it is dropped, also after a panic.
struct WithoutPods<'r, R: DryRun> {
    run: &'r mut R,
    /// With their computed values, so that putting them back is cheap.
    removed: HashMap<Key, PlacedPod>,
}

impl<R: DryRun> WithoutPods<'_, R> {
    fn remove(&mut self, key: Key) {
        self.removed.extend(self.run.remove_pod(&key).map(|placed| (key, placed)));
    }

    /// Puts the pod back if the incoming pod still fits then.
    fn can_stay(&mut self, key: Key) -> bool {
        let Some(placed) = self.removed.remove(&key) else { return true };
        self.run.put_back(key.clone(), placed);
        let fits = self.run.fits();
        if !fits {
            self.remove(key);
        }
        fits
    }
}

impl<R: DryRun> Drop for WithoutPods<'_, R> {
    fn drop(&mut self) {
        for (key, placed) in self.removed.drain() {
            self.run.put_back(key, placed);
        }
    }
}

/// Whether the pod would fit onto the node without other pods.
fn fits_empty_node(requirements: &Requirements<'_>, info: &NodeInfo) -> bool {
    let (requested, has) = (&requirements.requested, &info.allocatable);
    requested.cpu <= has.cpu && requested.memory <= has.memory && requested.storage <= has.storage
}

/// Pods whose removal violates a budget, and the others, in the given order.
fn split_by_budget(pods: &[Arc<Pod>], budgets: &Budgets) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
    let mut allowed: BTreeMap<&Key, i32> = budgets
        .iter()
        .map(|(key, budget)| {
            let left = budget.status.as_ref().and_then(|status| status.disruptions_allowed);
            (key, left.unwrap_or(0))
        })
        .collect();
    let violates = |pod: &Arc<Pod>| {
        let mut violates = false;
        for (key, budget) in budgets.iter().filter(|(key, budget)| covers(key, budget, pod)) {
            let name = meta::name(&pod.metadata);
            // The API server has already counted this disruption.
            let disrupted = budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref());
            if disrupted.is_some_and(|pods| pods.contains_key(name)) {
                continue;
            }
            let left = allowed.entry(key).or_default();
            *left = left.saturating_sub(1);
            violates |= *left < 0;
        }
        violates
    };
    pods.iter().cloned().partition(violates)
}

fn covers(key: &Key, budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let labels = pod.metadata.labels.as_ref();
    *key.namespace == *meta::namespace(&pod.metadata)
        && labels.is_some_and(|labels| !labels.is_empty())
        && selector.is_some_and(|selector| {
            let has_terms = selector.match_labels.as_ref().is_some_and(|l| !l.is_empty())
                || selector.match_expressions.as_ref().is_some_and(|e| !e.is_empty());
            has_terms && meta::selects(selector, labels)
        })
}

fn rank(violations: usize, victims: &[Arc<Pod>]) -> NodeRank {
    let highest = victims.iter().map(|pod| priority(pod)).max().unwrap_or(i32::MIN);
    // Counted from the lowest possible priority: one more victim is never better, however low its priority.
    let sum = victims.iter().map(|pod| i64::from(priority(pod)) - i64::from(i32::MIN) + 1).sum();
    let oldest = victims.iter().filter(|pod| priority(pod) == highest).map(|pod| started(pod)).min();
    (violations, highest, sum, victims.len(), Reverse(oldest.unwrap_or(Timestamp::MIN)))
}

fn started(pod: &Pod) -> Timestamp {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    started.map_or_else(|| meta::created(&pod.metadata), |time| time.0)
}
