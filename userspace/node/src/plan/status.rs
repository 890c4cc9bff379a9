//! A pod's status in the API: container states, phase, addresses.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions;
use super::model::{Class, Container, ContainerState, Exit, Observed, Spec, Task, Termination, specs};
use super::probe;
use super::restart::{Backoff, should_restart};
use crate::resources::{self, Cgroup};

/// The facts of the node that a pod's status contains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeView {
    pub ips: Vec<String>,
}

/// Computes the status. `ended`: nothing of the pod runs, and nothing will run again.
pub fn compute(
    pod: &core::Pod,
    observed: &Observed,
    node: &NodeView,
    ended: bool,
    now: Timestamp,
) -> core::PodStatus {
    let previous = pod.status.clone().unwrap_or_default();
    let specs = specs(pod);
    let mut lists: [Vec<core::ContainerStatus>; 3] = Default::default();
    for spec in &specs {
        let status = container_status(pod, observed, spec, &previous, ended, now);
        let [init, main, ephemeral] = &mut lists;
        match spec.class {
            Class::Init | Class::Sidecar => init.push(status),
            Class::Main => main.push(status),
            Class::Ephemeral => ephemeral.push(status),
        }
    }
    let [init, main, ephemeral] = lists;
    let (phase, reason, message) = phase(pod, observed, &specs, &init, &main, &previous, ended);
    let ips = pod_ips(pod, observed, node, &previous);
    let start = previous.start_time.clone().or_else(|| observed.memory.start_time.map(seconds));
    let mut status = core::PodStatus {
        phase: Some(phase),
        reason,
        message,
        observed_generation: pod.metadata.generation,
        host_ip: node.ips.first().cloned(),
        host_ips: Some(node.ips.iter().map(|ip| core::HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| core::PodIP { ip }).collect()),
        start_time: start,
        qos_class: previous.qos_class.clone().or_else(|| Some(crate::resources::qos_class(pod).to_owned())),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: Some(main),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        conditions: None,
        nominated_node_name: None,
        ..previous.clone()
    };
    status.conditions = Some(conditions::compute(pod, observed, &previous, &status, now));
    status
}

/// API times have whole seconds.
pub fn seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

pub fn find<'a>(list: &'a [core::ContainerStatus], name: &str) -> Option<&'a core::ContainerStatus> {
    list.iter().find(|s| s.name == name)
}

/// The status that the API server last had of that container.
pub fn known<'a>(status: &'a core::PodStatus, name: &str) -> Option<&'a core::ContainerStatus> {
    [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses]
        .into_iter()
        .find_map(|list| find(list.as_deref().unwrap_or_default(), name))
}

fn container_status(
    pod: &core::Pod,
    observed: &Observed,
    spec: &Spec<'_>,
    previous: &core::PodStatus,
    ended: bool,
    now: Timestamp,
) -> core::ContainerStatus {
    let name = &spec.container.name;
    let known = known(previous, name);
    let Some(container) = observed.newest(name) else {
        return absent_status(pod, observed, spec, known, ended, now);
    };
    let was_ready = known.is_some_and(|s| s.ready);
    let state = container_state(pod, observed, spec, container, ended, now);
    let last = match container.exit() {
        // While it waits for its restart, its own exit is the last one.
        Some(exit) if state.waiting.is_some() => Some(terminated(container, exit)),
        _ => last_exit(observed, container, known),
    };
    let ready = match spec.class {
        Class::Init => container.exit().is_some_and(|e| e.code == 0),
        Class::Ephemeral => false,
        _ => state.running.is_some() && probe::ready(observed, spec, container, was_ready),
    };
    core::ContainerStatus {
        name: name.clone(),
        container_id: Some(container_uri(&container.id)),
        image: if container.image.is_empty() {
            spec.container.image.clone().unwrap_or_default()
        } else {
            container.image.clone()
        },
        image_id: container.image_id.clone(),
        last_state: Some(core::ContainerState { terminated: last, ..Default::default() }),
        ready,
        restart_count: restart_count(container),
        started: Some(probe::started(observed, spec, container, was_ready)),
        resources: shown_resources(spec, container.cgroup.filter(|_| container.is_running())),
        allocated_resources: allocated(spec),
        state: Some(state),
        ..Default::default()
    }
}

