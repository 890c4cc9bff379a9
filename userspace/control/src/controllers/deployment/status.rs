//! The status of a Deployment: counts, and the conditions that `kubectl rollout status` follows. PURE.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus, ReplicaSet};
use skep_api::time;

use super::rollout;
use super::step::DeploymentSync;
use crate::action::Action;
use crate::cache::{Key, Kind};
use crate::meta;

const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

fn find<'a>(conditions: &'a [DeploymentCondition], kind: &str) -> Option<&'a DeploymentCondition> {
    conditions.iter().find(|c| c.type_ == kind)
}

/// Whether every replica is new and available.
pub(super) fn complete(step: &DeploymentSync<'_>) -> bool {
    complete_in(&counts(step), step)
}

fn complete_in(status: &DeploymentStatus, step: &DeploymentSync<'_>) -> bool {
    let target = rollout::replicas(step.spec);
    status.updated_replicas.unwrap_or(0) == target
        && status.replicas.unwrap_or(0) == target
        && status.available_replicas.unwrap_or(0) == target
}

/// Writes the status if it changed, and requeues for the end of the progress deadline.
pub(super) fn sync(step: &mut DeploymentSync<'_>) {
    let old = step.deployment.status.clone().unwrap_or_default();
    let mut new = counts(step);
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let now = step.context.now;
    if !meta::terminating(&step.deployment.metadata) {
        available(step, &new, &mut conditions, now);
        progress(step, &old, &new, &mut conditions, now);
        replica_failure(step, &mut conditions, now);
    }
    let deadline = deadline(step, &new, &conditions);
    new.conditions = Some(conditions).filter(|c| !c.is_empty());
    if step.deployment.status.as_ref() != Some(&new) {
        let key = Key::of(&step.deployment.metadata);
        step.actions.push(Action::patch_status(Kind::Deployment, key, step.deployment.status.as_ref(), &new));
    }
    step.actions.extend(deadline.map(Action::RequeueAt));
}

/// Zero is left out, as the server stores it.
fn some(n: i32) -> Option<i32> {
    Some(n).filter(|n| *n != 0)
}

