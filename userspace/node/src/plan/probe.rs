//! Probes: when one is due, and what a result changes.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Probe;

use super::later::later;
use super::model::{Container, ContainerState, Observed, ProbeKind, Spec, Task};

/// The results of one probe of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeState {
    pub due: Timestamp,
    pub successes: i32,
    pub failures: i32,
    /// The last result that reached its threshold: true for success.
    pub passed: Option<bool>,
}

impl ProbeState {
    /// Counts a result. The next probe comes one period after this one was due, or at once if that has passed.
    pub fn record(&mut self, probe: &Probe, success: bool, now: Timestamp) {
        if success {
            self.successes = self.successes.saturating_add(1);
            self.failures = 0;
            if self.successes >= probe.success_threshold.unwrap_or(1) {
                self.passed = Some(true);
            }
        } else {
            self.failures = self.failures.saturating_add(1);
            self.successes = 0;
            if self.failures >= probe.failure_threshold.unwrap_or(3) {
                self.passed = Some(false);
            }
        }
        self.due = later(self.due, period(probe)).max(now);
    }
}

pub fn period(probe: &Probe) -> SignedDuration {
    SignedDuration::from_secs(probe.period_seconds.unwrap_or(10).max(1).into())
}

/// The state of a probe; before the first result, its initial state.
pub fn state(
    observed: &Observed,
    container: &Container,
    kind: ProbeKind,
    probe: &Probe,
    was_ready: bool,
) -> ProbeState {
    if let Some(state) = observed.memory.probes.get(&(container.id.clone(), kind)) {
        return *state;
    }
    let started = match container.state {
        ContainerState::Running { started } => started,
        _ => container.created,
    };
    let adopted = observed.memory.adopted.contains(&container.id);
    // A restart of the agent must not make a ready pod unready before a probe has failed.
    let passed = (adopted && was_ready && kind != ProbeKind::Liveness).then_some(true);
    let delay = SignedDuration::from_secs(probe.initial_delay_seconds.unwrap_or(0).max(0).into());
    ProbeState { due: later(started, delay), successes: 0, failures: 0, passed }
}

/// Whether the container counts as started: it runs and its startup probe, if any, has passed.
pub fn started(observed: &Observed, spec: &Spec<'_>, container: &Container, was_ready: bool) -> bool {
    if !container.is_running() || observed.is_running(&Task::Start(container.name.clone())) {
        return false;
    }
    match &spec.container.startup_probe {
        None => true,
        Some(probe) => state(observed, container, ProbeKind::Startup, probe, was_ready).passed == Some(true),
    }
}

/// Whether the container is ready: started, and its readiness probe, if any, has passed.
pub fn ready(observed: &Observed, spec: &Spec<'_>, container: &Container, was_ready: bool) -> bool {
    started(observed, spec, container, was_ready)
        && match &spec.container.readiness_probe {
            None => true,
            Some(probe) => {
                state(observed, container, ProbeKind::Readiness, probe, was_ready).passed == Some(true)
            }
        }
}

/// The startup or liveness probe that has failed, if any.
pub fn failed_probe(observed: &Observed, spec: &Spec<'_>, container: &Container) -> Option<ProbeKind> {
    [ProbeKind::Startup, ProbeKind::Liveness].into_iter().find(|kind| {
        kind.of(&spec.container)
            .is_some_and(|probe| state(observed, container, *kind, probe, false).passed == Some(false))
    })
}
