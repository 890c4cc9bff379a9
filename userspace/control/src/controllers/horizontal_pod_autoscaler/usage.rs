//! How many replicas a measured usage needs. PURE.
//!
//! In: the usage of each pod or of the whole target, the pods, the wanted usage. Out: a number of replicas. Pods that are
//! not ready and pods without a sample count so that they make no change larger (KEP-117, "Autoscaling Algorithm").

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition};
use skep_api::quantity::Quantity;
use skep_api::time;

use super::error::AutoscalerError;
use crate::meta;

/// A pod that started within this time may still initialise: its CPU usage counts once it is ready.
const CPU_INITIALIZATION: Duration = Duration::from_secs(300);
/// A pod that became unready within this time after its start has never been ready.
const INITIAL_READINESS_DELAY: Duration = Duration::from_secs(30);

/// The usage of a pod, in thousandths, over a window before a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PodMetric {
    pub(crate) at: Timestamp,
    pub(crate) window: Duration,
    pub(crate) value: i64,
}

/// Samples by the pods' names.
pub(crate) type PodMetrics = BTreeMap<String, PodMetric>;

/// The usage ratios within which nothing changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tolerances {
    pub(crate) down: f64,
    pub(crate) up: f64,
}

impl Tolerances {
    pub(super) fn contain(&self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// A wanted number of replicas, and the usage that it follows from: its average in thousandths, and in per cent of the
/// requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proposal {
    pub(crate) replicas: i32,
    pub(crate) usage: i64,
    pub(crate) utilization: Option<i32>,
}

/// The pods of a target, at a time of the wall clock.
#[derive(Clone, Copy)]
pub(crate) struct Pods<'a> {
    pub(crate) all: &'a [Arc<Pod>],
    pub(crate) now: Timestamp,
}

/// What the pods' usage is compared with.
pub(crate) enum Goal<'a> {
    /// An average in thousandths.
    Average(i64),
    /// Per cent of the requests of a resource, of one container or of all.
    Utilization { percent: i32, resource: &'a str, container: &'a str },
}

/// The ratio of the usage to the goal.
struct Ratio {
    ratio: f64,
    usage: i64,
    utilization: Option<i32>,
}

/// Names of pods, by how they count.
#[derive(Debug, Default, PartialEq, Eq)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

impl Pods<'_> {
    /// The replicas that bring the pods' usage to the goal. `resource` is empty for a metric that is no resource.
    pub(crate) fn replicas_for(
        &self,
        metrics: PodMetrics,
        current: i32,
        goal: &Goal<'_>,
        resource: &str,
        tolerances: Tolerances,
    ) -> Result<Proposal, AutoscalerError> {
        if self.all.is_empty() {
            return Err("no pods returned by selector while calculating replica count".into());
        }
        let groups = self.group(&metrics, resource == "cpu");
        let mut usages: BTreeMap<String, i64> =
            metrics.into_iter().map(|(name, metric)| (name, metric.value)).collect();
        usages.retain(|name, _| !groups.ignored.contains(name) && !groups.unready.contains(name));
        if usages.is_empty() {
            return Err("did not receive metrics for targeted pods (pods might be unready)".into());
        }
        let requests = match goal {
            Goal::Utilization { resource, container, .. } => self.requests(resource, container)?,
            Goal::Average(_) => BTreeMap::new(),
        };
        let Ratio { ratio, usage, utilization } = goal.ratio(&usages, &requests)?;
        let proposal = |replicas| Proposal { replicas, usage, utilization };
        let more_despite_unready = !groups.unready.is_empty() && ratio > 1.0;
        if !more_despite_unready && groups.missing.is_empty() {
            let replicas =
                if tolerances.contain(ratio) { current } else { ceil(ratio * groups.ready as f64) };
            return Ok(proposal(replicas));
        }
        if ratio < 1.0 {
            usages.extend(groups.missing.iter().map(|name| (name.clone(), goal.assumed(name, &requests))));
        } else if ratio > 1.0 {
            usages.extend(groups.missing.iter().map(|name| (name.clone(), 0)));
        }
        if more_despite_unready {
            usages.extend(groups.unready.iter().map(|name| (name.clone(), 0)));
        }
        let again = goal.ratio(&usages, &requests)?.ratio;
        let turns = (ratio < 1.0 && again > 1.0) || (ratio > 1.0 && again < 1.0);
        if tolerances.contain(again) || turns {
            return Ok(proposal(current));
        }
        let replicas = ceil(again * usages.len() as f64);
        let turns = (again < 1.0 && replicas > current) || (again > 1.0 && replicas < current);
        Ok(proposal(if turns { current } else { replicas }))
    }

    /// The replicas for a ratio of a usage that is not the pods' own to its goal.
    pub(crate) fn replicas_for_ratio(
        &self,
        ratio: f64,
        current: i32,
        tolerances: Tolerances,
    ) -> Result<i32, AutoscalerError> {
        if current == 0 {
            return Ok(ceil(ratio));
        }
        if tolerances.contain(ratio) {
            return Ok(current);
        }
        if self.all.is_empty() {
            let why = "unable to calculate ready pods: no pods returned by selector while calculating replica count";
            return Err(why.into());
        }
        let ready = self.all.iter().filter(|pod| phase(pod) == "Running" && is_ready(pod)).count();
        Ok(ceil(ratio * ready as f64))
    }

    fn group(&self, metrics: &PodMetrics, is_cpu: bool) -> Groups {
        let mut groups = Groups::default();
        for pod in self.all {
            let name = meta::name(&pod.metadata).to_owned();
            if meta::terminating(&pod.metadata) || phase(pod) == "Failed" {
                groups.ignored.insert(name);
            } else if phase(pod) == "Pending" {
                groups.unready.insert(name);
            } else if let Some(metric) = metrics.get(&name) {
                match is_cpu && self.is_unready(pod, metric) {
                    true => drop(groups.unready.insert(name)),
                    false => groups.ready += 1,
                }
            } else {
                groups.missing.insert(name);
            }
        }
        groups
    }

    /// Whether the pod's CPU usage says nothing yet about its share of the load.
    fn is_unready(&self, pod: &Pod, metric: &PodMetric) -> bool {
        let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
        let (Some(started), Some(condition)) = (started, ready_condition(pod)) else { return true };
        let changed = condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |at| at.0);
        let is_false = condition.status == "False";
        if time::after(started.0, CPU_INITIALIZATION) > self.now {
            // A sample counts if the pod was ready for all of its window.
            return is_false || metric.at < time::after(changed, metric.window);
        }
        is_false && time::after(started.0, INITIAL_READINESS_DELAY) > changed
    }

    /// The requests of each pod in thousandths.
    fn requests(&self, resource: &str, container: &str) -> Result<BTreeMap<String, i64>, AutoscalerError> {
        let of_pod =
            |pod: &Arc<Pod>| Ok((meta::name(&pod.metadata).to_owned(), request(pod, resource, container)?));
        self.all.iter().map(of_pod).collect()
    }
}

