//! HorizontalPodAutoscalers: the replicas of a target follow its metrics (autoscaling/v2). PURE.
//!
//! In: the object, its target's scale, answers of the metrics APIs, the target's pods, what is remembered. Out: a
//! [`Decision`], and after the write of the scale the status. `autoscaling` asks and writes.

pub(crate) mod behavior;
pub(crate) mod error;
pub(crate) mod metric;
pub(crate) mod selector;
#[cfg(test)]
mod tests;
pub(crate) mod usage;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior,
    HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus, MetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use skep_api::selector::{LabelSelector, Labels};

use crate::cache::Key;
use crate::clock::Now;
use crate::meta;
use behavior::{Bounds, History, WITHIN_RANGE};
use error::AutoscalerError;
use metric::{Answer, MetricFailure, MetricProposal, Present, propose};
use usage::{Pods, Tolerances};

/// Usage within a tenth of the goal changes nothing, unless the object says otherwise.
const DEFAULT_TOLERANCE: f64 = 0.1;

/// The scale of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) replicas: i32,
    pub(crate) status_replicas: i32,
    /// In the form of a query.
    pub(crate) selector: String,
}

/// An Event about the autoscaler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AutoscalerEvent {
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// What follows from a look at the target.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decision {
    pub(crate) status: HorizontalPodAutoscalerStatus,
    pub(crate) events: Vec<AutoscalerEvent>,
    /// A new number of replicas, and why.
    pub(crate) rescale: Option<(i32, String)>,
}

/// One look at an autoscaler and its target.
pub(crate) struct Round<'a> {
    pub(crate) object: &'a HorizontalPodAutoscaler,
    pub(crate) now: Now,
    decision: Decision,
}

/// The number of replicas that the metrics need together, and the name of the metric that needs most.
type Combined = Result<(i32, String), AutoscalerError>;

/// What decides whether the metrics are looked at.
enum Course {
    /// The target has no replicas: it is not scaled.
    Disabled,
    /// The number is out of its bounds.
    Bounded(i32, &'static str),
    Measured,
}

impl<'a> Round<'a> {
    pub(crate) fn new(object: &'a HorizontalPodAutoscaler, now: Now) -> Round<'a> {
        let status = object.status.clone().unwrap_or_default();
        Round { object, now, decision: Decision { status, events: Vec::new(), rescale: None } }
    }

    /// The target's scale cannot be read.
    pub(crate) fn without_target(mut self, error: &AutoscalerError) -> Decision {
        self.warn("FailedGetScale", error.0.clone());
        let message = format!("the HPA controller was unable to get the target's current scale: {error}");
        self.condition("AbleToScale", false, "FailedGetScale", message);
        self.decision
    }

    /// Whether the metrics must be asked for.
    pub(crate) fn needs_metrics(&self, target: &Target) -> bool {
        matches!(self.course(target), Course::Measured)
    }

    fn course(&self, target: &Target) -> Course {
        let Bounds { current, min, max } = self.bounds(target);
        match current {
            // Without upstream's feature gate HPAScaleToZero, which is off by default.
            0 => Course::Disabled,
            _ if current > max => Course::Bounded(max, "Current number of replicas above Spec.MaxReplicas"),
            _ if current < min => Course::Bounded(min, "Current number of replicas below Spec.MinReplicas"),
            _ => Course::Measured,
        }
    }

    fn bounds(&self, target: &Target) -> Bounds {
        let spec = &self.object.spec;
        Bounds { current: target.replicas, min: spec.min_replicas.unwrap_or(1), max: spec.max_replicas }
    }

    fn behavior(&self) -> Option<&'a HorizontalPodAutoscalerBehavior> {
        self.object.spec.behavior.as_ref()
    }

    /// Decides. `answers`: one for each metric, if they are needed; `rivals`: all autoscalers that select one of the pods.
    pub(crate) fn decide(
        mut self,
        target: &Target,
        pods: &[Arc<Pod>],
        rivals: &[Key],
        answers: Vec<Result<Answer, MetricFailure>>,
        history: &mut History,
    ) -> Decision {
        let able = "the HPA controller was able to get the target's current scale";
        self.condition("AbleToScale", true, "SucceededGetScale", able.to_owned());
        history.begin(target.replicas, self.now.steady);
        match self.course(target) {
            Course::Disabled => {
                let why = "scaling is disabled since the replica count of the target is zero";
                self.condition("ScalingActive", false, "ScalingDisabled", why.to_owned());
                self.settle(target.replicas, target.replicas, None);
            }
            Course::Bounded(replicas, why) => {
                self.decision.rescale = Some((replicas, why.to_owned()));
                self.settle(target.replicas, replicas, None);
            }
            Course::Measured => self.measure(target, pods, rivals, answers, history),
        }
        self.decision
    }

