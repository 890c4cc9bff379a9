//! Transitions of the memory: an action begins or ends, the pod changes, containers disappear.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::conditions::{DISRUPTION_TARGET, OWNED};
use super::later::later;
use super::model::{
    Action, Failure, InFlight, Memory, Observed, Outcome, Stopping, Task, Termination, Volumes, specs,
};
use super::restart::{Backoff, retry_delay};
use super::{probe, spec_grace};

/// How often deletion is repeated while finalizers keep the object.
const DELETE_RETRY_INTERVAL: SignedDuration = SignedDuration::from_secs(60);
/// The grace of a pod whose API object is gone: no request can shorten it any more.
const MAX_GRACE_OF_GONE: SignedDuration = SignedDuration::from_secs(30);
/// How often a start is repeated when its configuration is incomplete; the missing object may be created.
const CONFIG_RETRY_INTERVAL: SignedDuration = SignedDuration::from_secs(10);

impl Observed {
    /// Notes that an action begins at `now`.
    pub fn begin(&mut self, action: &Action, now: Timestamp) {
        match action {
            Action::Note(note) => {
                if let Some(name) = note.container.as_ref().filter(|_| note.reason == "BackOff")
                    && let Some(backoff) = self.memory.backoff.get_mut(name)
                {
                    backoff.announced = true;
                }
                return;
            }
            Action::Start { name, .. } => {
                if let Some(exited) = self.newest(name).filter(|c| c.exit().is_some()) {
                    let id = exited.id.clone();
                    self.memory.killed_by_probe.remove(&id);
                    // A changed container did not crash.
                    if !self.memory.replaced.contains(&id) {
                        let backoff = Backoff::next(self.memory.backoff.get(name).copied(), now);
                        self.memory.backoff.insert(name.clone(), backoff);
                    }
                }
            }
            // A kill while the pod should run comes from a probe: the container restarts whatever its exit code.
            Action::Kill { id, replace: true, .. } => drop(self.memory.replaced.insert(id.clone())),
            Action::Kill { id, .. } if self.memory.stopping.is_none() => {
                self.memory.killed_by_probe.insert(id.clone());
            }
            _ => {}
        }
        let deadline = match action {
            Action::Kill { grace, .. } => Some(later(now, *grace)),
            _ => None,
        };
        if let Some(task) = action.task() {
            self.memory.in_flight.insert(task, InFlight { since: now, deadline });
        }
    }

    /// Notes how an action ended.
    pub fn finish(&mut self, pod: &Pod, action: &Action, outcome: &Outcome, now: Timestamp) {
        if let Some(task) = action.task() {
            self.memory.in_flight.remove(&task);
        }
        match (action, outcome) {
            // A failed refresh leaves the volumes as they were.
            (Action::PrepareVolumes, Outcome::Failed { .. }) if self.memory.volumes == Volumes::Ready => {}
            (Action::PrepareVolumes, Outcome::Failed { reason, message, .. }) => {
                let previous = match &self.memory.volumes {
                    Volumes::Failed(failure) => Some(failure),
                    _ => None,
                };
                self.memory.volumes = Volumes::Failed(fail(previous, reason, message, now));
            }
            (Action::PrepareVolumes, _) => self.memory.volumes = Volumes::Ready,
            (Action::CreateSandbox { .. }, Outcome::Failed { reason, message, .. }) => {
                let failure = fail(self.memory.sandbox_failure.as_ref(), reason, message, now);
                self.memory.sandbox_failure = Some(failure);
            }
            (Action::CreateSandbox { .. }, _) => self.memory.sandbox_failure = None,
            (Action::Start { name, .. }, Outcome::Failed { reason, message, image }) => {
                self.start_failed(name, reason, message, image.clone(), now);
            }
            (Action::Start { name, .. }, _) => {
                self.memory.failures.remove(name);
            }
            (Action::Probe { name, id, kind }, Outcome::Probed { success, .. }) => {
                self.probed(pod, name, id, *kind, *success, now);
            }
            (Action::Resize { id, to, .. }, Outcome::Done) => {
                self.memory.cgroups.insert(id.clone(), *to);
                self.update_retry(action, outcome, now);
            }
            (Action::CleanUp, Outcome::Done) => {
                self.memory.retries.remove(&Task::CleanUp);
                self.memory.cleaned = true;
            }
            (action, outcome) => self.update_retry(action, outcome, now),
        }
    }

    fn update_retry(&mut self, action: &Action, outcome: &Outcome, now: Timestamp) {
        let Some(task) = action.task() else { return };
        match outcome {
            Outcome::Failed { reason, message, .. } => {
                let failure = fail(self.memory.retries.get(&task), reason, message, now);
                self.memory.retries.insert(task, failure);
            }
            // Finalizers may keep the object until their owners remove them.
            Outcome::Done if *action == Action::Delete => {
                let mut wait = fail(None, "Deleting", "", now);
                wait.delay = DELETE_RETRY_INTERVAL;
                self.memory.retries.insert(task, wait);
            }
            _ => drop(self.memory.retries.remove(&task)),
        }
    }

