//! CronJobs: a Job for each time of the schedule. PURE.
//! A Job's name follows from its time, so that no time is met twice; the status says which time was the last.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skep_api::cron::Schedule;
use skep_api::time;

use super::routing::{own_key, owner_keys};
use crate::action::{Action, Context, Controller, Delete, Failure, Propagation};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;

const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this are worth an Event.
const MANY_MISSED: i64 = 100;

pub struct CronJobs;

impl Controller for CronJobs {
    fn name(&self) -> &'static str {
        "cronjob"
    }

    fn account(&self) -> &'static str {
        "cronjob-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::CronJob, Kind::Job]
    }

    fn route(&self, change: &Change, _: &View, keys: &mut Vec<Key>) {
        own_key(change, Kind::CronJob, keys);
        if let Some(Object::Job(_)) = change.object() {
            owner_keys(change, Kind::CronJob, keys);
        }
    }

    fn reconcile(&self, view: &View, key: &Key, context: Context<'_>) -> Vec<Action> {
        let Some(cron) = view.cron_jobs.get(key) else { return Vec::new() };
        let spec = &cron.spec;
        let jobs: Vec<&Arc<Job>> = view.jobs.owned_by(meta::uid(&cron.metadata)).collect();
        let status = cron.status.clone().unwrap_or_default();
        let mut sync = CronJobSync { cron, spec, jobs, context, status, actions: Vec::new() };
        sync.decide();
        sync.actions
    }
}

struct CronJobSync<'a> {
    cron: &'a Arc<CronJob>,
    spec: &'a CronJobSpec,
    jobs: Vec<&'a Arc<Job>>,
    context: Context<'a>,
    status: CronJobStatus,
    actions: Vec<Action>,
}

/// The times of a schedule that are past and have no Job.
#[derive(Debug, PartialEq, Eq)]
struct Missed {
    latest: Timestamp,
    /// An estimate by the distance of the first two.
    count: i64,
}

