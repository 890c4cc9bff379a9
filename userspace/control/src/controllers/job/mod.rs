//! Jobs: pods run to completion, counted exactly once. PURE.
//! Every pod has a finalizer until its outcome is in the Job's status: first its uid is written to
//! `uncountedTerminatedPods`, then the finalizer is removed, then the uid is counted.

mod status;
mod sync;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use serde_json::json;
use skep_api::time;

use self::sync::{JobSync, Outcomes, indexed};
use super::pods;
use super::routing::{own_key, owner_keys};
use crate::action::{Action, Context, Controller, Delete, Propagation};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;

const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const MIN_BACKOFF: Duration = Duration::from_secs(10);
const MAX_BACKOFF: Duration = Duration::from_secs(600);
/// Limit of pods that one reconcile creates.
const MAX_BURST: i32 = 500;

pub struct Jobs;

impl Controller for Jobs {
    fn name(&self) -> &'static str {
        "job"
    }

    fn route(&self, change: &Change, _: &View, keys: &mut Vec<Key>) {
        own_key(change, Kind::Job, keys);
        if let Some(Object::Pod(pod)) = change.object() {
            owner_keys(change, Kind::Job, keys);
            // The finalizer of a pod whose Job is gone must still be removed.
            if has_finalizer(pod) && !keys.is_empty() {
                own_key(change, Kind::Pod, keys);
            }
        }
    }

    fn reconcile(&self, view: &View, key: &Key, context: Context<'_>) -> Vec<Action> {
        let Some(job) = view.jobs.get(key) else {
            return orphan(view, key).into_iter().collect();
        };
        let Some(spec) = job.spec.as_ref().filter(|s| s.managed_by.is_none()) else { return Vec::new() };
        let pods: Vec<&Arc<Pod>> = view.pods.owned_by(meta::uid(&job.metadata)).collect();
        let mut step = JobSync { job, spec, pods, context, actions: Vec::new() };
        step.decide();
        step.actions
    }
}

/// Removes the finalizer of a pod whose Job no longer exists. The key is the pod's.
fn orphan(view: &View, key: &Key) -> Option<Action> {
    let pod = view.pods.get(key).filter(|p| has_finalizer(p))?;
    let owner = meta::controller_of(&pod.metadata)?;
    let job = view.jobs.get(&Key::new(&key.namespace, &owner.name));
    job.is_none_or(|j| meta::uid(&j.metadata) != owner.uid).then(|| release(pod))
}

