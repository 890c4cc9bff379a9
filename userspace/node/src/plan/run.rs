//! The plan of a pod that should run: volumes, sandbox, init containers in order, sidecars, main containers, probes,
//! restarts.

use jiff::{SignedDuration, Timestamp};

use super::later::later;
use super::model::{
    Action, Class, Container, ContainerState, Note, Observed, ProbeKind, Sandbox, Spec, Task, Volumes, specs,
};
use super::restart::{Backoff, should_restart};
use super::{Steps, probe, spec_grace, status};
use crate::resources::{self, Cgroup};

pub(super) fn plan(steps: &mut Steps<'_>) {
    wake_at_deadline(steps);
    if !volumes_ready(steps) {
        return;
    }
    let specs = specs(steps.pod);
    let Some(sandbox) = sandbox(steps, &specs) else { return };
    let mut initialized = true;
    let past_init = has_run_main(steps, &specs, &sandbox);
    for spec in &specs {
        match spec.class {
            Class::Init if past_init => {}
            Class::Init | Class::Sidecar => {
                if initialized || past_init {
                    initialized &= init_step(steps, spec, &sandbox);
                }
            }
            Class::Main if initialized || past_init => main_step(steps, spec, &sandbox),
            Class::Ephemeral => ephemeral_step(steps, spec, &sandbox),
            Class::Main => {}
        }
    }
    collect(steps, &sandbox);
}

fn wake_at_deadline(steps: &mut Steps<'_>) {
    let limit = steps.pod.spec.as_ref().and_then(|s| s.active_deadline_seconds);
    let started = steps.pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
    if let (Some(limit), Some(started)) = (limit, started.or(steps.observed.memory.start_time)) {
        steps.wake(later(started, SignedDuration::from_secs(limit.max(0))));
    }
}

fn volumes_ready(steps: &mut Steps<'_>) -> bool {
    let failure = match &steps.observed.memory.volumes {
        Volumes::Ready => return true,
        Volumes::Absent => None,
        Volumes::Failed(failure) => Some(failure),
    };
    if steps.due(failure) {
        steps.act(Action::PrepareVolumes);
    }
    false
}

/// Every main container has ended and none restarts: the sidecars can stop.
pub(super) fn main_containers_done(steps: &Steps<'_>) -> bool {
    let specs = specs(steps.pod);
    let mut mains = specs.iter().filter(|s| s.class == Class::Main).peekable();
    mains.peek().is_some()
        && mains.all(|spec| {
            let newest = steps.observed.newest(&spec.container.name);
            newest.and_then(|c| Some((c, c.exit()?))).is_some_and(|(container, exit)| {
                !killed_to_restart(steps, container)
                    && !should_restart(steps.pod, spec.class, &spec.container, exit.code)
            })
        })
}

/// Whether the node killed the container so that another one takes its place.
fn killed_to_restart(steps: &Steps<'_>, container: &Container) -> bool {
    let memory = &steps.observed.memory;
    let never = steps.pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) == Some("Never");
    memory.replaced.contains(&container.id) || (!never && memory.killed_by_probe.contains(&container.id))
}

/// The sandbox to run in. If there is none, adds the actions that make one.
fn sandbox(steps: &mut Steps<'_>, specs: &[Spec<'_>]) -> Option<Sandbox> {
    let newest = steps.observed.sandboxes.first().cloned();
    if let Some(sandbox) = &newest
        && sandbox.ready
        && (sandbox.host_network || !sandbox.ips.is_empty())
    {
        return newest;
    }
    if newest.is_some() && !wants_sandbox(steps, specs) {
        return None;
    }
    // Stop what still runs in a sandbox that lost its own process or network.
    let observed = steps.observed;
    let alive =
        |s: &Sandbox| s.ready || observed.containers.iter().any(|c| c.sandbox == s.id && c.is_running());
    for old in observed.sandboxes.iter().filter(|s| alive(s)) {
        steps.act(Action::StopSandbox { id: old.id.clone() });
    }
    if observed.sandboxes.iter().any(alive) {
        return None;
    }
    if steps.due(steps.observed.memory.sandbox_failure.as_ref()) {
        let attempt = newest.map_or(0, |s| s.attempt.saturating_add(1));
        steps.act(Action::CreateSandbox { attempt });
    }
    None
}

/// Whether any container would start in a new sandbox.
fn wants_sandbox(steps: &Steps<'_>, specs: &[Spec<'_>]) -> bool {
    specs.iter().filter(|s| s.class == Class::Main).any(|spec| {
        steps.observed.newest(&spec.container.name).is_none_or(|container| match container.exit() {
            Some(exit) => should_restart(steps.pod, spec.class, &spec.container, exit.code),
            None => true,
        })
    })
}