impl CronJobSync<'_> {
    fn decide(&mut self) {
        self.observe();
        self.clean_up();
        if !meta::terminating(&self.cron.metadata) && self.spec.suspend != Some(true) {
            self.follow_schedule();
        }
        let old = self.cron.status.as_ref();
        if old.cloned().unwrap_or_default() != self.status {
            let key = Key::of(&self.cron.metadata);
            self.actions.push(Action::patch_status(Kind::CronJob, key, old, &self.status));
        }
    }

    /// Brings the list of active Jobs and the time of the last success up to date.
    fn observe(&mut self) {
        let known = self.status.active.take().unwrap_or_default();
        for reference in &known {
            let uid = reference.uid.as_deref().unwrap_or_default();
            let name = reference.name.as_deref().unwrap_or_default();
            match self.jobs.iter().find(|job| meta::uid(&job.metadata) == uid) {
                None => self.record(false, "MissingJob", format!("Active job went missing: {name}")),
                Some(job) => {
                    if let Some(condition) = end(job) {
                        let message = format!("Saw completed job: {name}, condition: {condition}");
                        self.record(false, "SawCompletedJob", message);
                    }
                }
            }
        }
        let mut active: Vec<&Arc<Job>> = self.jobs.iter().copied().filter(|job| end(job).is_none()).collect();
        active.sort_by(|a, b| by_start(a, b));
        self.status.active = Some(active.into_iter().map(|job| reference(job)).collect::<Vec<_>>());
        self.status.active = self.status.active.take().filter(|active| !active.is_empty());
        let succeeded = self.jobs.iter().filter(|job| end(job) == Some("Complete"));
        let ends = succeeded.filter_map(|job| job.status.as_ref()?.completion_time.clone());
        let last = ends.max_by_key(|at| at.0);
        if last.as_ref().map(|at| at.0) > self.status.last_successful_time.as_ref().map(|at| at.0) {
            self.status.last_successful_time = last;
        }
    }

    /// Deletes the oldest ended Jobs beyond the limits of the history.
    fn clean_up(&mut self) {
        let limits = [
            ("Complete", self.spec.successful_jobs_history_limit),
            ("Failed", self.spec.failed_jobs_history_limit),
        ];
        for (condition, limit) in limits {
            let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
            let mut ended: Vec<&Arc<Job>> =
                self.jobs.iter().copied().filter(|job| end(job) == Some(condition)).collect();
            ended.sort_by(|a, b| by_start(a, b));
            let surplus = ended.len().saturating_sub(limit);
            for job in ended.into_iter().take(surplus) {
                self.delete(job);
            }
        }
    }

    fn follow_schedule(&mut self) {
        let Some((schedule, zone)) = self.schedule() else { return };
        let now = self.context.now;
        if let Some(missed) = missed(&schedule, &zone, self.earliest(), now) {
            if missed.count > MANY_MISSED {
                let why = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
                self.record(true, "TooManyMissedTimes", why.to_owned());
            }
            self.start(missed.latest, &zone);
        }
        if let Some(next) = schedule.next(now, &zone) {
            self.actions.push(Action::RequeueAt(next));
        }
    }

    /// The schedule and its zone; UTC unless the CronJob names another.
    fn schedule(&mut self) -> Option<(Schedule, TimeZone)> {
        let text = &self.spec.schedule;
        let schedule = match Schedule::parse(text) {
            Ok(schedule) => schedule,
            Err(why) => {
                self.record(true, "UnparseableSchedule", format!("unparseable schedule: {text:?} : {why}"));
                return None;
            }
        };
        let Some(name) = self.spec.time_zone.as_deref().or(schedule.zone()) else {
            return Some((schedule, TimeZone::UTC));
        };
        match TimeZone::get(name) {
            Ok(zone) => Some((schedule, zone)),
            Err(why) => {
                self.record(true, "UnknownTimeZone", format!("invalid timeZone: {name:?}: {why}"));
                None
            }
        }
    }

    /// Times up to this one are met, or too late.
    fn earliest(&self) -> Timestamp {
        let last = self.status.last_schedule_time.as_ref().map(|at| at.0);
        let earliest = last.unwrap_or_else(|| meta::created(&self.cron.metadata));
        match self.deadline() {
            Some(deadline) => earliest.max(time::before(self.context.now, deadline)),
            None => earliest,
        }
    }

    fn deadline(&self) -> Option<Duration> {
        self.spec.starting_deadline_seconds.map(time::seconds_of)
    }

    fn start(&mut self, at: Timestamp, zone: &TimeZone) {
        let namespace = meta::namespace(&self.cron.metadata);
        let name = format!("{}-{}", meta::name(&self.cron.metadata), at.as_second() / 60);
        let is_met = self.jobs.iter().any(|job| meta::name(&job.metadata) == name);
        if is_met {
            self.status.last_schedule_time = Some(meta::time(at));
            return;
        }
        let policy = self.spec.concurrency_policy.as_deref();
        let active: Vec<&Arc<Job>> = self.jobs.iter().copied().filter(|job| end(job).is_none()).collect();
        if policy == Some("Forbid") && !active.is_empty() {
            let why = "Not starting job because prior execution is running and concurrency policy is Forbid";
            return self.record(false, "JobAlreadyActive", why.to_owned());
        }
        if policy == Some("Replace") {
            for job in active {
                self.delete(job);
            }
            self.status.active = None;
        }
        if let Some(Failure::Refused { message, .. }) = self.context.failure {
            self.record(true, "FailedCreate", format!("Error creating job: {message}"));
        }
        let template = self.spec.job_template.metadata.clone().unwrap_or_default();
        let mut annotations = template.annotations.unwrap_or_default();
        let shown = at.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
        annotations.insert(SCHEDULED.to_owned(), shown.replace("+00:00", "Z"));
        let job = Job {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.to_owned()),
                labels: template.labels,
                annotations: Some(annotations),
                owner_references: Some(vec![meta::controlled_by(Kind::CronJob, &self.cron.metadata)]),
                ..ObjectMeta::default()
            },
            spec: self.spec.job_template.spec.clone(),
            status: None,
        };
        self.actions.push(Action::Create(job.into()));
        self.record(false, "SuccessfulCreate", format!("Created job {name}"));
        self.status.last_schedule_time = Some(meta::time(at));
    }

    fn delete(&mut self, job: &Arc<Job>) {
        if meta::terminating(&job.metadata) {
            return;
        }
        self.actions.push(Action::Delete(Delete {
            kind: Kind::Job,
            key: Key::of(&job.metadata),
            uid: job.metadata.uid.clone(),
            grace_seconds: None,
            propagation: Some(Propagation::Background),
        }));
        self.record(false, "SuccessfulDelete", format!("Deleted job {}", meta::name(&job.metadata)));
    }

    fn record(&mut self, warning: bool, reason: &'static str, message: String) {
        let cron = Object::CronJob(self.cron.clone());
        self.actions.push(Action::record(&cron, warning, reason, message));
    }
}

