//! Stories of CronJobs. The simulated time begins at 2027-01-15T08:00:00Z.

use std::time::Duration;

use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use serde_json::{Value, json};

use super::work_once;
use crate::cache::{Key, Kind, Object};
use crate::controllers;
use crate::meta;
use crate::runner::sim::Sim;

const MINUTE: Duration = Duration::from_secs(60);

/// A CronJob of every five minutes.
fn sim(mut spec: Value) -> Sim {
    let mut sim = Sim::new(vec![Box::new(controllers::cron_job::CronJobs)]);
    spec["schedule"] = "*/5 * * * *".into();
    let pod = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}});
    spec["jobTemplate"] = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"template": pod}});
    let cron = json!({"metadata": {"name": "c", "namespace": "ns"}, "spec": spec});
    sim.create(serde_json::from_value::<CronJob>(cron).unwrap());
    sim
}

fn work(sim: &mut Sim) {
    for _ in 0..10 {
        work_once(sim);
    }
}

/// Minute by minute.
fn pass(sim: &mut Sim, minutes: usize) {
    for _ in 0..minutes {
        work(sim);
        sim.advance(MINUTE);
    }
    work(sim);
}

fn jobs(sim: &Sim) -> Vec<Job> {
    let objects = sim.all(Kind::Job).into_iter();
    objects
        .filter_map(|object| if let Object::Job(job) = object { Some((*job).clone()) } else { None })
        .collect()
}

fn names(sim: &Sim) -> Vec<String> {
    jobs(sim).iter().map(|job| meta::name(&job.metadata).to_owned()).collect()
}

fn status(sim: &Sim) -> CronJobStatus {
    match sim.get(Kind::CronJob, &Key::new("ns", "c")) {
        Some(Object::CronJob(cron)) => cron.status.clone().unwrap_or_default(),
        other => panic!("{other:?}"),
    }
}

/// Ends every Job that runs.
fn end(sim: &mut Sim, condition: &str) {
    for job in jobs(sim) {
        let is_over = job.status.as_ref().is_some_and(|status| status.conditions.is_some());
        if !is_over {
            let at = meta::time(sim.now);
            let status = json!({
                "startTime": at, "completionTime": (condition == "Complete").then_some(&at),
                "conditions": [{"type": condition, "status": "True"}],
            });
            sim.patch(Kind::Job, &Key::of(&job.metadata), json!({"status": status}));
        }
    }
    work(sim);
}

fn reasons(sim: &Sim) -> Vec<&'static str> {
    sim.records.iter().map(|record| record.reason).collect()
}

#[test]
fn each_time_of_the_schedule_has_one_job_and_the_history_is_bounded() {
    let mut sim = sim(json!({"successfulJobsHistoryLimit": 2, "failedJobsHistoryLimit": 1}));
    pass(&mut sim, 4);
    assert_eq!(names(&sim), [] as [&str; 0]);
    pass(&mut sim, 2);
    assert_eq!(names(&sim), ["c-30000005"]);
    let job = &jobs(&sim)[0];
    assert_eq!(
        meta::annotation(&job.metadata, "batch.kubernetes.io/cronjob-scheduled-timestamp"),
        Some("2027-01-15T08:05:00Z")
    );
    assert_eq!(meta::label(&job.metadata, "app"), Some("x"));
    assert_eq!(meta::controller_of(&job.metadata).map(|owner| owner.kind.as_str()), Some("CronJob"));
    let active = status(&sim).active.unwrap();
    assert_eq!(active[0].name.as_deref(), Some("c-30000005"));
    for condition in ["Complete", "Failed", "Complete", "Failed", "Complete"] {
        end(&mut sim, condition);
        assert_eq!(status(&sim).active, None);
        pass(&mut sim, 5);
    }
    // Two that succeeded, one that failed, one that runs.
    assert_eq!(names(&sim), ["c-30000015", "c-30000020", "c-30000025", "c-30000030"]);
    let status = status(&sim);
    assert_eq!(status.last_schedule_time.unwrap().0.to_string(), "2027-01-15T08:30:00Z");
    assert_eq!(status.last_successful_time.unwrap().0.to_string(), "2027-01-15T08:26:00Z");
}

#[test]
fn a_job_that_runs_forbids_or_yields_to_the_next_one() {
    let mut forbidding = sim(json!({"concurrencyPolicy": "Forbid"}));
    pass(&mut forbidding, 13);
    assert_eq!(names(&forbidding), ["c-30000005"]);
    assert!(reasons(&forbidding).contains(&"JobAlreadyActive"));
    // The latest time that was missed is met as soon as it can be.
    end(&mut forbidding, "Complete");
    assert_eq!(names(&forbidding), ["c-30000005", "c-30000010"]);

    let mut replacing = sim(json!({"concurrencyPolicy": "Replace"}));
    pass(&mut replacing, 13);
    assert_eq!(names(&replacing), ["c-30000010"]);
    assert!(reasons(&replacing).contains(&"SuccessfulDelete"));

    let mut allowing = sim(json!({"concurrencyPolicy": "Allow"}));
    pass(&mut allowing, 13);
    assert_eq!(names(&allowing), ["c-30000005", "c-30000010"]);
}

#[test]
fn a_time_that_is_too_late_has_no_job() {
    let mut sim = sim(json!({"suspend": true, "startingDeadlineSeconds": 90}));
    pass(&mut sim, 12);
    assert_eq!(names(&sim), [] as [&str; 0], "suspended");
    sim.patch(Kind::CronJob, &Key::new("ns", "c"), json!({"spec": {"suspend": false}}));
    work(&mut sim);
    assert_eq!(names(&sim), [] as [&str; 0], "08:10 is two minutes past");
    pass(&mut sim, 4);
    assert_eq!(names(&sim), ["c-30000015"]);
}

#[test]
fn after_a_long_pause_only_the_latest_time_is_met_and_an_event_says_so() {
    let mut sim = sim(json!({"suspend": true}));
    work(&mut sim);
    sim.advance(MINUTE * 60 * 24);
    sim.patch(Kind::CronJob, &Key::new("ns", "c"), json!({"spec": {"suspend": false}}));
    work(&mut sim);
    assert_eq!(names(&sim), ["c-30001440"]);
    assert!(reasons(&sim).contains(&"TooManyMissedTimes"));
}

#[test]
fn a_refused_job_is_an_event_and_is_created_later() {
    let mut sim = sim(json!({}));
    sim.refused = Some(Kind::Job);
    pass(&mut sim, 6);
    assert!(reasons(&sim).contains(&"FailedCreate"));
    assert_eq!(status(&sim).last_schedule_time, None);
    sim.refused = None;
    pass(&mut sim, 3);
    assert_eq!(names(&sim), ["c-30000005"]);
}