fn counts(step: &DeploymentSync<'_>) -> DeploymentStatus {
    let old = step.deployment.status.as_ref();
    let sum = |f: fn(&ReplicaSet) -> i32| step.sets.iter().map(|s| f(s)).fold(0, i32::saturating_add);
    let available = sum(rollout::available);
    let desired = sum(rollout::desired);
    let mut collisions = old.and_then(|s| s.collision_count);
    if step.collided {
        collisions = Some(collisions.unwrap_or(0).saturating_add(1));
    }
    DeploymentStatus {
        observed_generation: step.deployment.metadata.generation,
        replicas: some(sum(|s| s.status.as_ref().map_or(0, |st| st.replicas))),
        updated_replicas: some(step.new.as_ref().and_then(|s| s.status.as_ref()).map_or(0, |st| st.replicas)),
        ready_replicas: some(sum(|s| s.status.as_ref().and_then(|st| st.ready_replicas).unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some(desired.saturating_sub(available).max(0)),
        terminating_replicas: Some(sum(|s| {
            s.status.as_ref().and_then(|st| st.terminating_replicas).unwrap_or(0)
        })),
        collision_count: collisions,
        conditions: old.and_then(|s| s.conditions.clone()),
    }
}

/// Sets a condition. The transition time changes only with the status; nothing changes if status and reason stay.
fn put(
    conditions: &mut Vec<DeploymentCondition>,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let before = find(conditions, kind).cloned();
    if before.as_ref().is_some_and(|c| c.status == status && c.reason.as_deref() == Some(reason)) {
        return;
    }
    replace(conditions, before.as_ref(), kind, status, reason, message, now);
}

fn replace(
    conditions: &mut Vec<DeploymentCondition>,
    before: Option<&DeploymentCondition>,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let since = before.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    let condition = DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: Some(meta::time(now)),
        last_transition_time: since.or_else(|| Some(meta::time(now))),
    };
    conditions.retain(|c| c.type_ != kind);
    conditions.push(condition);
}

fn available(
    step: &DeploymentSync<'_>,
    new: &DeploymentStatus,
    conditions: &mut Vec<DeploymentCondition>,
    now: Timestamp,
) {
    let min_available = rollout::replicas(step.spec) - step.bounds.unavailable;
    if new.available_replicas.unwrap_or(0) >= min_available {
        let message = "Deployment has minimum availability.";
        put(conditions, "Available", "True", "MinimumReplicasAvailable", message, now);
    } else {
        let message = "Deployment does not have minimum availability.";
        put(conditions, "Available", "False", "MinimumReplicasUnavailable", message, now);
    }
}

fn progress(
    step: &DeploymentSync<'_>,
    old: &DeploymentStatus,
    new: &DeploymentStatus,
    conditions: &mut Vec<DeploymentCondition>,
    now: Timestamp,
) {
    if !has_deadline(step) {
        return conditions.retain(|c| c.type_ != "Progressing");
    }
    let current = find(conditions, "Progressing").cloned();
    let reason = current.as_ref().and_then(|c| c.reason.as_deref());
    if step.spec.paused == Some(true) {
        if reason != Some(TIMED_OUT) {
            put(conditions, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", now);
        }
        return;
    }
    if reason == Some("DeploymentPaused") {
        put(conditions, "Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", now);
    }
    if let Some((reason, message)) = &step.progress {
        let status = if *reason == "ReplicaSetCreateError" { "False" } else { "True" };
        return put(conditions, "Progressing", status, reason, message, now);
    }
    if new.replicas == new.updated_replicas && reason == Some(COMPLETE) && step.new.is_some() {
        // A finished rollout stays finished; pods lost later concern only the Available condition.
        return;
    }
    let subject = match &step.new {
        Some(set) => format!("ReplicaSet {:?}", meta::name(&set.metadata)),
        None => format!("Deployment {:?}", meta::name(&step.deployment.metadata)),
    };
    if step.new.is_some() && complete_in(new, step) {
        put(
            conditions,
            "Progressing",
            "True",
            COMPLETE,
            &format!("{subject} has successfully progressed."),
            now,
        );
    } else if has_progressed(old, new) {
        let message = format!("{subject} is progressing.");
        let before = find(conditions, "Progressing").cloned();
        replace(conditions, before.as_ref(), "Progressing", "True", "ReplicaSetUpdated", &message, now);
    } else if expired(step, conditions, now) {
        put(
            conditions,
            "Progressing",
            "False",
            TIMED_OUT,
            &format!("{subject} has timed out progressing."),
            now,
        );
    }
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |v: Option<i32>| v.unwrap_or(0);
    let old_remaining = n(old.replicas).saturating_sub(n(old.updated_replicas));
    let new_remaining = n(new.replicas).saturating_sub(n(new.updated_replicas));
    n(new.updated_replicas) > n(old.updated_replicas)
        || new_remaining < old_remaining
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

fn has_deadline(step: &DeploymentSync<'_>) -> bool {
    step.spec.progress_deadline_seconds.is_some_and(|s| s != i32::MAX)
}

fn deadline_of(step: &DeploymentSync<'_>, conditions: &[DeploymentCondition]) -> Option<Timestamp> {
    let since = find(conditions, "Progressing")?.last_update_time.as_ref()?.0;
    Some(time::after_seconds(since, step.spec.progress_deadline_seconds?))
}

fn expired(step: &DeploymentSync<'_>, conditions: &[DeploymentCondition], now: Timestamp) -> bool {
    match find(conditions, "Progressing").and_then(|c| c.reason.as_deref()) {
        Some(COMPLETE) => false,
        Some(TIMED_OUT) => true,
        _ => deadline_of(step, conditions).is_some_and(|at| at < now),
    }
}

/// When to check whether the rollout has stalled.
fn deadline(
    step: &DeploymentSync<'_>,
    new: &DeploymentStatus,
    conditions: &[DeploymentCondition],
) -> Option<Timestamp> {
    let reason = find(conditions, "Progressing")?.reason.as_deref();
    let settled = matches!(reason, Some(COMPLETE | TIMED_OUT | "DeploymentPaused"));
    if !has_deadline(step) || settled || complete_in(new, step) {
        return None;
    }
    // Times in conditions are whole seconds; one more second is surely after the deadline.
    deadline_of(step, conditions).map(|at| time::after_seconds(at, 1))
}

fn replica_failure(step: &DeploymentSync<'_>, conditions: &mut Vec<DeploymentCondition>, now: Timestamp) {
    let failed = step.new.iter().chain(&step.sets).find_map(|s| {
        s.status
            .as_ref()?
            .conditions
            .as_ref()?
            .iter()
            .find(|c| c.type_ == "ReplicaFailure" && c.status == "True")
    });
    match (failed, &step.progress) {
        (Some(c), _) => put(
            conditions,
            "ReplicaFailure",
            "True",
            c.reason.as_deref().unwrap_or("FailedCreate"),
            c.message.as_deref().unwrap_or_default(),
            now,
        ),
        (None, Some(("ReplicaSetCreateError", message))) => {
            put(conditions, "ReplicaFailure", "True", "FailedCreate", message, now);
        }
        (None, _) => conditions.retain(|c| c.type_ != "ReplicaFailure"),
    }
}