/// The condition by which a Job has ended.
fn end(job: &Job) -> Option<&'static str> {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let has = |name: &str| conditions.iter().any(|c| c.type_ == name && c.status == "True");
    ["Complete", "Failed"].into_iter().find(|name| has(name))
}

/// By the time of the start; Jobs that did not start are the last ones.
fn by_start(a: &Job, b: &Job) -> Ordering {
    let start = |job: &Job| job.status.as_ref().and_then(|status| status.start_time.clone()).map(|at| at.0);
    let (a_start, b_start) = (start(a), start(b));
    a_start
        .is_none()
        .cmp(&b_start.is_none())
        .then(a_start.cmp(&b_start))
        .then_with(|| meta::name(&a.metadata).cmp(meta::name(&b.metadata)))
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        name: job.metadata.name.clone(),
        namespace: job.metadata.namespace.clone(),
        uid: job.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The latest time after `earliest` that is not after `now`. It is found from `now` backwards, in steps that double: a
/// schedule may have missed years.
fn missed(schedule: &Schedule, zone: &TimeZone, earliest: Timestamp, now: Timestamp) -> Option<Missed> {
    let first = schedule.next(earliest, zone).filter(|first| *first <= now)?;
    let Some(second) = schedule.next(first, zone).filter(|second| *second <= now) else {
        return Some(Missed { latest: first, count: 1 });
    };
    // Times are whole seconds.
    let between = (second.as_second() - first.as_second()).max(1);
    let count = (now.as_second() - first.as_second()) / between + 1;
    let mut span = Duration::from_secs(between.unsigned_abs()).saturating_mul(2);
    loop {
        let start = time::before(now, span).max(first);
        let mut latest = None;
        let mut next = schedule.next(start, zone);
        while let Some(at) = next.filter(|at| *at <= now) {
            latest = Some(at);
            next = schedule.next(at, zone);
        }
        if let Some(latest) = latest {
            return Some(Missed { latest, count });
        }
        if start == first {
            return Some(Missed { latest: first, count });
        }
        span = span.saturating_mul(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latest(schedule: &str, earliest: &str, now: &str) -> Option<(String, i64)> {
        let schedule = Schedule::parse(schedule).unwrap();
        let (earliest, now) = (earliest.parse().unwrap(), now.parse().unwrap());
        let missed = missed(&schedule, &TimeZone::UTC, earliest, now)?;
        Some((missed.latest.to_string(), missed.count))
    }

    #[test]
    fn the_latest_missed_time_is_found_however_long_the_gap() {
        let found = |at: &str, count| Some((at.to_owned(), count));
        for (schedule, earliest, now, wanted) in [
            ("0 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:59:59Z", None),
            ("0 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z", found("2026-01-01T01:00:00Z", 1)),
            ("0 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T05:10:00Z", found("2026-01-01T05:00:00Z", 5)),
            (
                "* * * * *",
                "2024-01-01T00:00:00Z",
                "2026-01-01T00:00:30Z",
                found("2026-01-01T00:00:00Z", 1_052_640),
            ),
            // The first two are a day apart, the next one six days later.
            (
                "0 0 * * MON,TUE",
                "2026-07-05T00:00:00Z",
                "2026-07-12T12:00:00Z",
                found("2026-07-07T00:00:00Z", 7),
            ),
            ("0 0 1 1 *", "2020-06-01T00:00:00Z", "2026-06-01T00:00:00Z", found("2026-01-01T00:00:00Z", 6)),
            (
                "@every 1h30m",
                "2026-01-01T00:00:00Z",
                "2026-01-01T04:00:00Z",
                found("2026-01-01T03:00:00Z", 2),
            ),
        ] {
            assert_eq!(latest(schedule, earliest, now), wanted, "{schedule} from {earliest} to {now}");
        }
    }
}
