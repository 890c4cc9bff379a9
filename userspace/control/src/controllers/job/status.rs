//! When a Job has succeeded or failed, and its conditions. PURE.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use skep_api::time;

use super::policy::{FailureAction, failure_action, success_message};
use super::sync::{JobSync, Outcomes, index_count, indexed, limit_per_index};
use crate::controllers::pods;
use crate::meta;

/// The result of a Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JobResult {
    pub(super) success: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

fn find<'a>(status: Option<&'a JobStatus>, kind: &str) -> Option<&'a JobCondition> {
    status?.conditions.as_ref()?.iter().find(|c| c.type_ == kind && c.status == "True")
}

/// When the Job finished.
pub(super) fn finished_at(job: &Job) -> Option<Timestamp> {
    let status = job.status.as_ref();
    let ended = find(status, "Complete").or_else(|| find(status, "Failed"))?;
    let at = status.and_then(|s| s.completion_time.as_ref()).or(ended.last_transition_time.as_ref());
    at.map(|t| t.0)
}

/// The result of the Job, if it has one: an earlier result, or the one that follows from its pods. The order is upstream's.
pub(super) fn result_of(step: &JobSync<'_>, new: &JobStatus, outcomes: &Outcomes) -> Option<JobResult> {
    earlier(step, "SuccessCriteriaMet", true)
        .or_else(|| earlier(step, "FailureTarget", false))
        .or_else(|| failed_by_policy(step))
        .or_else(|| backoff_limit_exceeded(step, outcomes))
        .or_else(|| deadline_exceeded(step, new))
        .or_else(|| indexes_failed(step, outcomes))
        .or_else(|| success_policy_met(step, outcomes))
        .or_else(|| completed(step, outcomes))
}

impl JobResult {
    fn failure(reason: &str, message: impl Into<String>) -> JobResult {
        JobResult { success: false, reason: reason.to_owned(), message: message.into() }
    }

    fn success(reason: &str, message: impl Into<String>) -> JobResult {
        JobResult { success: true, reason: reason.to_owned(), message: message.into() }
    }
}

/// The result that a condition of the status has recorded.
fn earlier(step: &JobSync<'_>, kind: &str, success: bool) -> Option<JobResult> {
    find(step.job.status.as_ref(), kind).map(|condition| JobResult {
        success,
        reason: condition.reason.clone().unwrap_or_default(),
        message: condition.message.clone().unwrap_or_default(),
    })
}

fn failed_by_policy(step: &JobSync<'_>) -> Option<JobResult> {
    let mut failed = step.pods.iter().filter(|pod| pods::phase(pod) == "Failed");
    failed.find_map(|pod| match failure_action(step.spec, pod) {
        FailureAction::FailJob(message) => Some(JobResult::failure("PodFailurePolicy", message)),
        _ => None,
    })
}

fn indexes_failed(step: &JobSync<'_>, outcomes: &Outcomes) -> Option<JobResult> {
    limit_per_index(step.spec)?;
    let lost = outcomes.lost.total();
    if step.spec.max_failed_indexes.is_some_and(|max| lost > u64::try_from(max).unwrap_or(0)) {
        let message = "Job has exceeded the specified maximal number of failed indexes";
        return Some(JobResult::failure("MaxFailedIndexesExceeded", message));
    }
    let decided = lost + outcomes.done.total();
    let ended = lost > 0 && decided >= u64::from(index_count(step.spec));
    ended.then(|| JobResult::failure("FailedIndexes", "Job has failed indexes"))
}

fn success_policy_met(step: &JobSync<'_>, outcomes: &Outcomes) -> Option<JobResult> {
    let message = success_message(step.spec, index_count(step.spec), &outcomes.done)?;
    Some(JobResult::success("SuccessPolicy", message))
}

fn backoff_limit_exceeded(step: &JobSync<'_>, outcomes: &Outcomes) -> Option<JobResult> {
    let limit = step.spec.backoff_limit.unwrap_or(6);
    let in_place =
        step.spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) == Some("OnFailure");
    // Pods whose containers restart in place fail by the number of restarts.
    let restarts: i32 = if in_place {
        step.pods
            .iter()
            .filter(|p| !pods::finished(p))
            .map(|p| pods::restarts(p))
            .fold(0, i32::saturating_add)
    } else {
        0
    };
    let exceeded = outcomes.failed > limit || (restarts > 0 && restarts >= limit.max(1));
    exceeded
        .then(|| JobResult::failure("BackoffLimitExceeded", "Job has reached the specified backoff limit"))
}

fn deadline_exceeded(step: &JobSync<'_>, new: &JobStatus) -> Option<JobResult> {
    let seconds = step.spec.active_deadline_seconds?;
    let start = new.start_time.as_ref().filter(|_| step.spec.suspend != Some(true))?.0;
    let exceeded = time::after_seconds(start, seconds) <= step.context.now;
    exceeded.then(|| JobResult::failure("DeadlineExceeded", "Job was active longer than specified deadline"))
}

fn completed(step: &JobSync<'_>, outcomes: &Outcomes) -> Option<JobResult> {
    let reached = match step.spec.completions {
        Some(_) if indexed(step.spec) => outcomes.done.total() >= u64::from(index_count(step.spec)),
        Some(completions) => outcomes.succeeded >= completions,
        None => outcomes.succeeded > 0 && !step.pods.iter().any(|p| pods::active(p)),
    };
    reached.then(|| JobResult::success("CompletionsReached", "Reached expected number of succeeded pods"))
}

/// Sets the conditions: SuccessCriteriaMet or FailureTarget at once, Complete or Failed when every pod has ended.
pub(super) fn conditions(step: &JobSync<'_>, new: &mut JobStatus, result: Option<&JobResult>, settled: bool) {
    let now = step.context.now;
    let mut conditions = new.conditions.take().unwrap_or_default();
    suspension(step, &mut conditions, new, now);
    if let Some(result) = result {
        let (first, last) =
            if result.success { ("SuccessCriteriaMet", "Complete") } else { ("FailureTarget", "Failed") };
        put(&mut conditions, first, "True", &result.reason, &result.message, now);
        if settled {
            put(&mut conditions, last, "True", &result.reason, &result.message, now);
            if result.success {
                new.completion_time = Some(meta::time(now));
            }
        }
    }
    new.conditions = Some(conditions).filter(|c| !c.is_empty());
}

fn suspension(step: &JobSync<'_>, conditions: &mut Vec<JobCondition>, new: &mut JobStatus, now: Timestamp) {
    if step.spec.suspend == Some(true) {
        put(conditions, "Suspended", "True", "JobSuspended", "Job suspended", now);
        new.start_time = None;
    } else if conditions.iter().any(|c| c.type_ == "Suspended" && c.status == "True") {
        put(conditions, "Suspended", "False", "JobResumed", "Job resumed", now);
        new.start_time = Some(meta::time(now));
    }
}

fn put(
    conditions: &mut Vec<JobCondition>,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    if conditions.iter().any(|c| c.type_ == kind && c.status == status) {
        return;
    }
    conditions.retain(|c| c.type_ != kind);
    conditions.push(JobCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(meta::time(now)),
        last_transition_time: Some(meta::time(now)),
    });
}