/// The requests that the node has granted (KEP-1287).
fn allocated(spec: &Spec<'_>) -> Option<BTreeMap<String, Quantity>> {
    spec.container.resources.as_ref().filter(|_| spec.class != Class::Ephemeral)?.requests.clone()
}

/// The granted resources; of a running container those that it has.
fn shown_resources(spec: &Spec<'_>, has: Option<Cgroup>) -> Option<core::ResourceRequirements> {
    if spec.class == Class::Ephemeral {
        return None;
    }
    let mut shown = spec.container.resources.clone().unwrap_or_default();
    shown.claims = None;
    if let Some(has) = has {
        resources::show(has, &resources::cgroup(&spec.container), &mut shown);
    }
    Some(shown)
}

fn container_state(
    pod: &core::Pod,
    observed: &Observed,
    spec: &Spec<'_>,
    container: &Container,
    ended: bool,
    now: Timestamp,
) -> core::ContainerState {
    match &container.state {
        ContainerState::Running { started } if !observed.is_running(&Task::Start(container.name.clone())) => {
            core::ContainerState {
                running: Some(core::ContainerStateRunning { started_at: Some(seconds(*started)) }),
                ..Default::default()
            }
        }
        ContainerState::Exited(exit) => {
            waiting_to_restart(pod, observed, spec, exit, ended, now).unwrap_or_else(|| {
                core::ContainerState { terminated: Some(terminated(container, exit)), ..Default::default() }
            })
        }
        _ => initial_state(pod),
    }
}

/// The exit before the newest container; from the API server's status when the runtime has removed that container.
fn last_exit(
    observed: &Observed,
    container: &Container,
    known: Option<&core::ContainerStatus>,
) -> Option<core::ContainerStateTerminated> {
    let previous = observed.previous_exit(&container.name);
    previous.and_then(|c| c.exit().map(|e| terminated(c, e))).or_else(|| {
        let known = known.filter(|k| k.restart_count == restart_count(container))?;
        known.last_state.clone()?.terminated
    })
}

/// The status of a container that the runtime does not know.
fn absent_status(
    pod: &core::Pod,
    observed: &Observed,
    spec: &Spec<'_>,
    known: Option<&core::ContainerStatus>,
    ended: bool,
    now: Timestamp,
) -> core::ContainerStatus {
    let name = &spec.container.name;
    if let Some(known) = known {
        let state = known.state.clone().unwrap_or_default();
        if state.terminated.is_some() && (ended || spec.class == Class::Init) {
            return known.clone();
        }
        if state.running.is_some() && ended {
            return core::ContainerStatus {
                ready: false,
                started: Some(false),
                state: Some(core::ContainerState { terminated: lost_exit(known), ..Default::default() }),
                ..known.clone()
            };
        }
    }
    let last = known.and_then(|known| match lost_exit(known) {
        Some(exit) => Some(core::ContainerState { terminated: Some(exit), ..Default::default() }),
        None => known.last_state.clone(),
    });
    let state = match (observed.memory.failures.get(name), observed.is_running(&Task::Start(name.clone()))) {
        (Some(failure), _) => failed_start(failure, now),
        (None, _) => initial_state(pod),
    };
    core::ContainerStatus {
        name: name.clone(),
        image: spec.container.image.clone().unwrap_or_default(),
        last_state: Some(last.unwrap_or_default()),
        restart_count: known.map_or(0, next_attempt),
        started: Some(false),
        resources: shown_resources(spec, None),
        allocated_resources: allocated(spec),
        state: Some(state),
        ..Default::default()
    }
}

/// Restarts with the next container, when the runtime has lost the one of the status. An agent that ends between create and start
/// leaves the name of a container that never ran.
pub(super) fn next_attempt(status: &core::ContainerStatus) -> i32 {
    status.restart_count.saturating_add(lost_exit(status).is_some().into())
}

/// How the container of the status ended, if it ever ran.
fn lost_exit(status: &core::ContainerStatus) -> Option<core::ContainerStateTerminated> {
    let id = status.container_id.as_ref()?;
    let state = status.state.as_ref()?;
    if state.waiting.is_some() {
        let last = status.last_state.as_ref()?.terminated.as_ref()?;
        return (last.container_id.as_ref() == Some(id)).then(|| last.clone());
    }
    Some(state.terminated.clone().unwrap_or_else(|| core::ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".into()),
        message: Some("The container could not be located when the pod was terminated".into()),
        container_id: Some(id.clone()),
        ..Default::default()
    }))
}