    fn start_failed(
        &mut self,
        name: &str,
        reason: &str,
        message: &str,
        image: Option<String>,
        now: Timestamp,
    ) {
        let previous = self.memory.failures.get(name).filter(|f| f.reason == reason).map(|f| f.delay);
        let delay = if image.is_some() { retry_delay(previous) } else { CONFIG_RETRY_INTERVAL };
        let failure =
            Failure { reason: reason.to_owned(), message: message.to_owned(), at: now, delay, image };
        self.memory.failures.insert(name.to_owned(), failure);
    }

    fn probed(
        &mut self,
        pod: &Pod,
        name: &str,
        id: &str,
        kind: super::ProbeKind,
        success: bool,
        now: Timestamp,
    ) {
        let Some(container) = self.containers.iter().find(|c| c.id == id && c.is_running()).cloned() else {
            return;
        };
        let specs = specs(pod);
        let Some(spec) = specs.iter().find(|s| s.container.name == name) else { return };
        let Some(settings) = kind.of(&spec.container) else { return };
        let was_ready = super::status::known(pod.status.as_ref().unwrap_or(&Default::default()), name)
            .is_some_and(|s| s.ready);
        let mut state = probe::state(self, &container, kind, settings, was_ready);
        state.record(settings, success, now);
        self.memory.probes.insert((id.to_owned(), kind), state);
    }

    /// Updates the memory from the API object: whether the pod must stop, and by when.
    pub fn observe_pod(&mut self, pod: &Pod, now: Timestamp) {
        self.memory.start_time.get_or_insert(now);
        if let Some(spec) = &pod.spec
            && let Some(limit) = spec.active_deadline_seconds
            && self.memory.failed_by_node.is_none()
        {
            let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or(now, |t| t.0);
            if now >= later(started, SignedDuration::from_secs(limit.max(0))) {
                let message = "Pod was active on the node longer than the specified deadline".to_owned();
                self.memory.failed_by_node = Some(Termination::new("DeadlineExceeded", message));
            }
        }
        let grace = if pod.metadata.deletion_timestamp.is_some() {
            let asked = pod.metadata.deletion_grace_period_seconds;
            Some(asked.map_or_else(|| spec_grace(pod), |s| SignedDuration::from_secs(s.max(0))))
        } else if self.memory.gone || self.memory.failed_by_node.is_some() || is_terminal(pod) {
            Some(spec_grace(pod))
        } else {
            None
        };
        let Some(grace) = grace else { return };
        let grace = if self.memory.gone { grace.min(MAX_GRACE_OF_GONE) } else { grace };
        let limit = self.memory.failed_by_node.as_ref().and_then(|termination| termination.grace);
        let grace = limit.map_or(grace, |limit| grace.min(limit));
        let since = self.memory.stopping.map_or(now, |s| s.since);
        let end = later(since, grace);
        let deadline = self.memory.stopping.map_or(end, |s| s.deadline.min(end));
        self.memory.stopping = Some(Stopping { since, deadline });
    }

    /// Drops the memory of containers that no longer exist.
    pub fn forget_absent(&mut self) {
        let known = |id: &String| self.containers.iter().any(|c| &c.id == id);
        self.memory.probes.retain(|(id, _), _| known(id));
        let sandbox = |id: &String| self.sandboxes.iter().any(|s| &s.id == id);
        self.memory.retries.retain(|task, _| match task {
            Task::Kill(id) | Task::Resize(id) | Task::Remove(id) | Task::StopSandbox(id) => {
                known(id) || sandbox(id)
            }
            _ => true,
        });
        self.memory.killed_by_probe.retain(known);
        self.memory.replaced.retain(known);
        self.memory.cgroups.retain(|id, _| known(id));
        self.memory.adopted.retain(known);
    }
}

/// The API's pod with the status that this node sent last, which a slow watch may not show yet.
pub fn merge_reported(mut pod: Pod, reported: Option<&PodStatus>) -> Pod {
    let (Some(reported), false) = (reported, is_terminal(&pod)) else { return pod };
    let foreign = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let mut status = reported.clone();
    let ours = status.conditions.take().unwrap_or_default();
    let is_disrupted = ours.iter().any(|c| c.type_ == DISRUPTION_TARGET);
    let owned = |type_: &str| OWNED.contains(&type_) || (is_disrupted && type_ == DISRUPTION_TARGET);
    let merged = foreign.into_iter().filter(|c| !owned(&c.type_));
    status.conditions = Some(merged.chain(ours.into_iter().filter(|c| owned(&c.type_))).collect());
    pod.status = Some(status);
    pod
}

impl Memory {
    /// Ends the waits of failed configurations and volumes: an object that they need may exist now.
    pub fn retry_now(&mut self, now: Timestamp) {
        let configs = self.failures.values_mut().filter(|f| f.image.is_none());
        let volumes = match &mut self.volumes {
            Volumes::Failed(failure) => Some(failure),
            _ => None,
        };
        for failure in configs.chain(volumes) {
            failure.delay = now.duration_since(failure.at);
        }
    }
}

/// Whether the pod's phase is final.
pub fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

fn fail(previous: Option<&Failure>, reason: &str, message: &str, now: Timestamp) -> Failure {
    // Short at first: most causes pass within a second or two.
    let delay =
        previous.map_or(SignedDuration::from_secs(1), |f| (f.delay * 2).min(SignedDuration::from_secs(60)));
    let delay = delay.max(SignedDuration::from_secs(1));
    Failure { reason: reason.to_owned(), message: message.to_owned(), at: now, delay, image: None }
}