fn has_finalizer(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

fn release(pod: &Pod) -> Action {
    let keep: Vec<_> = pod.metadata.finalizers.iter().flatten().filter(|f| *f != FINALIZER).collect();
    Action::Patch {
        kind: Kind::Pod,
        key: Key::of(&pod.metadata),
        patch: json!({"metadata": {
            "uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version, "finalizers": keep,
        }}),
        subresource: "",
    }
}

fn index_of(pod: &Pod) -> Option<u32> {
    meta::annotation(&pod.metadata, INDEX)?.parse().ok()
}

impl JobSync<'_> {
    fn decide(&mut self) {
        if let Some(at) = status::finished_at(self.job) {
            return self.finished(at);
        }
        let old = self.job.status.clone().unwrap_or_default();
        let (mut new, outcomes) = self.count(&old);
        let result = status::result_of(self, &new, &outcomes);
        let suspended = self.spec.suspend == Some(true);
        let active: Vec<&Arc<Pod>> = self.pods.iter().copied().filter(|p| pods::active(p)).collect();
        let surplus = if result.is_some() || suspended || meta::terminating(&self.job.metadata) {
            active.clone()
        } else {
            self.surplus(&active, &outcomes)
        };
        let settled = self.pods.iter().all(|p| pods::finished(p)) && outcomes.pending.is_empty();
        status::conditions(self, &mut new, result.as_ref(), settled);
        new.active = Some(i32::try_from(active.len()).unwrap_or(i32::MAX)).filter(|n| *n > 0);
        new.terminating = Some(self.terminating());
        new.ready = Some(i32::try_from(active.iter().filter(|p| pods::ready(p)).count()).unwrap_or(i32::MAX));
        if old != new {
            let key = Key::of(&self.job.metadata);
            self.actions.push(Action::patch_status(Kind::Job, key, self.job.status.as_ref(), &new));
        }
        for pod in self.pods.iter().filter(|p| has_finalizer(p)) {
            if listed(&old, meta::uid(&pod.metadata)) || self.is_uncounted(pod) {
                self.actions.push(release(pod));
            }
        }
        self.actions.extend(surplus.iter().map(|p| Action::delete(Object::Pod((*p).clone()))));
        if result.is_none() && !suspended && !meta::terminating(&self.job.metadata) {
            if surplus.is_empty() {
                self.create(&outcomes);
            }
            self.deadline(&new);
        }
    }

    /// Removes the finalizers of the pods of a finished Job, and deletes the Job after its TTL.
    fn finished(&mut self, at: Timestamp) {
        for pod in self.pods.iter().filter(|p| has_finalizer(p)) {
            self.actions.push(release(pod));
        }
        let Some(seconds) = self.spec.ttl_seconds_after_finished.filter(|s| *s >= 0) else {
            return;
        };
        let due = time::after_seconds(at, seconds);
        if due > self.context.now {
            self.actions.push(Action::RequeueAt(due));
        } else if !meta::terminating(&self.job.metadata) {
            self.actions.push(Action::Delete(Delete {
                kind: Kind::Job,
                key: Key::of(&self.job.metadata),
                uid: self.job.metadata.uid.clone(),
                grace_seconds: None,
                propagation: Some(Propagation::Foreground),
            }));
        }
    }

    /// A pod that never ran, or that is deleted because of its Job, does not count.
    fn is_uncounted(&self, pod: &Pod) -> bool {
        let unwanted = self.spec.suspend == Some(true) || meta::terminating(&self.job.metadata);
        meta::terminating(&pod.metadata)
            && !pods::finished(pod)
            && (unwanted || pods::node_name(pod).is_empty())
    }

    /// Whether the pod must end before it is replaced: by default a terminating pod is replaced at once.
    fn delays_replacement(&self, pod: &Pod) -> bool {
        let waits = self.spec.pod_replacement_policy.as_deref() == Some("Failed");
        !pods::finished(pod) && (waits || !meta::terminating(&pod.metadata))
    }

    fn terminating(&self) -> i32 {
        let terminating = self.pods.iter().filter(|p| meta::terminating(&p.metadata) && !pods::finished(p));
        i32::try_from(terminating.count()).unwrap_or(i32::MAX)
    }

    /// Counts outcomes: uids whose pods have lost the finalizer are added to the numbers, uids of finished pods are listed.
    fn count(&self, old: &JobStatus) -> (JobStatus, Outcomes) {
        let mut new = old.clone();
        new.start_time = new
            .start_time
            .or_else(|| (self.spec.suspend != Some(true)).then(|| meta::time(self.context.now)));
        let uncounted = old.uncounted_terminated_pods.clone().unwrap_or_default();
        let held: BTreeSet<&str> =
            self.pods.iter().filter(|p| has_finalizer(p)).map(|p| meta::uid(&p.metadata)).collect();
        let fold = |list: Option<Vec<String>>, total: &mut Option<i32>| -> Vec<String> {
            let (stay, counted): (Vec<_>, Vec<_>) =
                list.unwrap_or_default().into_iter().partition(|uid| held.contains(uid.as_str()));
            let sum = total.unwrap_or(0).saturating_add(i32::try_from(counted.len()).unwrap_or(i32::MAX));
            *total = Some(sum).filter(|n| *n > 0);
            stay
        };
        let mut succeeded = fold(uncounted.succeeded, &mut new.succeeded);
        let mut failed = fold(uncounted.failed, &mut new.failed);
        let mut done = status::parse_indexes(old.completed_indexes.as_deref());
        for pod in self.pods.iter().filter(|p| has_finalizer(p)) {
            let uid = meta::uid(&pod.metadata).to_owned();
            let known = succeeded.contains(&uid) || failed.contains(&uid);
            match pods::phase(pod) {
                "Succeeded" if !known => {
                    done.extend(index_of(pod).filter(|_| indexed(self.spec)));
                    succeeded.push(uid);
                }
                "Failed" if !known => failed.push(uid),
                _ => {}
            }
        }
        let outcomes = Outcomes {
            succeeded: new
                .succeeded
                .unwrap_or(0)
                .saturating_add(i32::try_from(succeeded.len()).unwrap_or(i32::MAX)),
            failed: new.failed.unwrap_or(0).saturating_add(i32::try_from(failed.len()).unwrap_or(i32::MAX)),
            pending: succeeded.iter().chain(&failed).cloned().collect(),
            done,
        };
        if indexed(self.spec) {
            new.completed_indexes = status::format_indexes(&outcomes.done);
        }
        new.uncounted_terminated_pods = Some(UncountedTerminatedPods {
            failed: Some(failed).filter(|l| !l.is_empty()),
            succeeded: Some(succeeded).filter(|l| !l.is_empty()),
        });
        (new, outcomes)
    }

    /// How many pods should run now.
    fn wanted(&self, outcomes: &Outcomes) -> i32 {
        let parallelism = self.spec.parallelism.unwrap_or(1);
        match self.spec.completions {
            Some(completions) => {
                let succeeded = if indexed(self.spec) {
                    i32::try_from(outcomes.done.len()).unwrap_or(0)
                } else {
                    outcomes.succeeded
                };
                parallelism.min(completions.saturating_sub(succeeded)).max(0)
            }
            // A work queue: once one pod has succeeded no new ones start.
            None if outcomes.succeeded > 0 => 0,
            None => parallelism,
        }
    }

    fn surplus<'p>(&self, active: &[&'p Arc<Pod>], outcomes: &Outcomes) -> Vec<&'p Arc<Pod>> {
        if self.spec.completions.is_none() && outcomes.succeeded > 0 {
            return Vec::new();
        }
        let wanted = usize::try_from(self.wanted(outcomes)).unwrap_or(0);
        let mut order: Vec<&Arc<Pod>> = active.to_vec();
        order.sort_by(|a, b| pods::deletion_order((a, 0), (b, 0), self.context.now));
        order.truncate(active.len().saturating_sub(wanted));
        order
    }

    fn create(&mut self, outcomes: &Outcomes) {
        let held = self.pods.iter().filter(|p| self.delays_replacement(p)).count();
        let missing =
            self.wanted(outcomes).saturating_sub(i32::try_from(held).unwrap_or(i32::MAX)).min(MAX_BURST);
        if missing <= 0 {
            return;
        }
        if let Some(at) = self.backoff(outcomes.failed)
            && at > self.context.now
        {
            return self.actions.push(Action::RequeueAt(at));
        }
        let names: Vec<Option<u32>> = if indexed(self.spec) {
            let busy: BTreeSet<u32> =
                self.pods.iter().filter(|p| self.delays_replacement(p)).filter_map(|p| index_of(p)).collect();
            let all = 0..u32::try_from(self.spec.completions.unwrap_or(0)).unwrap_or(0);
            all.filter(|i| !busy.contains(i) && !outcomes.done.contains(i)).map(Some).collect()
        } else {
            vec![None; usize::try_from(missing).unwrap_or(0)]
        };
        let take = usize::try_from(missing).unwrap_or(0);
        for (number, index) in names.into_iter().take(take).enumerate() {
            let pod = self.pod(number, index);
            let message = format!("Created pod: {}", meta::name(&pod.metadata));
            self.actions.push(Action::Create(pod.into()));
            if number == 0 {
                // One event for the batch: a thousand pods need no thousand events.
                let job = Object::Job(self.job.clone());
                self.actions.push(Action::record(&job, false, "SuccessfulCreate", message));
            }
        }
        // Neighbouring creates are sent together.
        self.actions.sort_by_key(|a| matches!(a, Action::Record(_)));
    }

    /// When the next pod may start after a failure.
    fn backoff(&self, failed: i32) -> Option<Timestamp> {
        let last = self.pods.iter().filter(|p| pods::phase(p) == "Failed").filter_map(|p| ended(p)).max()?;
        let doublings = u32::try_from(failed.saturating_sub(1)).unwrap_or(0).min(8);
        Some(time::after(last, (MIN_BACKOFF * 2_u32.pow(doublings)).min(MAX_BACKOFF)))
    }

    fn pod(&self, number: usize, index: Option<u32>) -> Pod {
        let name = meta::name(&self.job.metadata);
        let base = index.map_or_else(|| format!("{name}-"), |i| format!("{name}-{i}-"));
        let name_of_pod = meta::generated_name(&base, self.context.seed, number);
        let mut pod = pods::from_template(&self.spec.template, Kind::Job, &self.job.metadata, name_of_pod);
        let labels = pod.metadata.labels.get_or_insert_default();
        for (key, value) in [
            ("batch.kubernetes.io/job-name", name),
            ("job-name", name),
            ("batch.kubernetes.io/controller-uid", meta::uid(&self.job.metadata)),
            ("controller-uid", meta::uid(&self.job.metadata)),
        ] {
            labels.insert(key.into(), value.into());
        }
        pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.into());
        if let Some(index) = index {
            labels.insert(INDEX.into(), index.to_string());
            pod.metadata.annotations.get_or_insert_default().insert(INDEX.into(), index.to_string());
            if let Some(spec) = &mut pod.spec {
                spec.hostname.get_or_insert_with(|| format!("{name}-{index}"));
                spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(|c| {
                    let env = c.env.get_or_insert_default();
                    if !env.iter().any(|e| e.name == "JOB_COMPLETION_INDEX") {
                        env.push(index_variable());
                    }
                });
            }
        }
        pod
    }

    fn deadline(&mut self, new: &JobStatus) {
        if let (Some(start), Some(seconds)) = (&new.start_time, self.spec.active_deadline_seconds) {
            self.actions.push(Action::RequeueAt(time::after_seconds(start.0, seconds)));
        }
    }
}

fn index_variable() -> EnvVar {
    EnvVar {
        name: "JOB_COMPLETION_INDEX".into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: format!("metadata.labels['{INDEX}']"),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn listed(status: &JobStatus, uid: &str) -> bool {
    let uncounted = status.uncounted_terminated_pods.as_ref();
    uncounted
        .into_iter()
        .flat_map(|u| u.succeeded.iter().flatten().chain(u.failed.iter().flatten()))
        .any(|u| u == uid)
}

/// When the pod's last container terminated.
fn ended(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    statuses
        .filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|t| t.0))
        .max()
        .or_else(|| pods::condition(pod, "Ready")?.last_transition_time.as_ref().map(|t| t.0))
}
