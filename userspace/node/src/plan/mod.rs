//! PURE. The life of a pod as a state machine: what is there and what is remembered go in with the time, actions come out.
//!
//! `plan` never waits and never asks the clock. Whoever calls it performs the actions, tells [`Memory`] of their begin and
//! their outcome, and calls again on any change and at the deadline it was given.

mod conditions;
mod memory;
pub mod model;
pub mod probe;
mod restart;
mod run;
pub mod status;
mod stop;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};

pub use memory::merge_reported;
pub use model::{
    Action, Class, Container, ContainerState, Exit, Memory, Note, Observed, Outcome, ProbeKind, Sandbox,
    Spec, Task, specs,
};
pub use status::NodeView;

/// How long a failed pull shows as ErrImagePull before it shows as ImagePullBackOff.
pub const PULL_ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(1);

/// What is to be done now, what the API is to show, and when to plan again if nothing happens before.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub status: PodStatus,
    pub deadline: Option<Timestamp>,
    /// Nothing of the pod is left and its API object is gone: forget it.
    pub finished: bool,
}

/// Decides on one pod.
pub fn plan(pod: &Pod, observed: &Observed, node: &NodeView, now: Timestamp) -> Plan {
    let mut steps = Steps { pod, observed, now, actions: Vec::new(), deadline: None };
    let ended = stop::ended(&steps);
    let status = status::compute(pod, observed, node, ended, now);
    let finished = if stop::wanted(&steps, &status) {
        stop::plan(&mut steps, &status)
    } else {
        run::plan(&mut steps);
        false
    };
    let Steps { actions, deadline, .. } = steps;
    Plan { actions, status, deadline, finished }
}

/// A plan in the making.
struct Steps<'a> {
    pod: &'a Pod,
    observed: &'a Observed,
    now: Timestamp,
    actions: Vec<Action>,
    deadline: Option<Timestamp>,
}

impl Steps<'_> {
    /// Asks for an action, unless it is in flight or has to wait.
    fn act(&mut self, action: Action) {
        let Some(task) = action.task() else { return self.actions.push(action) };
        let observed = self.observed;
        if !observed.is_running(&task) && self.due(observed.memory.retries.get(&task)) {
            self.actions.push(action);
        }
    }

    /// Asks for another look at `at`.
    fn wake(&mut self, at: Timestamp) {
        self.deadline = Some(self.deadline.map_or(at, |d| d.min(at)));
    }

    /// True when a failure's retry is due; else asks for a look when it is.
    fn due(&mut self, failure: Option<&model::Failure>) -> bool {
        let Some(failure) = failure else { return true };
        let at = failure.retry_at();
        if at <= self.now {
            return true;
        }
        if failure.image.is_some() && failure.at + PULL_ERROR_SHOWN > self.now {
            self.wake(failure.at + PULL_ERROR_SHOWN);
        }
        self.wake(at);
        false
    }

    fn any_container_running(&self) -> bool {
        self.observed.containers.iter().any(Container::is_running)
    }
}

/// The pod's grace period when nothing else is asked for.
pub fn spec_grace(pod: &Pod) -> SignedDuration {
    let seconds = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
    SignedDuration::from_secs(seconds.max(0))
}

#[cfg(test)]
mod tests;