fn restart_count(container: &Container) -> i32 {
    i32::try_from(container.attempt).unwrap_or(i32::MAX)
}

fn waiting(reason: &str, message: Option<String>) -> core::ContainerState {
    core::ContainerState {
        waiting: Some(core::ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..Default::default()
    }
}

/// As upstream, all containers of a pod with init containers wait for these, the init containers too.
fn initial_state(pod: &core::Pod) -> core::ContainerState {
    let has_init = pod.spec.as_ref().and_then(|s| s.init_containers.as_ref()).is_some_and(|i| !i.is_empty());
    waiting(if has_init { "PodInitializing" } else { "ContainerCreating" }, None)
}

/// A failed pull first shows its error, then that it waits for the retry.
fn failed_start(failure: &super::model::Failure, now: Timestamp) -> core::ContainerState {
    match &failure.image {
        Some(image)
            if failure.reason == "ErrImagePull"
                && now >= super::later::later(failure.at, super::PULL_ERROR_SHOWN) =>
        {
            let text = format!("Back-off pulling image \"{image}\": ErrImagePull: {}", failure.message);
            waiting("ImagePullBackOff", Some(text))
        }
        _ => waiting(&failure.reason, Some(failure.message.clone())),
    }
}

fn waiting_to_restart(
    pod: &core::Pod,
    observed: &Observed,
    spec: &Spec<'_>,
    exit: &Exit,
    ended: bool,
    now: Timestamp,
) -> Option<core::ContainerState> {
    let name = &spec.container.name;
    if ended
        || observed.memory.stopping.is_some()
        || !should_restart(pod, spec.class, &spec.container, exit.code)
    {
        return None;
    }
    if let Some(failure) = observed.memory.failures.get(name) {
        return Some(failed_start(failure, now));
    }
    if observed.is_running(&Task::Start(name.clone())) {
        return None;
    }
    let backoff = observed.memory.backoff.get(name)?;
    Backoff::wait(Some(backoff), exit.finished, now)?;
    Some(waiting("CrashLoopBackOff", Some(backoff_message(pod, name, backoff))))
}

/// The text of CrashLoopBackOff, in the status and in the event.
pub fn backoff_message(pod: &core::Pod, name: &str, backoff: &Backoff) -> String {
    let delay = go_duration(backoff.delay.as_secs());
    format!("back-off {delay} restarting failed container={name} pod={}", pod_text(pod))
}

/// `name_namespace(uid)`, as the messages of a node name a pod.
pub fn pod_text(pod: &core::Pod) -> String {
    let meta = &pod.metadata;
    format!(
        "{}_{}({})",
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default(),
    )
}

fn go_duration(seconds: i64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, s) => format!("{s}s"),
        (m, s) => format!("{m}m{s}s"),
    }
}

fn container_uri(id: &str) -> String {
    format!("containerd://{id}")
}

fn terminated(container: &Container, exit: &Exit) -> core::ContainerStateTerminated {
    core::ContainerStateTerminated {
        container_id: Some(container_uri(&container.id)),
        exit_code: exit.code,
        reason: Some(exit.reason.clone()),
        message: (!exit.message.is_empty()).then(|| exit.message.clone()),
        started_at: Some(seconds(exit.started)),
        finished_at: Some(seconds(exit.finished)),
        signal: None,
    }
}

fn pod_ips(pod: &core::Pod, observed: &Observed, node: &NodeView, previous: &core::PodStatus) -> Vec<String> {
    if pod.spec.as_ref().and_then(|s| s.host_network) == Some(true) {
        return if observed.sandboxes.is_empty() && previous.pod_ip.is_none() {
            Vec::new()
        } else {
            node.ips.clone()
        };
    }
    match observed.sandboxes.first() {
        Some(sandbox) if sandbox.ready && !sandbox.ips.is_empty() => {
            sandbox.ips.iter().map(ToString::to_string).collect()
        }
        // The address stays in the status after the pod has ended.
        _ => previous.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect(),
    }
}

type Phase = (String, Option<String>, Option<String>);

