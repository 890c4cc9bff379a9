//! Which pods must go so that one of greater priority can run. PURE: pods are taken out of the snapshot to try, and put
//! back before the answer.
//! Order of preference between nodes as upstream: fewest broken disruption budgets, lowest greatest priority of a victim,
//! lowest sum of priorities, fewest victims, and the latest start of the greatest victims.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::decide::{fits, tally};
use super::filter::{Wanted, admits_statically};
use super::snapshot::{Snapshot, priority};
use crate::controllers::pods::condition;
use crate::meta;
use crate::view::Key;

pub(super) const TARGET_REASON: &str = "PreemptionByScheduler";

pub(super) type Budgets = BTreeMap<Key, Arc<PodDisruptionBudget>>;

/// Room that will be made on a node.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) node: Arc<str>,
    pub(super) victims: Vec<Arc<Pod>>,
}

/// Why no room is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoPlan {
    /// It is being made already.
    Underway,
    /// In words for people.
    Useless(String),
}

impl fmt::Display for NoPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoPlan::Underway => "not eligible due to a terminating pod on the nominated node.",
            NoPlan::Useless(why) => why,
        })
    }
}

/// Nodes that are compared at most, as upstream: a tenth, and never fewer than this.
const ENOUGH: usize = 100;

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
    if snapshot.nomination(pod).is_some_and(|node| leaving(snapshot, pod, node)) {
        return Err(NoPlan::Underway);
    }
    let wanted = Wanted::of(pod, spec);
    let names: Vec<Arc<str>> = snapshot.known().map(|(name, ..)| name.clone()).collect();
    let (mut reasons, mut found) = (BTreeMap::<&str, usize>::new(), Vec::new());
    let limit = (names.len() / 10).max(ENOUGH);
    let start = usize::try_from(seed).unwrap_or(0) % names.len().max(1);
    for name in names.iter().cycle().skip(start).take(names.len()) {
        match victims(snapshot, &wanted, name, budgets) {
            Ok((broken, victims)) => found.push((rank(broken, &victims), name, victims)),
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

/// Whether pods that had to go for this one are still on their way out.
fn leaving(snapshot: &Snapshot, pod: &Pod, node: &str) -> bool {
    let pods = snapshot.nodes.get(node).into_iter().flat_map(|info| info.pods.values());
    let mut pods = pods.map(|placed| &*placed.pod);
    pods.any(|other| {
        meta::terminating(&other.metadata)
            && priority(other) < priority(pod)
            && condition(other, "DisruptionTarget").and_then(|c| c.reason.as_deref()) == Some(TARGET_REASON)
    })
}

/// The fewest pods of the node that must go, and how many budgets that breaks.
fn victims(
    snapshot: &mut Snapshot,
    wanted: &Wanted<'_>,
    name: &Arc<str>,
    budgets: &Budgets,
) -> Result<(usize, Vec<Arc<Pod>>), &'static str> {
    const NO_HELP: &str = "Preemption is not helpful for scheduling";
    const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
    let Some((info, node)) = snapshot.known_node(name) else { return Err(NO_HELP) };
    if admits_statically(wanted, node).is_err() {
        return Err(NO_HELP);
    }
    let lesser = |other: &&Arc<Pod>| priority(other) < priority(wanted.pod);
    let mut lesser: Vec<Arc<Pod>> =
        info.pods.values().map(|placed| &placed.pod).filter(lesser).cloned().collect();
    if lesser.is_empty() {
        return Err(NO_VICTIMS);
    }
    // The greater and the older first: they are the first to be spared.
    lesser.sort_by_key(|pod| (Reverse(priority(pod)), started(pod)));
    lesser.iter().for_each(|pod| snapshot.delete_pod(&Key::of(&pod.metadata)));
    let mut gone = lesser.clone();
    let mut outcome = Err(NO_VICTIMS);
    if fits(snapshot, wanted, name) {
        let (breaking, harmless) = split(&lesser, budgets);
        let mut must_go = |pods: Vec<Arc<Pod>>| -> Vec<Arc<Pod>> {
            let stays = |pod: &Arc<Pod>| {
                snapshot.assume(pod, name);
                let stays = fits(snapshot, wanted, name);
                if !stays {
                    snapshot.delete_pod(&Key::of(&pod.metadata));
                }
                stays
            };
            let mut stays = stays;
            pods.into_iter().filter(|pod| !stays(pod)).collect()
        };
        let (broken, others) = (must_go(breaking), must_go(harmless));
        let count = broken.len();
        gone = broken.into_iter().chain(others).collect();
        outcome = Ok((count, gone.clone()));
    }
    gone.iter().for_each(|pod| snapshot.assume(pod, name));
    match outcome {
        // It fits as it is: something changed since it was refused, and its next attempt will see that.
        Ok((_, victims)) if victims.is_empty() => Err(NO_VICTIMS),
        outcome => outcome,
    }
}

/// Pods whose loss breaks a budget, and the others, in the order given.
fn split(pods: &[Arc<Pod>], budgets: &Budgets) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
    let mut allowed: BTreeMap<&Key, i32> = budgets
        .iter()
        .map(|(key, budget)| {
            let left = budget.status.as_ref().and_then(|status| status.disruptions_allowed);
            (key, left.unwrap_or(0))
        })
        .collect();
    let breaks = |pod: &Arc<Pod>| {
        let mut breaks = false;
        for (key, budget) in budgets.iter().filter(|(key, budget)| covers(key, budget, pod)) {
            let name = meta::name(&pod.metadata);
            // The API server has taken account of it already.
            let disrupted = budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref());
            if disrupted.is_some_and(|pods| pods.contains_key(name)) {
                continue;
            }
            let left = allowed.entry(key).or_default();
            *left -= 1;
            breaks |= *left < 0;
        }
        breaks
    };
    pods.iter().cloned().partition(breaks)
}

fn covers(key: &Key, budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let labels = pod.metadata.labels.as_ref();
    *key.namespace == *meta::namespace(&pod.metadata)
        && labels.is_some_and(|labels| !labels.is_empty())
        && selector.is_some_and(|selector| {
            let says = selector.match_labels.as_ref().is_some_and(|l| !l.is_empty())
                || selector.match_expressions.as_ref().is_some_and(|e| !e.is_empty());
            says && meta::selects(selector, labels)
        })
}

fn rank(broken: usize, victims: &[Arc<Pod>]) -> Rank {
    let greatest = victims.iter().map(|pod| priority(pod)).max().unwrap_or(i32::MIN);
    // Counted from the least priority there is: a pod more is never better, however low.
    let sum = victims.iter().map(|pod| i64::from(priority(pod)) - i64::from(i32::MIN) + 1).sum();
    let oldest = victims.iter().filter(|pod| priority(pod) == greatest).map(|pod| started(pod)).min();
    (broken, greatest, sum, victims.len(), Reverse(oldest.unwrap_or(Timestamp::MIN)))
}

fn started(pod: &Pod) -> Timestamp {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    started.map_or_else(|| meta::created(&pod.metadata), |time| time.0)
}
