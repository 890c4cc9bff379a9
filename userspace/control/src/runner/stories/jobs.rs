//! Stories of Jobs.

use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobStatus};
use serde_json::{Value, json};

use super::work_once;
use crate::cache::{Key, Kind, Object};
use crate::controllers::{self, pods};
use crate::runner::sim::Sim;

fn job(spec: Value) -> Job {
    let mut spec = spec;
    spec["template"] =
        json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}});
    serde_json::from_value(json!({"metadata": {"name": "j", "namespace": "ns"}, "spec": spec})).unwrap()
}

/// Runs the pods of a Job to their ends: the nth one fails if `fails(n)`.
fn run_job(sim: &mut Sim, rounds: usize, fails: impl Fn(usize) -> bool) -> JobStatus {
    let mut ended = 0;
    for _ in 0..rounds {
        for _ in 0..10 {
            work_once(sim);
        }
        if let Some(pod) = sim.pods().iter().find(|p| !pods::finished(p)) {
            let key = Key::of(&pod.metadata);
            let phase = if fails(ended) { "Failed" } else { "Succeeded" };
            ended += 1;
            sim.patch(Kind::Pod, &key, json!({"spec": {"nodeName": "n"}, "status": {"phase": phase}}));
        }
        sim.advance(Duration::from_secs(700));
    }
    match sim.get(Kind::Job, &Key::new("ns", "j")) {
        Some(Object::Job(j)) => j.status.clone().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn jobs() -> Sim {
    Sim::new(vec![Box::new(controllers::job::Jobs)])
}

fn ended(status: &JobStatus) -> Vec<&str> {
    status.conditions.iter().flatten().filter(|c| c.status == "True").map(|c| c.type_.as_str()).collect()
}

#[test]
fn a_job_counts_each_pod_once_and_completes() {
    let mut sim = jobs();
    sim.create(job(json!({"completions": 3, "parallelism": 2, "backoffLimit": 6})));
    let status = run_job(&mut sim, 8, |n| n == 1);
    assert_eq!((status.succeeded, status.failed), (Some(3), Some(1)));
    assert_eq!(ended(&status), ["SuccessCriteriaMet", "Complete"]);
    assert!(status.completion_time.is_some());
    let held = sim.pods().iter().filter(|p| p.metadata.finalizers.iter().flatten().next().is_some()).count();
    assert_eq!((sim.pods().len(), held), (4, 0));
}

#[test]
fn an_indexed_job_runs_each_index_until_it_succeeds() {
    let mut sim = jobs();
    sim.create(job(
        json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimit": 6}),
    ));
    let status = run_job(&mut sim, 8, |n| n == 0);
    assert_eq!(status.completed_indexes.as_deref(), Some("0-2"));
    assert_eq!((status.succeeded, status.failed), (Some(3), Some(1)));
}

#[test]
fn a_job_that_fails_too_often_fails() {
    let mut sim = jobs();
    sim.create(job(json!({"completions": 1, "parallelism": 1, "backoffLimit": 2})));
    let status = run_job(&mut sim, 8, |_| true);
    assert_eq!(status.failed, Some(3));
    assert_eq!(ended(&status), ["FailureTarget", "Failed"]);
}
