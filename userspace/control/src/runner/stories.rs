//! Stories and properties of controllers, told over the simulated server.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use proptest::prelude::*;
use serde_json::json;

use super::sim::{Fate, Sim};
use crate::{
    controllers::{self, pods},
    view::{Key, Kind, Object},
};

/// The controllers of workloads; nodes are a story of their own.
fn sim() -> Sim {
    Sim::new(vec![
        Box::new(controllers::deployment::Deployments),
        Box::new(controllers::replicaset::ReplicaSets { kind: Kind::ReplicaSet }),
        Box::new(controllers::endpointslice::EndpointSlices),
        Box::new(controllers::endpoints_object::EndpointsObjects),
    ])
}

fn deployment(replicas: i32, surge: &str, unavailable: &str) -> Deployment {
    let number = |s: &str| s.parse::<i32>().map_or_else(|_| json!(s), |n| json!(n));
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "ns"},
        "spec": {
            "replicas": replicas,
            "progressDeadlineSeconds": 600,
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": number(surge), "maxUnavailable": number(unavailable)},
            },
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "web:1"}]},
            },
        },
    }))
    .unwrap()
}

fn web() -> Key {
    Key::new("ns", "web")
}

fn image(version: u32) -> serde_json::Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": format!("web:{version}")}]}}}})
}

fn get_deployment(sim: &Sim) -> Deployment {
    match sim.get(Kind::Deployment, &web()) {
        Some(Object::Deployment(d)) => d.as_ref().clone(),
        other => panic!("{other:?}"),
    }
}

fn sets(sim: &Sim) -> Vec<ReplicaSet> {
    sim.all(Kind::ReplicaSet)
        .into_iter()
        .filter_map(|o| if let Object::ReplicaSet(s) = o { Some(s.as_ref().clone()) } else { None })
        .collect()
}

fn condition(sim: &Sim, kind: &str) -> (String, String) {
    let conditions = get_deployment(sim).status.and_then(|s| s.conditions).unwrap_or_default();
    let found = conditions.into_iter().find(|c| c.type_ == kind);
    found.map_or_else(Default::default, |c| (c.status, c.reason.unwrap_or_default()))
}

fn active(sim: &Sim) -> usize {
    sim.pods().iter().filter(|p| pods::active(p)).count()
}

fn ready(sim: &Sim) -> usize {
    sim.pods().iter().filter(|p| pods::active(p) && pods::ready(p)).count()
}

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
    let revisions: Vec<i64> = sets(&sim).iter().map(controllers::rollout::revision).collect();
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
        sim.deliver(usize::MAX);
        sim.decide();
        sim.perform(Fate::Answered);
        let images: std::collections::HashSet<_> =
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
    // New pods never become ready: the rollout stands at 8 old and 5 new.
    for _ in 0..40 {
        sim.deliver(usize::MAX);
        sim.decide();
        sim.perform(Fate::Answered);
        let gone: Vec<Key> = sim
            .pods()
            .iter()
            .filter(|p| p.metadata.deletion_timestamp.is_some())
            .map(|p| Key::of(&p.metadata))
            .collect();
        gone.iter().for_each(|key| sim.kubelet(key, "n", true));
    }
    let sizes = |sim: &Sim| {
        let mut sizes: Vec<i32> = sets(sim).iter().map(controllers::rollout::wanted).collect();
        sizes.sort_unstable();
        sizes
    };
    assert_eq!(sizes(&sim), [5, 8]);
    sim.patch(Kind::Deployment, &web(), json!({"spec": {"replicas": 30}}));
    for _ in 0..10 {
        sim.deliver(usize::MAX);
        sim.decide();
        sim.perform(Fate::Answered);
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
            sim.deliver(usize::MAX);
            sim.decide();
            sim.perform(Fate::Answered);
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
        sim.deliver(usize::MAX);
        sim.decide();
        sim.perform(Fate::Answered);
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

/// One thing that happens in the world.
#[derive(Clone, Debug)]
enum Happening {
    Deliver(usize),
    Decide,
    Perform(Fate),
    /// A kubelet acts on the nth pod.
    Kubelet(usize, bool),
    Roll(u32),
    Wait(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (1..6_usize).prop_map(Happening::Deliver),
        4 => Just(Happening::Decide),
        4 => prop_oneof![
            6 => Just(Fate::Answered), 1 => Just(Fate::AnswerLost), 1 => Just(Fate::NeverSent)
        ].prop_map(Happening::Perform),
        6 => (0..40_usize, prop::bool::weighted(0.9)).prop_map(|(n, r)| Happening::Kubelet(n, r)),
        1 => (1..5_u32).prop_map(Happening::Roll),
        2 => (1..2000_u64).prop_map(Happening::Wait),
    ]
}

fn happen(sim: &mut Sim, happening: Happening) {
    match happening {
        Happening::Deliver(n) => sim.deliver(n),
        Happening::Decide => sim.decide(),
        Happening::Perform(fate) => sim.perform(fate),
        Happening::Kubelet(n, ready) => {
            let pods = sim.pods();
            if let Some(pod) = pods.get(n % pods.len().max(1)) {
                // A pod that was ready stays so: what is lost otherwise is not the controllers' doing.
                sim.kubelet(&Key::of(&pod.metadata), "node-1", ready || pods::ready(pod));
            }
        }
        Happening::Roll(version) => drop(sim.patch(Kind::Deployment, &web(), image(version))),
        Happening::Wait(ms) => sim.advance(Duration::from_millis(ms)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..Default::default() })]

    #[test]
    fn a_rolling_update_keeps_its_bounds_whatever_lags_or_is_lost(
        replicas in 1..8_i32, surge in 0..4_i32, unavailable in 0..4_i32,
        happenings in prop::collection::vec(happening(), 50..400),
    ) {
        let (surge, unavailable) = if surge + unavailable == 0 { (1, 0) } else { (surge, unavailable) };
        let mut sim = sim();
        let mut d = deployment(replicas, "0", "0");
        d.spec.as_mut().unwrap().strategy = serde_json::from_value(json!({
            "type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable},
        })).unwrap();
        sim.create(d);
        sim.settle();
        let (most, least) = ((replicas + surge) as usize, (replicas - unavailable).max(0) as usize);
        for happening in happenings {
            happen(&mut sim, happening.clone());
            prop_assert!(active(&sim) <= most, "{} pods after {happening:?}", active(&sim));
            prop_assert!(ready(&sim) >= least, "{} ready after {happening:?}", ready(&sim));
        }
        sim.advance(Duration::from_secs(2000));
        sim.settle();
        prop_assert_eq!(ready(&sim), replicas as usize, "it ends whole");
    }

    #[test]
    fn a_set_never_creates_a_pod_twice(
        replicas in 1..20_i32, happenings in prop::collection::vec(happening(), 20..200),
    ) {
        let mut sim = sim();
        let set: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}},
            },
        })).unwrap();
        sim.create(set);
        for happening in happenings {
            happen(&mut sim, happening);
            prop_assert!(sim.pods().len() <= replicas as usize);
        }
        sim.advance(Duration::from_secs(2000));
        sim.settle();
        prop_assert_eq!(sim.creates, 1 + replicas as usize);
    }
}
