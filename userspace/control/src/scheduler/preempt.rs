//! Which pods must go so that one of greater priority can run. PURE: pods are taken out of the snapshot to try, and put
//! back before the answer.
//! Order of preference between nodes as upstream: fewest broken disruption budgets, lowest greatest priority of a victim,
//! lowest sum of priorities, fewest victims, and the latest start of the greatest victims.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::affinity::Affinities;
use super::decide::{fits, tally};
use super::filter::{self, Wanted, admits_statically};
use super::snapshot::{NodeInfo, Placed, Snapshot, priority};
use crate::cache::Key;
use crate::controllers::pods::condition;
use crate::meta;

pub(super) const TARGET_REASON: &str = "PreemptionByScheduler";

pub(super) type Budgets = BTreeMap<Key, Arc<PodDisruptionBudget>>;

/// Room that will be made on a node.
#[derive(Clone, Debug)]
pub struct Plan {
    pub node: Arc<str>,
    pub victims: Vec<Arc<Pod>>,
}

/// Why no room is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoPlan {
    /// It is being made already.
    InProgress,
    /// In words for people.
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
        return Err(NoPlan::InProgress);
    }
    let wanted = Wanted::of(pod, spec);
    let names: Vec<Arc<str>> = snapshot.known().map(|(name, ..)| name.clone()).collect();
    let (mut reasons, mut found) = (BTreeMap::<&str, usize>::new(), Vec::new());
    let limit = (names.len() / 10).max(ENOUGH);
    let start = usize::try_from(seed).unwrap_or(0) % names.len().max(1);
    // Fewer pods mean no more to a pod to which all of them mean nothing.
    let looks_at_pods = !spec.topology_spread_constraints.as_ref().is_none_or(Vec::is_empty)
        || !Affinities::new(snapshot, pod, spec).allows_everything();
    for name in names.iter().cycle().skip(start).take(names.len()) {
        match victims(snapshot, &wanted, name, budgets, looks_at_pods) {
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

/// A node to try on what happens if pods leave it.
trait Stage {
    fn take_out(&mut self, key: &Key) -> Option<Placed>;
    fn put_back(&mut self, key: Key, placed: Placed);
    fn fits(&self) -> bool;
}

/// The whole cluster: for pods that look at the pods on other nodes too. What is taken out must be put back.
struct Whole<'a> {
    snapshot: &'a mut Snapshot,
    wanted: &'a Wanted<'a>,
    name: &'a Arc<str>,
}

impl Stage for Whole<'_> {
    fn take_out(&mut self, key: &Key) -> Option<Placed> {
        self.snapshot.take_out(key)
    }

    fn put_back(&mut self, key: Key, placed: Placed) {
        self.snapshot.put_back(key, placed, self.name.clone());
    }

    fn fits(&self) -> bool {
        fits(self.snapshot, self.wanted, self.name)
    }
}

/// A copy of the one node: for pods that look at its room only.
struct Copy<'a> {
    snapshot: &'a Snapshot,
    wanted: &'a Wanted<'a>,
    name: &'a Arc<str>,
    info: NodeInfo,
    node: &'a Node,
}

impl Stage for Copy<'_> {
    fn take_out(&mut self, key: &Key) -> Option<Placed> {
        self.info.remove(key)
    }

    fn put_back(&mut self, key: Key, placed: Placed) {
        self.info.insert(key, placed);
    }

    fn fits(&self) -> bool {
        let fuller = self.snapshot.with_nominated(self.name, &self.info, self.wanted);
        filter::check(self.wanted, fuller.as_ref().unwrap_or(&self.info), self.node).is_ok()
    }
}

/// The fewest pods of the node that must go, and how many budgets that breaks.
fn victims(
    snapshot: &mut Snapshot,
    wanted: &Wanted<'_>,
    name: &Arc<str>,
    budgets: &Budgets,
    looks_at_pods: bool,
) -> Result<(usize, Vec<Arc<Pod>>), &'static str> {
    const NO_HELP: &str = "Preemption is not helpful for scheduling";
    const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
    let Some((info, node)) = snapshot.known_node(name) else { return Err(NO_HELP) };
    if admits_statically(wanted, node).is_err() || !could_be_enough(wanted, info) {
        return Err(NO_HELP);
    }
    if !info.has_lesser(priority(wanted.pod)) {
        return Err(NO_VICTIMS);
    }
    let lesser = |other: &&Arc<Pod>| priority(other) < priority(wanted.pod);
    let mut lesser: Vec<Arc<Pod>> =
        info.pods.values().map(|placed| &placed.pod).filter(lesser).cloned().collect();
    // The greater and the older first: they are the first to be spared.
    lesser.sort_by_key(|pod| (Reverse(priority(pod)), started(pod)));
    let fewest = if looks_at_pods {
        fewest(&mut Whole { snapshot, wanted, name }, &lesser, budgets)
    } else {
        fewest(&mut Copy { snapshot, wanted, name, info: info.clone(), node }, &lesser, budgets)
    };
    // With none it fits as it is: something changed since it was refused, and its next attempt will see that.
    fewest.filter(|(_, victims)| !victims.is_empty()).ok_or(NO_VICTIMS)
}

/// Which of the lesser pods must go; the stage is as it was afterwards. `None`: not even all of them are enough.
fn fewest(stage: &mut impl Stage, lesser: &[Arc<Pod>], budgets: &Budgets) -> Option<(usize, Vec<Arc<Pod>>)> {
    // Taken out with all that is known of them, so that putting them back costs little.
    let mut out: HashMap<Key, Placed> = HashMap::new();
    for key in lesser.iter().map(|pod| Key::of(&pod.metadata)) {
        out.extend(stage.take_out(&key).map(|placed| (key, placed)));
    }
    let mut found = None;
    if stage.fits() {
        let (breaking, harmless) = split(lesser, budgets);
        let mut must_go = |pods: Vec<Arc<Pod>>| -> Vec<Arc<Pod>> {
            let mut stays = |pod: &Arc<Pod>| {
                let key = Key::of(&pod.metadata);
                let Some(placed) = out.remove(&key) else { return true };
                stage.put_back(key.clone(), placed);
                let stays = stage.fits();
                if !stays {
                    out.extend(stage.take_out(&key).map(|placed| (key, placed)));
                }
                stays
            };
            pods.into_iter().filter(|pod| !stays(pod)).collect()
        };
        let (broken, others) = (must_go(breaking), must_go(harmless));
        let count = broken.len();
        found = Some((count, broken.into_iter().chain(others).collect()));
    }
    out.into_iter().for_each(|(key, placed)| stage.put_back(key, placed));
    found
}

/// Whether the node has what the pod asks for at all: then those that must stay decide.
fn could_be_enough(wanted: &Wanted<'_>, info: &NodeInfo) -> bool {
    let (asked, has) = (&wanted.requested, &info.allocatable);
    asked.cpu <= has.cpu && asked.memory <= has.memory && asked.storage <= has.storage
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
