//! When a Job has succeeded or failed, and its conditions. PURE.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use skep_api::time;

use super::sync::{JobSync, Outcomes, indexed};
use crate::controllers::pods;
use crate::meta;

/// The result of a Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JobResult {
    pub(super) success: bool,
    pub(super) reason: &'static str,
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

/// The result of the Job, if it has one: an earlier result, or the one that follows from its pods.
pub(super) fn result_of(step: &JobSync<'_>, new: &JobStatus, outcomes: &Outcomes) -> Option<JobResult> {
    let earlier = |kind, success, reason| {
        find(step.job.status.as_ref(), kind).map(|c| JobResult {
            success,
            reason,
            message: c.message.clone().unwrap_or_default(),
        })
    };
    let reason = find(step.job.status.as_ref(), "FailureTarget").and_then(|c| c.reason.as_deref());
    let reason = if reason == Some("DeadlineExceeded") { "DeadlineExceeded" } else { "BackoffLimitExceeded" };
    earlier("FailureTarget", false, reason)
        .or_else(|| earlier("SuccessCriteriaMet", true, "CompletionsReached"))
        .or_else(|| backoff_limit_exceeded(step, outcomes))
        .or_else(|| deadline_exceeded(step, new))
        .or_else(|| completed(step, outcomes))
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
    exceeded.then(|| JobResult {
        success: false,
        reason: "BackoffLimitExceeded",
        message: "Job has reached the specified backoff limit".into(),
    })
}

fn deadline_exceeded(step: &JobSync<'_>, new: &JobStatus) -> Option<JobResult> {
    let seconds = step.spec.active_deadline_seconds?;
    let start = new.start_time.as_ref().filter(|_| step.spec.suspend != Some(true))?.0;
    (time::after_seconds(start, seconds) <= step.context.now).then(|| JobResult {
        success: false,
        reason: "DeadlineExceeded",
        message: "Job was active longer than specified deadline".into(),
    })
}

fn completed(step: &JobSync<'_>, outcomes: &Outcomes) -> Option<JobResult> {
    let reached = match step.spec.completions {
        Some(completions) if indexed(step.spec) => {
            i32::try_from(outcomes.done.len()).unwrap_or(i32::MAX) >= completions
        }
        Some(completions) => outcomes.succeeded >= completions,
        None => outcomes.succeeded > 0 && !step.pods.iter().any(|p| pods::active(p)),
    };
    reached.then(|| JobResult {
        success: true,
        reason: "CompletionsReached",
        message: "Reached expected number of succeeded pods".into(),
    })
}

/// Sets the conditions: SuccessCriteriaMet or FailureTarget at once, Complete or Failed when every pod has ended.
pub(super) fn conditions(step: &JobSync<'_>, new: &mut JobStatus, result: Option<&JobResult>, settled: bool) {
    let now = step.context.now;
    let mut conditions = new.conditions.take().unwrap_or_default();
    suspension(step, &mut conditions, new, now);
    if let Some(result) = result {
        let (first, last) =
            if result.success { ("SuccessCriteriaMet", "Complete") } else { ("FailureTarget", "Failed") };
        put(&mut conditions, first, "True", result.reason, &result.message, now);
        if settled {
            put(&mut conditions, last, "True", result.reason, &result.message, now);
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

/// Parses "1,3-5"; ignores what is not a number.
pub(super) fn parse_indexes(text: Option<&str>) -> BTreeSet<u32> {
    let mut set = BTreeSet::new();
    for part in text.unwrap_or_default().split(',').filter(|p| !p.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(from), Ok(to)) = (from.parse::<u32>(), to.parse::<u32>()) {
            // The API allows no more completions than this.
            set.extend(from..=to.min(from.saturating_add(100_000)));
        }
    }
    set
}

/// Formats as "1,3-5"; `None` for an empty set. Runs of two are listed, longer ones are ranges.
pub(super) fn format_indexes(set: &BTreeSet<u32>) -> Option<String> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for index in set {
        match runs.last_mut() {
            Some((_, last)) if last.saturating_add(1) == *index => *last = *index,
            _ => runs.push((*index, *index)),
        }
    }
    let text = |(from, to): &(u32, u32)| match to - from {
        0 => from.to_string(),
        1 => format!("{from},{to}"),
        _ => format!("{from}-{to}"),
    };
    let parts: Vec<String> = runs.iter().map(text).collect();
    (!parts.is_empty()).then(|| parts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_parsed_as_formatted() {
        let set: BTreeSet<u32> = [0, 2, 3, 5, 6, 7].into();
        let text = format_indexes(&set);
        assert_eq!(text.as_deref(), Some("0,2,3,5-7"));
        assert_eq!(parse_indexes(text.as_deref()), set);
        assert_eq!(format_indexes(&BTreeSet::new()), None);
        assert!(parse_indexes(Some("x,1-y")).is_empty());
    }
}
