//! Stories of Deployments and ReplicaSets.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;

use super::{active, condition, deployment, get_deployment, image, ready, sets, sim, step, web};
use crate::cache::{Key, Kind, Object};
use crate::controllers;
use crate::runner::sim::Sim;

#[test]
fn a_deployment_comes_up_and_says_so() {
    let mut sim = sim();
    sim.create(deployment(3, "25%", "25%"));
    sim.settle();
    assert_eq!((active(&sim), sets(&sim).len()), (3, 1));
    assert_eq!(condition(&sim, "Available"), ("True".into(), "MinimumReplicasAvailable".into()));
    assert_eq!(condition(&sim, "Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
    let status = get_deployment(&sim).status.unwrap();
    assert_eq!(status.observed_generation, Some(1));
    assert_eq!((status.updated_replicas, status.available_replicas), (Some(3), Some(3)));
}

#[test]
fn an_update_rolls_and_undo_brings_the_old_set_back_as_a_new_revision() {
    let mut sim = sim();
    sim.create(deployment(4, "25%", "25%"));
    sim.settle();
    sim.patch(Kind::Deployment, &web(), image(2));
    sim.settle();
    assert_eq!(sets(&sim).len(), 2);
    let revision = |sim: &Sim| {
        get_deployment(sim).metadata.annotations.unwrap()["deployment.kubernetes.io/revision"].clone()
    };
    assert_eq!(revision(&sim), "2");
    sim.patch(Kind::Deployment, &web(), image(1));
    sim.settle();
    assert_eq!((revision(&sim).as_str(), sets(&sim).len(), active(&sim)), ("3", 2, 4));
    let current = sets(&sim).into_iter().find(|s| s.spec.as_ref().unwrap().replicas == Some(4)).unwrap();
    assert_eq!(current.metadata.annotations.unwrap()["deployment.kubernetes.io/revision-history"], "1");
}

#[test]
fn history_beyond_the_limit_is_removed_oldest_first() {
    let mut sim = sim();
    sim.create(deployment(1, "1", "0"));
    for version in 1..6 {
        sim.patch(Kind::Deployment, &web(), image(version));
        sim.settle();
        sim.advance(Duration::from_secs(1));
    }
    let revisions: Vec<i64> = sets(&sim).iter().map(controllers::deployment::rollout::revision).collect();
    assert_eq!(revisions.len(), 3, "the new one and two old ones: {revisions:?}");
    assert_eq!(revisions.iter().min(), Some(&3));
}

#[test]
fn recreate_never_runs_two_versions() {
    let mut sim = sim();
    let mut d = deployment(3, "25%", "25%");
    d.spec.as_mut().unwrap().strategy = serde_json::from_value(json!({"type": "Recreate"})).unwrap();
    sim.create(d);
    sim.settle();
    sim.patch(Kind::Deployment, &web(), image(2));
    for _ in 0..60 {
        step(&mut sim);
        let images: HashSet<_> =
            sim.pods().iter().map(|p| p.spec.as_ref().unwrap().containers[0].image.clone()).collect();
        assert!(images.len() <= 1, "{images:?}");
        let gone: Vec<Key> = sim
            .pods()
            .iter()
            .filter(|p| p.metadata.deletion_timestamp.is_some())
            .map(|p| Key::of(&p.metadata))
            .collect();
        gone.first().into_iter().for_each(|key| sim.kubelet(key, "n", true));
    }
    sim.settle();
    assert_eq!(active(&sim), 3);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_keeps_proportions() {
    let mut sim = sim();
    sim.create(deployment(10, "3", "2"));
    sim.settle();
    sim.patch(Kind::Deployment, &web(), image(2));
    // New pods never become ready: the rollout stops at 8 old and 5 new.
    for _ in 0..40 {
        step(&mut sim);
        let gone: Vec<Key> = sim
            .pods()
            .iter()
            .filter(|p| p.metadata.deletion_timestamp.is_some())
            .map(|p| Key::of(&p.metadata))
            .collect();
        gone.iter().for_each(|key| sim.kubelet(key, "n", true));
    }
    let sizes = |sim: &Sim| {
        let mut sizes: Vec<i32> = sets(sim).iter().map(controllers::deployment::rollout::desired).collect();
        sizes.sort_unstable();
        sizes
    };
    assert_eq!(sizes(&sim), [5, 8]);
    sim.patch(Kind::Deployment, &web(), json!({"spec": {"replicas": 30}}));
    for _ in 0..10 {
        step(&mut sim);
    }
    assert_eq!(sizes(&sim), [13, 20], "33 in all, as 5 to 8");
}

#[test]
fn a_stalled_rollout_is_reported_after_its_deadline() {
    let mut sim = sim();
    sim.create(deployment(1, "1", "0"));
    sim.settle();
    sim.patch(Kind::Deployment, &web(), image(2));
    let work = |sim: &mut Sim| {
        for _ in 0..20 {
            step(sim);
        }
    };
    work(&mut sim);
    assert_eq!(condition(&sim, "Progressing").0, "True");
    sim.advance(Duration::from_secs(602));
    work(&mut sim);
    assert_eq!(condition(&sim, "Progressing"), ("False".into(), "ProgressDeadlineExceeded".into()));
    assert_eq!(ready(&sim), 1, "the old pod still serves");
}

#[test]
fn a_refused_pod_shows_in_the_set_and_the_deployment() {
    let mut sim = sim();
    sim.refused = Some(Kind::Pod);
    sim.create(deployment(2, "1", "0"));
    for _ in 0..20 {
        step(&mut sim);
        sim.advance(Duration::from_millis(400));
    }
    assert_eq!(condition(&sim, "ReplicaFailure"), ("True".into(), "FailedCreate".into()));
    sim.refused = None;
    sim.advance(Duration::from_secs(2000));
    sim.settle();
    assert_eq!(active(&sim), 2);
    assert_eq!(condition(&sim, "ReplicaFailure"), Default::default());
}

#[test]
fn a_paused_deployment_does_not_roll() {
    let mut sim = sim();
    sim.create(deployment(2, "1", "0"));
    sim.settle();
    sim.patch(Kind::Deployment, &web(), json!({"spec": {"paused": true}}));
    sim.patch(Kind::Deployment, &web(), image(2));
    sim.settle();
    assert_eq!(sets(&sim).len(), 1);
    assert_eq!(condition(&sim, "Progressing").1, "DeploymentPaused");
    sim.patch(Kind::Deployment, &web(), json!({"spec": {"paused": null}}));
    sim.settle();
    assert_eq!(sets(&sim).len(), 2);
    assert_eq!(condition(&sim, "Progressing").1, "NewReplicaSetAvailable");
}

#[test]
fn a_pod_that_leaves_the_selector_is_released_and_replaced_and_one_that_enters_is_adopted() {
    let mut sim = sim();
    sim.create(deployment(2, "1", "0"));
    sim.settle();
    let first = Key::of(&sim.pods()[0].metadata);
    sim.patch(Kind::Pod, &first, json!({"metadata": {"labels": {"app": "debug"}}}));
    sim.settle();
    assert_eq!(sim.pods().len(), 3);
    let Some(Object::Pod(freed)) = sim.get(Kind::Pod, &first) else { panic!("kept") };
    assert!(freed.metadata.owner_references.iter().flatten().next().is_none());
    sim.patch(Kind::Pod, &first, json!({"metadata": {"labels": {"app": "web"}}}));
    sim.settle();
    assert_eq!(active(&sim), 2, "adopted, and then one is surplus");
}
