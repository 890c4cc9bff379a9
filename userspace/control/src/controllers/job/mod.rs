//! Jobs: pods run to completion, counted exactly once. PURE.
//! Every pod has a finalizer until its outcome is in the Job's status: first its uid is written to
//! `uncountedTerminatedPods`, then the finalizer is removed, then the uid is counted.

mod claims;
mod indexes;
mod policy;
mod status;
mod sync;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use serde_json::json;
use skep_api::time;

use self::claims::FINALIZER;
use self::indexes::Indexes;
use self::policy::{FailureAction, fails_index, failure_action, failures_after};
use self::sync::{JobSync, Outcomes, index_count, indexed, limit_per_index};
use super::pods;
use super::routing::{own_key, owner_keys};
use crate::action::{Action, Context, Controller, Delete, Propagation};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;

pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const MIN_BACKOFF: Duration = Duration::from_secs(10);
const MAX_BACKOFF: Duration = Duration::from_secs(600);
/// Limit of pods that one reconcile creates.
const MAX_BURST: i32 = 500;

pub struct Jobs;

impl Controller for Jobs {
    fn name(&self) -> &'static str {
        "job"
    }

    fn account(&self) -> &'static str {
        "job-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Job, Kind::Pod]
    }

    fn route(&self, change: &Change, view: &View, keys: &mut Vec<Key>) {
        own_key(change, Kind::Job, keys);
        if let Some(Object::Pod(pod)) = change.object() {
            owner_keys(change, Kind::Job, keys);
            keys.extend(claims::adopters(view, pod).map(|job| Key::of(&job.metadata)));
            // The finalizer of a pod whose Job is gone must still be removed, as that of a pod without an owner.
            if has_finalizer(pod) {
                own_key(change, Kind::Pod, keys);
            }
        }
    }

    fn reconcile(&self, view: &View, key: &Key, context: Context<'_>) -> Vec<Action> {
        let Some(job) = view.jobs.get(key) else {
            return orphan(view, key).into_iter().collect();
        };
        let Some(spec) = job.spec.as_ref().filter(|s| s.managed_by.is_none()) else { return Vec::new() };
        let mut claims = Vec::new();
        let pods = claims::claim(view, job, &mut claims);
        if !claims.is_empty() {
            // Count when the claims are answered.
            return claims;
        }
        let mut step = JobSync { job, spec, pods, context, actions: Vec::new() };
        step.decide();
        step.actions
    }
}

