//! The pod conditions that the node owns, computed from the status. Other conditions stay unchanged.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};

use super::model::{Class, Observed, Task, specs};
use super::run::resizes;
use super::status::{find, seconds};

/// The conditions that this node writes.
pub(super) const OWNED: [&str; 7] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    RESIZE_PENDING,
    RESIZE_IN_PROGRESS,
];
/// Others write it too.
pub(super) const DISRUPTION_TARGET: &str = "DisruptionTarget";
const RESIZE_PENDING: &str = "PodResizePending";
const RESIZE_IN_PROGRESS: &str = "PodResizeInProgress";

struct OwnCondition {
    type_: &'static str,
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl OwnCondition {
    fn yes(type_: &'static str) -> OwnCondition {
        OwnCondition { type_, status: true, reason: None, message: None }
    }

    fn no(type_: &'static str, reason: &'static str, message: Option<String>) -> OwnCondition {
        OwnCondition { type_, status: false, reason: Some(reason), message }
    }
}

/// All conditions of the status, with ours recomputed. A transition time changes only with the condition's status.
pub(super) fn compute(
    pod: &Pod,
    observed: &Observed,
    previous: &PodStatus,
    status: &PodStatus,
    now: Timestamp,
) -> Vec<PodCondition> {
    let old = previous.conditions.as_deref().unwrap_or_default();
    let ready_containers = containers_ready(pod, status);
    let ready = pod_ready(pod, old, &ready_containers);
    let sandbox =
        observed.sandboxes.first().is_some_and(|s| s.ready && (s.host_network || !s.ips.is_empty()));
    let ours = [
        OwnCondition { type_: "PodReadyToStartContainers", status: sandbox, reason: None, message: None },
        initialized(pod, status),
        ready,
        ready_containers,
        OwnCondition::yes("PodScheduled"),
    ];
    let mut conditions: Vec<PodCondition> =
        old.iter().filter(|c| !OWNED.contains(&c.type_.as_str())).cloned().collect();
    if disruption(observed).is_some() {
        conditions.retain(|c| c.type_ != DISRUPTION_TARGET);
    }
    for own in ours {
        conditions.push(condition(pod, old, own, now));
    }
    conditions.extend(disruption(observed).map(|own| condition(pod, old, own, now)));
    conditions.extend(resize_pending(observed).map(|own| condition(pod, old, own, now)));
    conditions.extend(resize_in_progress(pod, observed, old).map(|(own, generation)| PodCondition {
        observed_generation: generation,
        ..condition(pod, old, own, now)
    }));
    conditions
}

/// Why a pod ended that the node had no room or no time for, for its controller.
fn disruption(observed: &Observed) -> Option<OwnCondition> {
    let termination = observed.memory.failed_by_node.as_ref()?;
    let is_disruption = matches!(termination.reason.as_str(), super::EVICTED | super::TERMINATED);
    let (reason, message) =
        (is_disruption.then_some("TerminationByKubelet")?, Some(termination.message.clone()));
    Some(OwnCondition { type_: DISRUPTION_TARGET, status: true, reason: Some(reason), message })
}

fn resize_pending(observed: &Observed) -> Option<OwnCondition> {
    let deferral = observed.memory.deferral.as_ref()?;
    let (reason, message) = (Some(deferral.reason), Some(deferral.message.clone()));
    Some(OwnCondition { type_: RESIZE_PENDING, status: true, reason, message })
}

/// While a container has other resources than it was granted. The generation is that of the pod when they were granted.
fn resize_in_progress(
    pod: &Pod,
    observed: &Observed,
    old: &[PodCondition],
) -> Option<(OwnCondition, Option<i64>)> {
    let specs = specs(pod);
    let mut containers = specs.iter().filter_map(|spec| Some((spec, observed.newest(&spec.container.name)?)));
    let resized = containers.find(|(spec, container)| resizes(observed, spec, container).is_some())?.1;
    let failure = observed.memory.retries.get(&Task::Resize(resized.id.clone()));
    let before = old.iter().find(|c| c.type_ == RESIZE_IN_PROGRESS).and_then(|c| c.observed_generation);
    let generation = observed.memory.resizing.or(before).or(pod.metadata.generation);
    let own = OwnCondition {
        type_: RESIZE_IN_PROGRESS,
        status: true,
        reason: failure.map(|_| "Error"),
        message: failure.map(|failure| failure.message.clone()),
    };
    Some((own, generation))
}

fn condition(pod: &Pod, old: &[PodCondition], own: OwnCondition, now: Timestamp) -> PodCondition {
    let status = if own.status { "True" } else { "False" };
    let before = old.iter().find(|c| c.type_ == own.type_);
    PodCondition {
        type_: own.type_.to_owned(),
        status: status.to_owned(),
        reason: own.reason.map(str::to_owned),
        message: own.message,
        observed_generation: pod.metadata.generation,
        last_probe_time: None,
        last_transition_time: before
            .filter(|c| c.status == status)
            .and_then(|c| c.last_transition_time.clone())
            .or_else(|| Some(seconds(now))),
    }
}

/// A main container has run, so the pod has been initialized.
pub(super) fn initialized_before(main: &[ContainerStatus]) -> bool {
    main.iter().any(|s| {
        let ended = s.last_state.as_ref().is_some_and(|l| l.terminated.is_some());
        ended || s.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    })
}

fn initialized(pod: &Pod, status: &PodStatus) -> OwnCondition {
    const TYPE: &str = "Initialized";
    let main = status.container_statuses.as_deref().unwrap_or_default();
    if status.phase.as_deref() == Some("Succeeded") {
        return OwnCondition { type_: TYPE, status: true, reason: Some("PodCompleted"), message: None };
    }
    if initialized_before(main) {
        return OwnCondition::yes(TYPE);
    }
    let init = status.init_container_statuses.as_deref().unwrap_or_default();
    let incomplete: Vec<String> = specs(pod)
        .iter()
        .filter_map(|spec| {
            let found = find(init, &spec.container.name)?;
            let done = match spec.class {
                Class::Init => found.ready,
                Class::Sidecar => found.started == Some(true),
                _ => true,
            };
            (!done).then(|| found.name.clone())
        })
        .collect();
    if incomplete.is_empty() {
        return OwnCondition::yes(TYPE);
    }
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    OwnCondition::no(TYPE, "ContainersNotInitialized", Some(message))
}

fn containers_ready(pod: &Pod, status: &PodStatus) -> OwnCondition {
    const TYPE: &str = "ContainersReady";
    match status.phase.as_deref() {
        Some("Succeeded") => return OwnCondition::no(TYPE, "PodCompleted", None),
        Some("Failed") => return OwnCondition::no(TYPE, "PodFailed", None),
        _ => {}
    }
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let unready: Vec<String> = specs(pod)
        .iter()
        .filter(|spec| matches!(spec.class, Class::Sidecar | Class::Main))
        .filter(|spec| {
            !lists
                .iter()
                .find_map(|list| find(list.as_deref().unwrap_or_default(), &spec.container.name))
                .is_some_and(|s| s.ready)
        })
        .map(|spec| spec.container.name.clone())
        .collect();
    if unready.is_empty() {
        return OwnCondition::yes(TYPE);
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    OwnCondition::no(TYPE, "ContainersNotReady", Some(message))
}

fn pod_ready(pod: &Pod, conditions: &[PodCondition], containers: &OwnCondition) -> OwnCondition {
    const TYPE: &str = "Ready";
    if !containers.status {
        return OwnCondition {
            type_: TYPE,
            status: false,
            reason: containers.reason,
            message: containers.message.clone(),
        };
    }
    let gates = pod.spec.as_ref().and_then(|s| s.readiness_gates.as_ref());
    let problems: Vec<String> = gates
        .into_iter()
        .flatten()
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            match conditions.iter().find(|c| &c.type_ == kind) {
                None => {
                    Some(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist."))
                }
                Some(c) if c.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                    c.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if problems.is_empty() {
        return OwnCondition::yes(TYPE);
    }
    OwnCondition::no(TYPE, "ReadinessGatesNotReady", Some(problems.join(", ")))
}
