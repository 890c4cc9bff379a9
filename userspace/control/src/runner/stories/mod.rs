//! Stories and properties of controllers, on the simulated server.

mod cron_jobs;
mod deployments;
mod evictions;
mod jobs;
mod nodes;
mod persistent_volumes;
mod properties;
mod sets;
mod volumes;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use serde_json::{Value, json};

use super::sim::{Fate, Sim};
use crate::cache::{Key, Kind, Object};
use crate::controllers::{self, pods};

/// The controllers of workloads, without nodes.
pub(super) fn sim() -> Sim {
    Sim::new(vec![
        Box::new(controllers::deployment::Deployments),
        Box::new(controllers::replicaset::ReplicaSets { kind: Kind::ReplicaSet }),
        Box::new(controllers::endpointslice::EndpointSlices),
        Box::new(controllers::endpoints_object::EndpointsObjects),
    ])
}

pub(super) fn deployment(replicas: i32, surge: &str, unavailable: &str) -> Deployment {
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

pub(super) fn web() -> Key {
    Key::new("ns", "web")
}

pub(super) fn image(version: u32) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": format!("web:{version}")}]}}}})
}

pub(super) fn get_deployment(sim: &Sim) -> Deployment {
    match sim.get(Kind::Deployment, &web()) {
        Some(Object::Deployment(d)) => d.as_ref().clone(),
        other => panic!("{other:?}"),
    }
}

pub(super) fn sets(sim: &Sim) -> Vec<ReplicaSet> {
    sim.all(Kind::ReplicaSet)
        .into_iter()
        .filter_map(|o| if let Object::ReplicaSet(s) = o { Some(s.as_ref().clone()) } else { None })
        .collect()
}

pub(super) fn condition(sim: &Sim, kind: &str) -> (String, String) {
    let conditions = get_deployment(sim).status.and_then(|s| s.conditions).unwrap_or_default();
    let found = conditions.into_iter().find(|c| c.type_ == kind);
    found.map_or_else(Default::default, |c| (c.status, c.reason.unwrap_or_default()))
}

pub(super) fn active(sim: &Sim) -> usize {
    sim.pods().iter().filter(|p| pods::active(p)).count()
}

pub(super) fn ready(sim: &Sim) -> usize {
    sim.pods().iter().filter(|p| pods::active(p) && pods::ready(p)).count()
}

/// Delivers every event, decides, and performs the oldest task.
fn step(sim: &mut Sim) {
    sim.deliver(usize::MAX);
    sim.decide();
    sim.perform(Fate::Answered);
}

/// Delivers every event, decides, and performs every task.
fn work_once(sim: &mut Sim) {
    sim.deliver(usize::MAX);
    sim.decide();
    while !sim.tasks.is_empty() {
        sim.perform(Fate::Answered);
    }
}

/// Repeats often enough for writes that cause other writes, without kubelets.
fn work(sim: &mut Sim) {
    for _ in 0..20 {
        work_once(sim);
    }
}