/// Removes the finalizer of a pod that no Job controls or will adopt. The key is the pod's.
fn orphan(view: &View, key: &Key) -> Option<Action> {
    let pod = view.pods.get(key).filter(|p| has_finalizer(p))?;
    let owner = meta::controller_of(&pod.metadata).filter(|owner| owner.kind == "Job");
    let job = owner.and_then(|owner| {
        let job = view.jobs.get(&Key::new(&key.namespace, &owner.name))?;
        (meta::uid(&job.metadata) == owner.uid).then_some(job)
    });
    let is_adopted = claims::adopters(view, pod).next().is_some();
    (job.is_none() && !is_adopted).then(|| release(pod))
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
        let surplus = if result.is_some() || suspended {
            active.clone()
        } else if meta::terminating(&self.job.metadata) {
            // The garbage collector deletes the pods, or leaves them as orphans.
            Vec::new()
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
            let held = result.is_none() && is_replaced(&outcomes, pod);
            if !held && (listed(&old, meta::uid(&pod.metadata)) || self.is_uncounted(pod)) {
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

    /// A pod that never ran, that is deleted because of its Job, or whose failure the policy ignores does not count.
    fn is_uncounted(&self, pod: &Pod) -> bool {
        if pods::phase(pod) == "Failed" {
            return failure_action(self.spec, pod) == FailureAction::Ignore;
        }
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
        let mut completed = BTreeSet::new();
        for pod in self.pods.iter().filter(|p| has_finalizer(p)) {
            let uid = meta::uid(&pod.metadata).to_owned();
            let known = succeeded.contains(&uid) || failed.contains(&uid);
            match pods::phase(pod) {
                "Succeeded" if !known => {
                    completed.extend(self.valid_index(pod));
                    succeeded.push(uid);
                }
                "Failed" if !known && !self.is_uncounted(pod) => failed.push(uid),
                _ => {}
            }
        }
        let done = self.recorded(old.completed_indexes.as_deref()).union(&Indexes::from_iter(completed));
        let lost = self.recorded(old.failed_indexes.as_deref()).union(&self.lost_indexes());
        let outcomes = Outcomes {
            succeeded: new
                .succeeded
                .unwrap_or(0)
                .saturating_add(i32::try_from(succeeded.len()).unwrap_or(i32::MAX)),
            failed: new.failed.unwrap_or(0).saturating_add(i32::try_from(failed.len()).unwrap_or(i32::MAX)),
            pending: succeeded.iter().chain(&failed).cloned().collect(),
            replaced: self.replaced(&done, &lost),
            done,
            lost,
        };
        if indexed(self.spec) {
            new.completed_indexes = Some(outcomes.done.to_string()).filter(|text| !text.is_empty());
            new.failed_indexes = limit_per_index(self.spec).map(|_| outcomes.lost.to_string());
        }
        new.uncounted_terminated_pods = Some(UncountedTerminatedPods {
            failed: Some(failed).filter(|l| !l.is_empty()),
            succeeded: Some(succeeded).filter(|l| !l.is_empty()),
        });
        (new, outcomes)
    }

    /// The index of a pod of an indexed Job, unless the Job has no such index.
    fn valid_index(&self, pod: &Pod) -> Option<u32> {
        index_of(pod).filter(|index| *index < index_count(self.spec))
    }

    /// Indexes as the status has them.
    fn recorded(&self, text: Option<&str>) -> Indexes {
        Indexes::parse(text.unwrap_or_default(), index_count(self.spec))
    }

    /// The indexes whose last failed pod was one too many.
    fn lost_indexes(&self) -> Indexes {
        let Some(limit) = limit_per_index(self.spec) else { return Indexes::default() };
        let failed = self.pods.iter().filter(|p| has_finalizer(p) && pods::phase(p) == "Failed");
        let lost = failed.filter(|p| fails_index(self.spec, limit, p));
        Indexes::from_iter(lost.filter_map(|p| self.valid_index(p)))
    }

    /// See [`Outcomes::replaced`].
    fn replaced(&self, done: &Indexes, lost: &Indexes) -> BTreeMap<u32, Arc<Pod>> {
        let mut replaced: BTreeMap<u32, Arc<Pod>> = BTreeMap::new();
        if limit_per_index(self.spec).is_none() {
            return replaced;
        }
        let active: BTreeSet<u32> =
            self.pods.iter().filter(|p| pods::active(p)).filter_map(|p| self.valid_index(p)).collect();
        let failed = self.pods.iter().filter(|p| has_finalizer(p) && pods::phase(p) == "Failed");
        for (pod, index) in failed.filter_map(|p| Some((*p, self.valid_index(p)?))) {
            if done.contains(index) || lost.contains(index) || active.contains(&index) {
                continue;
            }
            let newer = replaced.get(&index).is_none_or(|other| ended(other) <= ended(pod));
            if newer {
                replaced.insert(index, pod.clone());
            }
        }
        replaced
    }

    /// How many pods should run now.
    fn wanted(&self, outcomes: &Outcomes) -> i32 {
        let parallelism = self.spec.parallelism.unwrap_or(1);
        match self.spec.completions {
            Some(completions) => {
                let succeeded = if indexed(self.spec) {
                    i32::try_from(outcomes.done.total()).unwrap_or(i32::MAX)
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
        if limit_per_index(self.spec).is_none()
            && let Some(at) = self.backoff(outcomes.failed)
            && at > self.context.now
        {
            return self.actions.push(Action::RequeueAt(at));
        }
        let take = usize::try_from(missing).unwrap_or(0).min(pods::burst(&self.spec.template));
        let pods: Vec<Pod> = if indexed(self.spec) {
            let indexes = self.startable(outcomes, take);
            let numbered = indexes.into_iter().enumerate();
            numbered.map(|(number, index)| self.indexed_pod(number, index, outcomes)).collect()
        } else {
            (0..take).map(|number| self.pod(number, None)).collect()
        };
        let first = pods.first().map(|pod| meta::name(&pod.metadata).to_owned());
        self.actions.extend(pods.into_iter().map(|pod| Action::Create(pod.into())));
        if let Some(name) = first {
            // One event for the batch: a thousand pods need no thousand events.
            let job = Object::Job(self.job.clone());
            let message = format!("Created pod: {name}");
            self.actions.push(Action::record(&job, false, "SuccessfulCreate", message));
        }
    }

    /// The first indexes that have no pod, are not decided and need not wait after a failure.
    fn startable(&mut self, outcomes: &Outcomes, count: usize) -> Vec<u32> {
        let busy = self.pods.iter().filter(|p| self.delays_replacement(p)).filter_map(|p| index_of(p));
        let taken = Indexes::from_iter(busy).union(&outcomes.done).union(&outcomes.lost);
        let indexes = taken.first_missing(count, index_count(self.spec));
        let due = |index: &u32| {
            let failed = outcomes.replaced.get(index)?;
            let (counted, ignored) = failures_after(self.spec, Some(failed));
            Some(time::after(ended(failed)?, backoff_after(counted.saturating_add(ignored))))
        };
        let now = self.context.now;
        let (ready, waiting): (Vec<u32>, Vec<u32>) =
            indexes.into_iter().partition(|index| due(index).is_none_or(|due| due <= now));
        if let Some(next) = waiting.iter().filter_map(due).min() {
            self.actions.push(Action::RequeueAt(next));
        }
        ready
    }

    /// When the next pod may start after a failure.
    fn backoff(&self, failed: i32) -> Option<Timestamp> {
        let last = self.pods.iter().filter(|p| pods::phase(p) == "Failed").filter_map(|p| ended(p)).max()?;
        Some(time::after(last, backoff_after(failed)))
    }

    /// A pod that carries the failure counts of its index.
    fn indexed_pod(&self, number: usize, index: u32, outcomes: &Outcomes) -> Pod {
        let mut pod = self.pod(number, Some(index));
        if limit_per_index(self.spec).is_some() {
            let failed = outcomes.replaced.get(&index).map(AsRef::as_ref);
            let (counted, ignored) = failures_after(self.spec, failed);
            let annotations = pod.metadata.annotations.get_or_insert_default();
            annotations.insert(policy::FAILURES.into(), counted.to_string());
            if ignored > 0 {
                annotations.insert(policy::IGNORED_FAILURES.into(), ignored.to_string());
            }
        }
        pod
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

/// Whether the pod carries the failure count of an index whose next pod does not exist yet.
fn is_replaced(outcomes: &Outcomes, pod: &Pod) -> bool {
    let carrier = index_of(pod).and_then(|index| outcomes.replaced.get(&index));
    carrier.is_some_and(|carrier| carrier.metadata.uid == pod.metadata.uid)
}

/// The pause after a number of failures.
fn backoff_after(failures: i32) -> Duration {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(0).min(8);
    (MIN_BACKOFF * 2_u32.pow(doublings)).min(MAX_BACKOFF)
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
