//! PURE. The life of a pod as a state machine.
//!
//! In: the pod, its [`Observed`] state, the time. Out: actions, the status to report, the next deadline. [`plan`] never
//! waits and never reads the clock. The caller observes, calls [`Observed::observe_pod`] and [`plan`], calls
//! [`Observed::begin`] for each action before it performs it and [`Observed::finish`] afterwards, and plans again after
//! every change and at the deadline. Actions may run concurrently and may fail; the next plan decides about a retry.

mod conditions;
mod later;
mod memory;
pub mod model;
pub mod probe;
mod restart;
mod run;
pub mod status;
mod stop;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use later::later;
pub use memory::{is_terminal, merge_reported};
pub use model::{
    Action, Class, Container, ContainerState, Exit, Memory, Note, Observed, Outcome, ProbeKind, Sandbox,
    Spec, Task, Termination, specs,
};
pub use status::NodeView;

/// How long a failed pull shows as ErrImagePull before it shows as ImagePullBackOff.
pub const PULL_ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(1);

/// The reason of a pod that used more than it may.
pub const EVICTED: &str = "Evicted";

/// The reason of a pod whose node was shut down.
pub const TERMINATED: &str = "Terminated";

/// What to do now, the status to report, and when to plan again if nothing changes before.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub status: PodStatus,
    pub deadline: Option<Timestamp>,
    /// Nothing of the pod is left and its API object is gone: its worker can end.
    pub finished: bool,
}

/// Decides on one pod.
pub fn plan(pod: &Pod, observed: &Observed, node: &NodeView, now: Timestamp) -> Plan {
    let mut steps = Steps { pod, observed, now, actions: Vec::new(), deadline: None };
    let ended = stop::ended(&steps);
    let status = status::compute(pod, observed, node, ended, now);
    let finished = if stop::should_stop(&steps, &status) {
        stop::plan(&mut steps, &status)
    } else {
        run::plan(&mut steps);
        false
    };
    let Steps { actions, deadline, .. } = steps;
    Plan { actions, status, deadline, finished }
}

/// A plan under construction.
struct Steps<'a> {
    pod: &'a Pod,
    observed: &'a Observed,
    now: Timestamp,
    actions: Vec<Action>,
    deadline: Option<Timestamp>,
}

impl Steps<'_> {
    /// Adds an action, unless it is in flight or must wait for its retry.
    fn act(&mut self, action: Action) {
        let Some(task) = action.task() else { return self.actions.push(action) };
        let observed = self.observed;
        if !observed.is_running(&task) && self.due(observed.memory.retries.get(&task)) {
            self.actions.push(action);
        }
    }

    /// Plans again at `at` at the latest.
    fn wake(&mut self, at: Timestamp) {
        self.deadline = Some(self.deadline.map_or(at, |d| d.min(at)));
    }

    /// Whether a failure's retry is due; otherwise plans again when it is.
    fn due(&mut self, failure: Option<&model::Failure>) -> bool {
        let Some(failure) = failure else { return true };
        let at = failure.retry_at();
        if at <= self.now {
            return true;
        }
        if failure.image.is_some() && later(failure.at, PULL_ERROR_SHOWN) > self.now {
            self.wake(later(failure.at, PULL_ERROR_SHOWN));
        }
        self.wake(at);
        false
    }

    fn any_container_running(&self) -> bool {
        self.observed.containers.iter().any(Container::is_running)
    }
}

/// The status of the condition Ready.
pub fn ready(status: Option<&PodStatus>) -> Option<&str> {
    let conditions = status?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready").map(|condition| condition.status.as_str())
}

/// The grace period in the pod's spec, which a deletion may override.
pub fn spec_grace(pod: &Pod) -> SignedDuration {
    let seconds = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
    SignedDuration::from_secs(seconds.max(0))
}

#[cfg(test)]
mod tests;