    fn measure(
        &mut self,
        target: &Target,
        pods: &[Arc<Pod>],
        rivals: &[Key],
        answers: Vec<Result<Answer, MetricFailure>>,
        history: &mut History,
    ) {
        let (metrics, statuses) = match self.check_selector(target, rivals) {
            Ok(()) => self.combine(target, pods, answers),
            Err(error) => (Err(error), None),
        };
        let (wanted, metric) = match metrics {
            Ok(found) => found,
            Err(error) => {
                let desired = self.decision.status.desired_replicas;
                self.settle(target.replicas, desired, statuses);
                return self.warn("FailedComputeMetricsReplicas", error.0);
            }
        };
        let bounds = self.bounds(target);
        let (wanted, metric) = if wanted > 0 { (wanted, metric) } else { (0, String::new()) };
        let mut reason = String::new();
        if wanted > bounds.current {
            reason = format!("{metric} above target");
        } else if wanted < bounds.current {
            "All metrics below target".clone_into(&mut reason);
        }
        let allowed = history.allow(self.behavior(), bounds, wanted, self.now.steady);
        self.condition("AbleToScale", true, allowed.able.0, allowed.able.1.to_owned());
        let (why, message) = allowed.limited.unwrap_or(WITHIN_RANGE);
        self.condition("ScalingLimited", allowed.limited.is_some(), why, message.to_owned());
        if allowed.replicas != bounds.current {
            self.decision.rescale = Some((allowed.replicas, reason));
        }
        self.settle(target.replicas, allowed.replicas, statuses);
    }

    /// The selector of the target's pods must be there, and no other autoscaler's.
    fn check_selector(&mut self, target: &Target, rivals: &[Key]) -> Result<(), AutoscalerError> {
        let selector = &target.selector;
        if selector.is_empty() {
            let error = "selector is required";
            self.warn("SelectorRequired", error.to_owned());
            let message = "the HPA target's scale is missing a selector";
            self.condition("ScalingActive", false, "InvalidSelector", message.to_owned());
            return Err(error.into());
        }
        let (reason, error) = if let Err(error) = LabelSelector::parse(selector) {
            let what = "couldn't convert selector into a corresponding internal selector object";
            ("InvalidSelector", format!("{what}: {error}"))
        } else if rivals.len() > 1 {
            let shown: Vec<String> =
                rivals.iter().map(|key| format!("{{{} {}}}", key.name, key.namespace)).collect();
            let shown = shown.join(" ");
            let error = format!("pods by selector {selector} are controlled by multiple HPAs: [{shown}]");
            ("AmbiguousSelector", error)
        } else {
            return Ok(());
        };
        self.warn(reason, error.clone());
        self.condition("ScalingActive", false, reason, error.clone());
        Err(error.into())
    }

    /// The largest number of replicas that any metric needs, and the name of that metric. A metric that fails prevents that
    /// the number falls.
    fn combine(
        &mut self,
        target: &Target,
        pods: &[Arc<Pod>],
        answers: Vec<Result<Answer, MetricFailure>>,
    ) -> (Combined, Option<Vec<MetricStatus>>) {
        let specs = self.object.spec.metrics.as_deref().unwrap_or_default();
        let present = Present {
            namespace: meta::namespace(&self.object.metadata),
            replicas: target.replicas,
            status_replicas: target.status_replicas,
            pods: Pods { all: pods, now: self.now.wall },
            tolerances: tolerances(self.behavior()),
        };
        let (mut best, mut statuses): ((i32, String), _) = ((0, String::new()), Vec::new());
        let (mut first_failure, mut failures) = (None, 0usize);
        for (spec, answer) in specs.iter().zip(answers) {
            match answer.and_then(|answer| propose(spec, answer, &present)) {
                Ok(MetricProposal { replicas, name, status }) => {
                    statuses.push(status);
                    if best.0 == 0 || replicas > best.0 {
                        best = (replicas, name);
                    }
                }
                Err(failure) => {
                    statuses.push(MetricStatus::default());
                    self.warn(failure.reason, failure.message.clone());
                    failures += 1;
                    first_failure.get_or_insert(failure);
                }
            }
        }
        let statuses = Some(statuses);
        if let Some(failure) = first_failure
            && (failures >= specs.len() || best.0 < target.replicas)
        {
            let MetricFailure { reason, message, error } = failure;
            let message = format!("the HPA was unable to compute the replica count: {message}");
            self.condition("ScalingActive", false, reason, message);
            let all = specs.len();
            let error = format!("invalid metrics ({failures} invalid out of {all}), first error is: {error}");
            return (Err(error.into()), statuses);
        }
        let found = format!("the HPA was able to successfully calculate a replica count from {}", best.1);
        self.condition("ScalingActive", true, "ValidMetricFound", found);
        (Ok(best), statuses)
    }

