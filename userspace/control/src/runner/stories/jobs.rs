//! Stories of Jobs.

use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::work_once;
use crate::cache::{Key, Kind, Object};
use crate::controllers::job::INDEX;
use crate::controllers::{self, pods};
use crate::meta;
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

/// Gives the pod of an index a phase, conditions and the exit code of its container.
fn end(sim: &mut Sim, index: u32, phase: &str, condition: &str, code: i32) {
    let of_index = |pod: &Pod| {
        !pods::finished(pod) && meta::annotation(&pod.metadata, INDEX) == Some(&index.to_string())
    };
    let pod =
        sim.pods().iter().find(|p| of_index(p)).cloned().unwrap_or_else(|| panic!("no pod of index {index}"));
    let status = json!({
        "phase": phase,
        "conditions": [{"type": condition, "status": "True"}],
        "containerStatuses": [{
            "name": "c", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": code}},
        }],
    });
    sim.patch(Kind::Pod, &Key::of(&pod.metadata), json!({"spec": {"nodeName": "n"}, "status": status}));
    settle(sim);
}

/// Longer than any back-off.
fn settle(sim: &mut Sim) {
    for _ in 0..10 {
        work_once(sim);
    }
    sim.advance(Duration::from_secs(700));
    for _ in 0..10 {
        work_once(sim);
    }
}

fn status(sim: &Sim) -> JobStatus {
    match sim.get(Kind::Job, &Key::new("ns", "j")) {
        Some(Object::Job(job)) => job.status.clone().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn indexed_job(fields: Value) -> Sim {
    let mut spec =
        json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimit": 6});
    spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let mut sim = jobs();
    sim.create(job(spec));
    settle(&mut sim);
    sim
}

#[test]
fn an_index_fails_alone_and_the_others_complete() {
    let mut sim = indexed_job(json!({"backoffLimitPerIndex": 1, "backoffLimit": i32::MAX}));
    end(&mut sim, 1, "Failed", "x", 1);
    assert_eq!(status(&sim).failed_indexes.as_deref(), Some(""));
    end(&mut sim, 1, "Failed", "x", 1);
    assert_eq!(status(&sim).failed_indexes.as_deref(), Some("1"));
    end(&mut sim, 0, "Succeeded", "x", 0);
    end(&mut sim, 2, "Succeeded", "x", 0);
    let status = status(&sim);
    assert_eq!(
        (status.completed_indexes.as_deref(), status.failed, status.succeeded),
        (Some("0,2"), Some(2), Some(2))
    );
    assert_eq!(ended(&status), ["FailureTarget", "Failed"]);
    let reasons = status.conditions.iter().flatten().filter_map(|condition| condition.reason.as_deref());
    assert!(reasons.clone().all(|reason| reason == "FailedIndexes"), "{:?}", reasons.collect::<Vec<_>>());
}

#[test]
fn too_many_failed_indexes_end_the_job() {
    let mut sim =
        indexed_job(json!({"backoffLimitPerIndex": 0, "maxFailedIndexes": 0, "backoffLimit": i32::MAX}));
    end(&mut sim, 0, "Failed", "x", 1);
    assert_eq!(status(&sim).conditions.unwrap()[0].reason.as_deref(), Some("MaxFailedIndexesExceeded"));
}

#[test]
fn a_disrupted_pod_is_replaced_without_a_count() {
    let rules =
        json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]);
    let mut sim = indexed_job(json!({"podFailurePolicy": {"rules": rules}, "backoffLimit": 0}));
    end(&mut sim, 0, "Failed", "DisruptionTarget", 137);
    assert_eq!((status(&sim).failed, status(&sim).active), (None, Some(3)));
    end(&mut sim, 0, "Failed", "Ready", 1);
    assert_eq!(status(&sim).conditions.unwrap()[0].reason.as_deref(), Some("BackoffLimitExceeded"));
}

