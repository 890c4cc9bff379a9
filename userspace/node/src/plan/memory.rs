//! How memory changes when an action begins and when it ends.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::model::{Action, Failure, InFlight, Memory, Observed, Outcome, Stopping, Task, Volumes, specs};
use super::restart::{Backoff, retry_delay};
use super::{probe, spec_grace};

/// An object that is held back by finalizers is deleted again at this pace.
const DELETE_AGAIN: SignedDuration = SignedDuration::from_secs(60);
/// A configuration that lacks something is tried again at this pace, as it may appear.
const CONFIG_RETRY: SignedDuration = SignedDuration::from_secs(10);

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
                    self.memory.condemned.remove(&id);
                    let backoff = Backoff::next(self.memory.backoff.get(name).copied(), now);
                    self.memory.backoff.insert(name.clone(), backoff);
                }
            }
            // Killed while the pod is to run: by a probe, to be started again whatever the exit code.
            Action::Kill { id, .. } if self.memory.stopping.is_none() => {
                self.memory.condemned.insert(id.clone());
            }
            _ => {}
        }
        let deadline = match action {
            Action::Kill { grace, .. } => Some(now + *grace),
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
            // A refresh that failed leaves what was there.
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
            (Action::CleanUp, Outcome::Done) => {
                self.memory.retries.remove(&Task::CleanUp);
                self.memory.cleaned = true;
            }
            (action, outcome) => self.note_retry(action, outcome, now),
        }
    }

    fn note_retry(&mut self, action: &Action, outcome: &Outcome, now: Timestamp) {
        let Some(task) = action.task() else { return };
        match outcome {
            Outcome::Failed { reason, message, .. } => {
                let failure = fail(self.memory.retries.get(&task), reason, message, now);
                self.memory.retries.insert(task, failure);
            }
            // Finalizers may hold the object back; it goes when they do.
            Outcome::Done if *action == Action::Delete => {
                let mut wait = fail(None, "Deleting", "", now);
                wait.delay = DELETE_AGAIN;
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
        let delay = if image.is_some() { retry_delay(previous) } else { CONFIG_RETRY };
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

    /// Takes note of what a change of the API object asks for: termination, and by when.
    pub fn note_pod(&mut self, pod: &Pod, now: Timestamp) {
        self.memory.start_time.get_or_insert(now);
        if let Some(spec) = &pod.spec
            && let Some(limit) = spec.active_deadline_seconds
            && self.memory.verdict.is_none()
        {
            let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or(now, |t| t.0);
            if now >= started + SignedDuration::from_secs(limit.max(0)) {
                let message = "Pod was active on the node longer than the specified deadline".to_owned();
                self.memory.verdict = Some(("DeadlineExceeded".to_owned(), message));
            }
        }
        let grace = if pod.metadata.deletion_timestamp.is_some() {
            let asked = pod.metadata.deletion_grace_period_seconds;
            Some(asked.map_or_else(|| spec_grace(pod), |s| SignedDuration::from_secs(s.max(0))))
        } else if self.memory.gone || self.memory.verdict.is_some() || is_terminal(pod) {
            Some(spec_grace(pod))
        } else {
            None
        };
        let Some(grace) = grace else { return };
        let since = self.memory.stopping.map_or(now, |s| s.since);
        let deadline = self.memory.stopping.map_or(since + grace, |s| s.deadline.min(since + grace));
        self.memory.stopping = Some(Stopping { since, deadline });
    }

    /// Drops what is remembered of containers that are no more.
    pub fn forget_absent(&mut self) {
        let known = |id: &String| self.containers.iter().any(|c| &c.id == id);
        self.memory.probes.retain(|(id, _), _| known(id));
        let sandbox = |id: &String| self.sandboxes.iter().any(|s| &s.id == id);
        self.memory.retries.retain(|task, _| match task {
            Task::Kill(id) | Task::Remove(id) | Task::StopSandbox(id) => known(id) || sandbox(id),
            _ => true,
        });
        self.memory.condemned.retain(known);
        self.memory.adopted.retain(known);
    }
}

/// The API's view of the pod with what this node knows better: the status it sent last, which a slow watch may not show yet.
pub fn merge_reported(mut pod: Pod, reported: Option<&PodStatus>) -> Pod {
    let (Some(reported), false) = (reported, is_terminal(&pod)) else { return pod };
    let foreign = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let mut status = reported.clone();
    let ours = status.conditions.take().unwrap_or_default();
    let owned = |type_: &str| super::conditions::OWNED.contains(&type_);
    let merged = foreign.into_iter().filter(|c| !owned(&c.type_));
    status.conditions = Some(merged.chain(ours.into_iter().filter(|c| owned(&c.type_))).collect());
    pod.status = Some(status);
    pod
}

impl Memory {
    /// Forgets the waits, since something they waited for may have come.
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

/// The pod's phase says that it will not run again.
pub(super) fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

fn fail(previous: Option<&Failure>, reason: &str, message: &str, now: Timestamp) -> Failure {
    // Quick at first, as most causes pass within a second or two.
    let delay =
        previous.map_or(SignedDuration::from_secs(1), |f| (f.delay * 2).min(SignedDuration::from_secs(60)));
    let delay = delay.max(SignedDuration::from_secs(1));
    Failure { reason: reason.to_owned(), message: message.to_owned(), at: now, delay, image: None }
}