fn phase(
    pod: &core::Pod,
    observed: &Observed,
    specs: &[Spec<'_>],
    init: &[core::ContainerStatus],
    main: &[core::ContainerStatus],
    previous: &core::PodStatus,
    ended: bool,
) -> Phase {
    // A final phase stays as it is.
    if let Some(phase @ ("Failed" | "Succeeded")) = previous.phase.as_deref() {
        return (phase.to_owned(), previous.reason.clone(), previous.message.clone());
    }
    if let Some(Termination { reason, message, .. }) = &observed.memory.failed_by_node {
        // A pod that runs uses the node, whatever ends it: others may have its resources and its name afterwards.
        let phase = previous.phase.clone().unwrap_or_else(|| "Pending".into());
        return match ended {
            true => ("Failed".into(), Some(reason.clone()), Some(message.clone())),
            false => (phase, previous.reason.clone(), previous.message.clone()),
        };
    }
    let statuses: Vec<core::ContainerStatus> = init.iter().chain(main).cloned().collect();
    let phase =
        Counts::of(pod, observed, specs, &statuses).phase(ended, conditions::initialized_before(main));
    (phase.to_owned(), None, None)
}

/// Containers by state, from which the phase follows.
#[derive(Default)]
struct Counts {
    init_pending: u32,
    init_failed: u32,
    sidecar_pending: u32,
    waiting: u32,
    running: u32,
    stopped: u32,
    final_: u32,
    succeeded: u32,
}

impl Counts {
    fn of(
        pod: &core::Pod,
        observed: &Observed,
        specs: &[Spec<'_>],
        statuses: &[core::ContainerStatus],
    ) -> Counts {
        let mut counts = Counts::default();
        for spec in specs.iter().filter(|s| s.class != Class::Ephemeral) {
            let Some(status) = find(statuses, &spec.container.name) else { continue };
            let state = status.state.clone().unwrap_or_default();
            let last = status.last_state.clone().and_then(|s| s.terminated);
            let is_replaced = observed.is_replaced(&spec.container.name);
            let restarts = |code: i32| is_replaced || should_restart(pod, spec.class, &spec.container, code);
            match spec.class {
                Class::Init => counts.add_init(&state, last.map(|t| t.exit_code), restarts),
                Class::Sidecar => counts.add_sidecar(&state, last.is_some(), status.started == Some(true)),
                _ => counts.add_main(&state, last.map(|t| t.exit_code), restarts),
            }
        }
        counts
    }

    fn add_init(&mut self, state: &core::ContainerState, last: Option<i32>, restarts: impl Fn(i32) -> bool) {
        let code = state.terminated.as_ref().map(|t| t.exit_code).or(match state.waiting {
            Some(_) => last,
            None => None,
        });
        match code {
            Some(0) => {}
            Some(code) if !restarts(code) => self.init_failed += 1,
            // A failed init container that will restart leaves the pod pending.
            _ => self.init_pending += 1,
        }
    }

    fn add_sidecar(&mut self, state: &core::ContainerState, ran: bool, started: bool) {
        if state.running.is_some() {
            self.running += 1;
            self.sidecar_pending += u32::from(!started);
        } else if state.terminated.is_none() && !ran {
            self.sidecar_pending += 1;
            self.waiting += 1;
        }
    }

    fn add_main(&mut self, state: &core::ContainerState, last: Option<i32>, restarts: impl Fn(i32) -> bool) {
        if state.running.is_some() {
            self.running += 1;
        } else if let Some(code) = state.terminated.as_ref().map(|t| t.exit_code) {
            self.stopped += 1;
            self.final_ += u32::from(!restarts(code));
            self.succeeded += u32::from(code == 0);
        } else if let Some(code) = last {
            self.stopped += 1;
            self.final_ += u32::from(!restarts(code));
        } else {
            self.waiting += 1;
        }
    }

    fn phase(&self, ended: bool, initialized: bool) -> &'static str {
        if self.init_failed > 0 {
            return "Failed";
        }
        if self.init_pending > 0 || (self.sidecar_pending > 0 && !initialized) || self.waiting > 0 {
            // A pod that was deleted before it ran has failed.
            return if ended { "Failed" } else { "Pending" };
        }
        if self.running > 0 {
            return "Running";
        }
        if self.stopped == 0 {
            return "Pending";
        }
        match (ended || self.stopped == self.final_, self.stopped == self.succeeded) {
            (false, _) => "Running",
            (true, true) => "Succeeded",
            (true, false) => "Failed",
        }
    }
}
