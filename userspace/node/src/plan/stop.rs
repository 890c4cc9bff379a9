//! The plan of a pod that must stop: containers are killed in order, the sandbox stops, the last status is reported. If
//! the pod is being deleted, everything is removed, and then the API object.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::PodStatus;

use super::later::later;
use super::memory::is_terminal;
use super::model::{Action, Class, Container, ProbeKind, Task, specs};
use super::run::{main_containers_done, run_due_probes};
use super::{Steps, spec_grace};

/// A kill in flight is repeated when it may last this much longer than the time that is left.
const KILL_TOLERANCE: SignedDuration = SignedDuration::from_secs(1);

/// Whether nothing of the pod runs or will run again; then its phase is final.
pub(super) fn ended(steps: &Steps<'_>) -> bool {
    let starting =
        steps.observed.memory.in_flight.keys().any(|t| matches!(t, Task::Start(_) | Task::Sandbox));
    let over = steps.observed.memory.stopping.is_some() || main_containers_done(steps);
    over && !starting && !steps.any_container_running()
}

/// Whether the pod must stop: on request, or because it has completed.
pub(super) fn should_stop(steps: &Steps<'_>, status: &PodStatus) -> bool {
    steps.observed.memory.stopping.is_some()
        || is_terminal(steps.pod)
        || main_containers_done(steps)
        || matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"))
}

/// Adds the next steps of the stop. True when nothing of the pod is left.
pub(super) fn plan(steps: &mut Steps<'_>, status: &PodStatus) -> bool {
    if !kill_containers(steps) {
        return false;
    }
    let memory = &steps.observed.memory;
    for sandbox in steps.observed.sandboxes.iter().filter(|s| s.ready) {
        steps.act(Action::StopSandbox { id: sandbox.id.clone() });
    }
    let deleting = memory.gone || steps.pod.metadata.deletion_timestamp.is_some();
    if !deleting || steps.observed.sandboxes.iter().any(|s| s.ready) {
        return false;
    }
    // Only the runtime knows how the containers ended: keep them until the API server has the last status.
    if !memory.gone && memory.reported.as_ref() != Some(status) && !memory.cleaned {
        return false;
    }
    if !steps.observed.sandboxes.is_empty() || !steps.observed.containers.is_empty() {
        remove_all(steps);
        return false;
    }
    if !memory.cleaned {
        steps.act(Action::CleanUp);
        return false;
    }
    if !memory.gone {
        steps.act(Action::Delete);
    }
    memory.gone && memory.in_flight.is_empty()
}

/// Main containers first, then sidecars from the last to the first. True when none runs.
fn kill_containers(steps: &mut Steps<'_>) -> bool {
    let remaining = steps.observed.memory.stopping.map_or_else(
        || spec_grace(steps.pod),
        |s| s.deadline.duration_since(steps.now).max(SignedDuration::ZERO),
    );
    let specs = specs(steps.pod);
    let sidecars: Vec<&str> =
        specs.iter().filter(|s| s.class == Class::Sidecar).map(|s| s.container.name.as_str()).collect();
    let running: Vec<Container> =
        steps.observed.containers.iter().filter(|c| c.is_running()).cloned().collect();
    let (mut late, first): (Vec<_>, Vec<_>) =
        running.iter().cloned().partition(|c| sidecars.contains(&c.name.as_str()));
    late.sort_by_key(|c| sidecars.iter().position(|name| *name == c.name));
    // Whether it still serves decides on its endpoints; no other probe matters any more.
    for spec in &specs {
        for container in running.iter().filter(|container| container.name == spec.container.name) {
            run_due_probes(steps, spec, container, &[ProbeKind::Readiness]);
        }
    }
    let starting =
        steps.observed.memory.in_flight.keys().any(|t| matches!(t, Task::Start(_) | Task::Sandbox));
    if let Some(stopping) = steps.observed.memory.stopping
        && stopping.deadline > steps.now
    {
        steps.wake(stopping.deadline);
    }
    if !first.is_empty() {
        for container in &first {
            kill(steps, container, remaining);
        }
        // After the grace period nothing is waited for.
        if remaining > SignedDuration::ZERO {
            return false;
        }
    }
    if remaining > SignedDuration::ZERO {
        if let Some(container) = late.last() {
            kill(steps, container, remaining);
        }
    } else {
        for container in &late {
            kill(steps, container, remaining);
        }
    }
    first.is_empty() && late.is_empty() && !starting
}

fn kill(steps: &mut Steps<'_>, container: &Container, grace: SignedDuration) {
    let task = Task::Kill(container.id.clone());
    let message = format!("Stopping container {}", container.name);
    let action = Action::Kill {
        name: container.name.clone(),
        id: container.id.clone(),
        grace,
        pre_stop: grace > SignedDuration::ZERO,
        replace: false,
        message,
    };
    match steps.observed.memory.in_flight.get(&task) {
        None => steps.act(action),
        // The user shortened the grace period: kill again with the time that is left.
        Some(flight)
            if flight.deadline.is_some_and(|d| d > later(later(steps.now, grace), KILL_TOLERANCE)) =>
        {
            steps.actions.push(action);
        }
        Some(_) => {}
    }
}

fn remove_all(steps: &mut Steps<'_>) {
    let observed = steps.observed;
    for sandbox in &observed.sandboxes {
        steps.act(Action::RemoveSandbox { id: sandbox.id.clone() });
    }
    for container in &observed.containers {
        if !observed.sandboxes.iter().any(|s| s.id == container.sandbox) {
            steps.act(Action::RemoveContainer { id: container.id.clone() });
        }
    }
}