/// Whether a main container exists in this sandbox; then init containers do not run again.
fn has_run_main(steps: &Steps<'_>, specs: &[Spec<'_>], sandbox: &Sandbox) -> bool {
    specs
        .iter()
        .filter(|s| s.class == Class::Main)
        .filter_map(|s| steps.observed.newest(&s.container.name))
        .any(|c| c.sandbox == sandbox.id)
}

/// One step of initialization. True when the next container may start.
fn init_step(steps: &mut Steps<'_>, spec: &Spec<'_>, sandbox: &Sandbox) -> bool {
    let newest = in_sandbox(steps, spec, sandbox);
    let Some(container) = newest else {
        start(steps, spec, sandbox);
        return false;
    };
    match (&container.state, spec.class) {
        (ContainerState::Running { .. }, Class::Sidecar) => {
            keep_running(steps, spec, &container);
            probe::started(steps.observed, spec, &container, was_ready(steps, spec))
        }
        (ContainerState::Exited(exit), Class::Init) if exit.code == 0 => true,
        (ContainerState::Exited(exit), _) => {
            restart(steps, spec, sandbox, exit.code, exit.finished, &container);
            false
        }
        (ContainerState::Created | ContainerState::Unknown, _) => {
            restart_stuck(steps, spec, &container);
            false
        }
        (ContainerState::Running { .. }, _) => false,
    }
}

fn main_step(steps: &mut Steps<'_>, spec: &Spec<'_>, sandbox: &Sandbox) {
    let Some(container) = in_sandbox(steps, spec, sandbox) else {
        // A new sandbox alone is no reason to run a container again.
        let ended = steps.observed.newest(&spec.container.name).and_then(Container::exit);
        if ended.is_none_or(|e| should_restart(steps.pod, spec.class, &spec.container, e.code)) {
            start(steps, spec, sandbox);
        }
        return;
    };
    match &container.state {
        ContainerState::Running { .. } => keep_running(steps, spec, &container),
        ContainerState::Exited(exit) => {
            restart(steps, spec, sandbox, exit.code, exit.finished, &container);
        }
        ContainerState::Created | ContainerState::Unknown => {
            restart_stuck(steps, spec, &container);
        }
    }
}

fn ephemeral_step(steps: &mut Steps<'_>, spec: &Spec<'_>, sandbox: &Sandbox) {
    if steps.observed.newest(&spec.container.name).is_none() {
        start(steps, spec, sandbox);
    }
}

fn in_sandbox(steps: &Steps<'_>, spec: &Spec<'_>, sandbox: &Sandbox) -> Option<Container> {
    steps.observed.newest(&spec.container.name).filter(|c| c.sandbox == sandbox.id).cloned()
}

fn was_ready(steps: &Steps<'_>, spec: &Spec<'_>) -> bool {
    steps.pod.status.as_ref().and_then(|s| status::known(s, &spec.container.name)).is_some_and(|s| s.ready)
}

fn start(steps: &mut Steps<'_>, spec: &Spec<'_>, sandbox: &Sandbox) {
    let name = spec.container.name.clone();
    if !steps.due(steps.observed.memory.failures.get(&name)) {
        return;
    }
    let known = steps.pod.status.as_ref().and_then(|s| status::known(s, &name));
    let attempt = match steps.observed.newest(&name) {
        Some(container) => container.attempt.saturating_add(1),
        // The runtime lost the container but the API has its count: continue the count.
        None => known.map_or(0, |k| u32::try_from(status::next_attempt(k)).unwrap_or(0)),
    };
    steps.act(Action::Start { name, attempt, sandbox: sandbox.id.clone() });
}

fn restart(
    steps: &mut Steps<'_>,
    spec: &Spec<'_>,
    sandbox: &Sandbox,
    code: i32,
    finished: Timestamp,
    container: &Container,
) {
    if !killed_to_restart(steps, container) && !should_restart(steps.pod, spec.class, &spec.container, code) {
        return;
    }
    if steps.observed.memory.replaced.contains(&container.id) {
        return start(steps, spec, sandbox);
    }
    let name = &spec.container.name;
    let backoff = steps.observed.memory.backoff.get(name);
    let Some(until) = Backoff::wait(backoff, finished, steps.now) else {
        return start(steps, spec, sandbox);
    };
    steps.wake(until);
    if backoff.is_some_and(|b| !b.announced) {
        let pod = status::pod_text(steps.pod);
        steps.act(Action::Note(Note {
            container: Some(name.clone()),
            warning: true,
            reason: "BackOff",
            message: format!("Back-off restarting failed container {name} in pod {pod}"),
        }));
    }
}

/// Removes a container that was created and never started, unless a start is in flight; the next plan makes a new one.
fn restart_stuck(steps: &mut Steps<'_>, spec: &Spec<'_>, container: &Container) {
    if steps.observed.is_running(&Task::Start(spec.container.name.clone())) {
        return;
    }
    if steps.due(steps.observed.memory.failures.get(&spec.container.name)) {
        steps.act(Action::RemoveContainer { id: container.id.clone() });
    }
}