    fn settle(&mut self, current: i32, desired: i32, metrics: Option<Vec<MetricStatus>>) {
        let status = &mut self.decision.status;
        status.current_replicas = Some(current);
        status.desired_replicas = desired;
        status.current_metrics = metrics;
        status.observed_generation = None;
    }

    fn warn(&mut self, reason: &'static str, message: String) {
        self.decision.events.push(AutoscalerEvent { warning: true, reason, message });
    }

    fn condition(&mut self, type_: &str, is_true: bool, reason: &str, message: String) {
        set_condition(&mut self.decision.status, type_, is_true, (reason, message), self.now.wall);
    }
}

impl Decision {
    /// The target was scaled, or why it was not; `current`: the replicas before, `desired`: the status' number before.
    pub(crate) fn rescaled(
        &mut self,
        current: i32,
        before: i32,
        result: Result<(), AutoscalerError>,
        now: Timestamp,
    ) {
        let Some((replicas, reason)) = &self.rescale else { return };
        let (warning, event, message) = match result {
            Ok(()) => {
                let message = format!("the HPA controller was able to update the target scale to {replicas}");
                set_condition(&mut self.status, "AbleToScale", true, ("SucceededRescale", message), now);
                self.status.last_scale_time = Some(meta::time(now));
                (false, "SuccessfulRescale", format!("New size: {replicas}; reason: {reason}"))
            }
            Err(error) => {
                let message = format!("the HPA controller was unable to update the target scale: {error}");
                set_condition(&mut self.status, "AbleToScale", false, ("FailedUpdateScale", message), now);
                self.status.current_replicas = Some(current);
                self.status.desired_replicas = before;
                let message = format!("New size: {replicas}; reason: {reason}; error: {error}");
                (true, "FailedRescale", message)
            }
        };
        self.events.push(AutoscalerEvent { warning, reason: event, message });
    }
}

fn set_condition(
    status: &mut HorizontalPodAutoscalerStatus,
    type_: &str,
    is_true: bool,
    (reason, message): (&str, String),
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    let at = conditions.iter().position(|condition| condition.type_ == type_).unwrap_or_else(|| {
        conditions.push(HorizontalPodAutoscalerCondition {
            type_: type_.to_owned(),
            ..HorizontalPodAutoscalerCondition::default()
        });
        conditions.len() - 1
    });
    let Some(condition) = conditions.get_mut(at) else { return };
    let wanted = if is_true { "True" } else { "False" };
    if condition.status != wanted {
        condition.last_transition_time = Some(meta::time(now));
    }
    wanted.clone_into(&mut condition.status);
    condition.reason = Some(reason.to_owned());
    condition.message = Some(message);
}

fn tolerances(behavior: Option<&HorizontalPodAutoscalerBehavior>) -> Tolerances {
    let of = |rules: Option<&HPAScalingRules>| {
        let tolerance = rules.and_then(|rules| rules.tolerance.as_ref());
        let tolerance = tolerance.and_then(|text| text.0.parse::<skep_api::quantity::Quantity>().ok());
        tolerance.map_or(DEFAULT_TOLERANCE, |quantity| quantity.to_f64())
    };
    Tolerances {
        down: of(behavior.and_then(|behavior| behavior.scale_down.as_ref())),
        up: of(behavior.and_then(|behavior| behavior.scale_up.as_ref())),
    }
}

/// The autoscalers whose selectors select one of these pods of their namespace.
pub(crate) fn rivals<'a>(
    pods: &[Arc<Pod>],
    selectors: impl Iterator<Item = (&'a Key, &'a LabelSelector)>,
) -> Vec<Key> {
    let selects = |selector: &LabelSelector| pods.iter().any(|pod| selector.matches(&PodLabels(pod)));
    let mut keys: Vec<Key> =
        selectors.filter(|(_, selector)| selects(selector)).map(|(key, _)| key.clone()).collect();
    keys.sort();
    keys
}

/// The labels of a pod, for selectors.
pub(crate) struct PodLabels<'a>(pub(crate) &'a Pod);

impl Labels for PodLabels<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        meta::label(&self.0.metadata, key)
    }
}