#[test]
fn a_policy_fails_the_job_and_says_why() {
    let rules = json!([{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]);
    let mut sim = indexed_job(json!({"podFailurePolicy": {"rules": rules}}));
    end(&mut sim, 2, "Failed", "x", 42);
    let conditions = status(&sim).conditions.unwrap();
    assert_eq!(conditions[0].reason.as_deref(), Some("PodFailurePolicy"));
    let message = conditions[0].message.as_deref().unwrap();
    assert!(message.ends_with("failed with exit code 42 matching FailJob rule at index 0"), "{message}");
}

#[test]
fn a_success_policy_completes_the_job_and_ends_its_other_pods() {
    let mut sim = indexed_job(json!({"successPolicy": {"rules": [{"succeededIndexes": "0"}]}}));
    end(&mut sim, 0, "Succeeded", "x", 0);
    assert_eq!(ended(&status(&sim)), ["SuccessCriteriaMet"], "its other pods still run");
    let ending: Vec<Key> =
        sim.pods().iter().filter(|p| !pods::finished(p)).map(|p| Key::of(&p.metadata)).collect();
    ending.iter().for_each(|key| sim.kubelet(key, "n1", true));
    settle(&mut sim);
    let status = status(&sim);
    assert_eq!(ended(&status), ["SuccessCriteriaMet", "Complete"]);
    assert!(status.conditions.iter().flatten().all(|c| c.reason.as_deref() == Some("SuccessPolicy")));
    assert_eq!(sim.pods().iter().filter(|p| pods::active(p)).count(), 0);
}

#[test]
fn the_finalizer_of_a_pod_without_an_owner_is_removed() {
    let mut sim = jobs();
    sim.create(job(json!({"completions": 1, "parallelism": 1, "backoffLimit": 6})));
    work_once(&mut sim);
    let key = Key::of(&sim.pods()[0].metadata);
    sim.patch(Kind::Pod, &key, json!({"metadata": {"ownerReferences": null}}));
    settle(&mut sim);
    let pods = sim.pods();
    let orphan = pods.iter().find(|pod| Key::of(&pod.metadata) == key).unwrap();
    assert!(orphan.metadata.finalizers.iter().flatten().next().is_none(), "{:?}", orphan.metadata);
}

#[test]
fn the_deletion_of_a_job_leaves_its_pods_to_the_garbage_collector() {
    let mut sim = jobs();
    let mut job = job(json!({"completions": 1, "parallelism": 1, "backoffLimit": 6}));
    job.metadata.finalizers = Some(vec!["orphan".into()]);
    sim.create(job);
    settle(&mut sim);
    let deleted = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    sim.patch(Kind::Job, &Key::new("ns", "j"), deleted);
    settle(&mut sim);
    assert_eq!(sim.pods().iter().filter(|p| p.metadata.deletion_timestamp.is_none()).count(), 1);
}

#[test]
fn a_job_adopts_matching_orphans_and_releases_what_no_longer_matches() {
    let mut sim = jobs();
    let mut job = job(json!({"completions": 2, "parallelism": 1, "selector": {"matchLabels": {"job": "j"}}}));
    let template = job.spec.as_mut().unwrap().template.metadata.get_or_insert_default();
    template.labels = Some([("job".to_owned(), "j".to_owned())].into());
    let Object::Job(job) = sim.create(job) else { panic!() };
    let decide = |sim: &mut Sim| (0..10).for_each(|_| work_once(sim));
    decide(&mut sim);
    let only = |sim: &Sim| -> Pod {
        let pods = sim.pods();
        assert_eq!(pods.len(), 1, "{pods:?}");
        pods[0].clone()
    };
    let controlled = |pod: &Pod| {
        let owner =
            meta::controller_of(&pod.metadata).is_some_and(|owner| owner.uid == meta::uid(&job.metadata));
        let held = pod.metadata.finalizers.iter().flatten().count() == 1;
        (owner, held)
    };
    let key = Key::of(&only(&sim).metadata);
    sim.patch(Kind::Pod, &key, json!({"metadata": {"ownerReferences": null}}));
    decide(&mut sim);
    assert_eq!(controlled(&only(&sim)), (true, true), "adopted");

    sim.patch(Kind::Pod, &key, json!({"metadata": {"labels": {"job": "other"}}}));
    decide(&mut sim);
    let pods = sim.pods();
    let (released, own): (Vec<_>, Vec<_>) = pods.into_iter().partition(|pod| Key::of(&pod.metadata) == key);
    assert_eq!(controlled(&released[0]), (false, false), "nothing keeps it any more");
    assert_eq!((own.len(), controlled(&own[0])), (1, (true, true)), "replaced");
}