impl Goal<'_> {
    fn ratio(
        &self,
        usages: &BTreeMap<String, i64>,
        requests: &BTreeMap<String, i64>,
    ) -> Result<Ratio, AutoscalerError> {
        match self {
            Goal::Average(wanted) => {
                let sum = usages.values().fold(0, |sum: i64, usage| sum.saturating_add(*usage));
                let usage = sum / count(usages.len());
                Ok(Ratio { ratio: usage as f64 / *wanted as f64, usage, utilization: None })
            }
            Goal::Utilization { percent, .. } => {
                let known = usages.iter().filter_map(|(name, usage)| Some((*usage, *requests.get(name)?)));
                let (mut used, mut requested, mut pods) = (0i64, 0i64, 0usize);
                for (usage, request) in known {
                    used = used.saturating_add(usage);
                    requested = requested.saturating_add(request);
                    pods += 1;
                }
                if requested == 0 {
                    return Err("no metrics returned matched known pods".into());
                }
                let utilization = used.saturating_mul(100) / requested;
                let utilization = i32::try_from(utilization).unwrap_or(i32::MAX);
                let ratio = f64::from(utilization) / f64::from(*percent);
                Ok(Ratio { ratio, usage: used / count(pods), utilization: Some(utilization) })
            }
        }
    }

    /// What a pod without a sample is taken to use when the others use too little.
    fn assumed(&self, pod: &str, requests: &BTreeMap<String, i64>) -> i64 {
        match self {
            Goal::Average(wanted) => *wanted,
            Goal::Utilization { percent, .. } => {
                let request = requests.get(pod).copied().unwrap_or(0);
                request.saturating_mul(i64::from((*percent).max(100))) / 100
            }
        }
    }
}

/// A number of replicas; at most the largest one.
pub(crate) fn ceil(replicas: f64) -> i32 {
    // A cast from f64 saturates.
    replicas.ceil() as i32
}

fn count(number: usize) -> i64 {
    i64::try_from(number.max(1)).unwrap_or(i64::MAX)
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn ready_condition(pod: &Pod) -> Option<&PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready")
}

fn is_ready(pod: &Pod) -> bool {
    ready_condition(pod).is_some_and(|condition| condition.status == "True")
}

/// The pod's request in thousandths: its own (KEP-2837), or that of one container or of all that run on.
fn request(pod: &Pod, resource: &str, container: &str) -> Result<i64, AutoscalerError> {
    let name = meta::name(&pod.metadata);
    let Some(spec) = &pod.spec else { return Ok(0) };
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().chain(sidecars);
    let own = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    if let Some(own) = own.filter(|own| !own.is_empty() && container.is_empty()) {
        let overhead = spec.overhead.as_ref().and_then(|overhead| overhead.get(resource));
        let overhead = overhead.map_or(0, |quantity| millis(&quantity.0));
        let of_containers = || {
            let requests: Vec<i64> = containers.filter_map(|c| container_request(c, resource)).collect();
            (!requests.is_empty()).then(|| requests.iter().sum::<i64>())
        };
        let request = own.get(resource).map(|quantity| millis(&quantity.0)).or_else(of_containers);
        return match request {
            Some(request) => Ok(request.saturating_add(overhead)),
            None => Err(format!("missing pod-level request for {resource} in Pod {name}").into()),
        };
    }
    let mut sum = 0i64;
    for one in containers.filter(|one| container.is_empty() || one.name == container) {
        let request = container_request(one, resource).ok_or_else(|| {
            AutoscalerError(format!("missing request for {resource} in container {} of Pod {name}", one.name))
        })?;
        sum = sum.saturating_add(request);
        if one.name == container {
            return Ok(sum);
        }
    }
    match container {
        "" => Ok(sum),
        container => Err(format!("container {container} not found in Pod {name}").into()),
    }
}

fn container_request(container: &Container, resource: &str) -> Option<i64> {
    let requests = container.resources.as_ref()?.requests.as_ref()?;
    Some(millis(&requests.get(resource)?.0))
}

/// A quantity in thousandths, as upstream's `MilliValue()`; 0 for what is no quantity.
pub(crate) fn millis(quantity: &str) -> i64 {
    let quantity: Quantity = quantity.parse().unwrap_or_default();
    i64::try_from(quantity.millis()).unwrap_or(i64::MAX)
}