/// Replaces, resizes and probes a running container as its spec says now.
fn keep_running(steps: &mut Steps<'_>, spec: &Spec<'_>, container: &Container) {
    if steps.observed.is_running(&Task::Start(container.name.clone())) {
        return;
    }
    let name = &container.name;
    let changed = match (&container.spec_image, &spec.container.image) {
        (Some(before), Some(now)) => before != now,
        _ => false,
    };
    let why = if changed {
        Some(format!("Container {name} definition changed, will be restarted"))
    } else {
        resize(steps, spec, container)
    };
    match why {
        Some(message) => steps.act(Action::Kill {
            name: name.clone(),
            id: container.id.clone(),
            grace: spec_grace(steps.pod),
            pre_stop: true,
            replace: true,
            message,
        }),
        None => probe_running(steps, spec, container),
    }
}

/// Gives the container the resources of its spec. Returns why it must restart for them.
fn resize(steps: &mut Steps<'_>, spec: &Spec<'_>, container: &Container) -> Option<String> {
    let (present, wanted) = resizes(steps.observed, spec, container)?;
    let policies = spec.container.resize_policy.as_deref().unwrap_or_default();
    let restarts = |resource: &str| {
        policies.iter().any(|p| p.resource_name == resource && p.restart_policy == "RestartContainer")
    };
    let cpu = (present.cpu_shares, present.cpu_quota) != (wanted.cpu_shares, wanted.cpu_quota);
    let memory = present.memory_limit != wanted.memory_limit;
    if (cpu && restarts("cpu")) || (memory && restarts("memory")) {
        return Some(format!("Container {} resize requires restart", container.name));
    }
    steps.act(Action::Resize { name: container.name.clone(), id: container.id.clone(), to: wanted });
    None
}

/// What a running container has and what it should have, if they differ.
pub(super) fn resizes(
    observed: &Observed,
    spec: &Spec<'_>,
    container: &Container,
) -> Option<(Cgroup, Cgroup)> {
    if !container.is_running() || !matches!(spec.class, Class::Main | Class::Sidecar) {
        return None;
    }
    let present = container.cgroup.or_else(|| observed.memory.cgroups.get(&container.id).copied())?;
    let wanted = resources::cgroup(&spec.container);
    (present != wanted).then_some((present, wanted))
}

/// Runs the due probes of a running container, and kills it when one has failed.
fn probe_running(steps: &mut Steps<'_>, spec: &Spec<'_>, container: &Container) {
    if let Some(kind) = probe::failed_probe(steps.observed, spec, container) {
        let own = kind.of(&spec.container).and_then(|p| p.termination_grace_period_seconds);
        let grace = own.map_or_else(|| spec_grace(steps.pod), |s| SignedDuration::from_secs(s.max(0)));
        steps.act(Action::Kill {
            name: container.name.clone(),
            id: container.id.clone(),
            grace,
            pre_stop: true,
            replace: false,
            message: format!(
                "Container {} failed {} probe, will be restarted",
                container.name,
                kind.name().to_lowercase()
            ),
        });
        return;
    }
    run_due_probes(steps, spec, container, &ProbeKind::ALL);
}

/// Runs those of these probes of a running container that are due.
pub(super) fn run_due_probes(
    steps: &mut Steps<'_>,
    spec: &Spec<'_>,
    container: &Container,
    kinds: &[ProbeKind],
) {
    let was_ready = was_ready(steps, spec);
    let started = probe::started(steps.observed, spec, container, was_ready);
    for &kind in kinds {
        let Some(settings) = kind.of(&spec.container) else { continue };
        // The startup probe runs alone, and never again after it has passed.
        if (kind == ProbeKind::Startup) == started
            || steps.observed.is_running(&Task::Probe(container.id.clone(), kind))
        {
            continue;
        }
        let due = probe::state(steps.observed, container, kind, settings, was_ready).due;
        if due <= steps.now {
            steps.act(Action::Probe { name: container.name.clone(), id: container.id.clone(), kind });
        } else {
            steps.wake(due);
        }
    }
}

/// Removes containers older than the last two of a name, and sandboxes without such containers.
fn collect(steps: &mut Steps<'_>, sandbox: &Sandbox) {
    let observed = steps.observed;
    let kept = |container: &Container| {
        observed.newest(&container.name).is_some_and(|c| c.id == container.id)
            || observed.previous_exit(&container.name).is_some_and(|c| c.id == container.id)
    };
    for container in observed.containers.iter().filter(|c| !c.is_running() && !kept(c)) {
        steps.act(Action::RemoveContainer { id: container.id.clone() });
    }
    for old in observed.sandboxes.iter().filter(|s| s.id != sandbox.id && !s.ready) {
        if !observed.containers.iter().any(|c| c.sandbox == old.id && kept(c)) {
            steps.act(Action::RemoveSandbox { id: old.id.clone() });
        }
    }
}
