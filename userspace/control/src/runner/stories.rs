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

fn whole_cluster() -> Sim {
    let mut sim = Sim::new(controllers::all(&crate::Config {
        node_grace: Duration::from_secs(5),
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        ..Default::default()
    }));
    for name in ["n1", "n2", "n3"] {
        sim.create(
            serde_json::from_value::<k8s_openapi::api::core::v1::Node>(json!({
                "metadata": {"name": name},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            }))
            .unwrap(),
        );
        renew(&mut sim, name);
    }
    sim.settle();
    sim
}

fn renew(sim: &mut Sim, node: &str) {
    let key = Key::new(controllers::node_lifecycle::LEASES, node);
    let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(sim.now);
    if sim.patch(Kind::Lease, &key, json!({"spec": {"renewTime": time}})).is_none() {
        let lease =
            json!({"metadata": {"namespace": "kube-node-lease", "name": node}, "spec": {"renewTime": time}});
        sim.create(serde_json::from_value::<k8s_openapi::api::coordination::v1::Lease>(lease).unwrap());
    }
}

/// Time passes second by second; the named nodes renew their leases, and their kubelets work.
fn pass(sim: &mut Sim, seconds: u64, alive: &[&str]) {
    for _ in 0..seconds {
        sim.advance(Duration::from_secs(1));
        alive.iter().for_each(|node| renew(sim, node));
        for _ in 0..20 {
            sim.deliver(usize::MAX);
            sim.decide();
            while !sim.tasks.is_empty() {
                sim.perform(Fate::Answered);
            }
            for (number, pod) in sim.pods().iter().enumerate() {
                let at = pods::node_name(pod);
                let node = if at.is_empty() { alive[number % alive.len()] } else { at };
                let due = pods::phase(pod) == "Pending" || pod.metadata.deletion_timestamp.is_some();
                if due && alive.contains(&node) {
                    sim.kubelet(&Key::of(&pod.metadata), node, true);
                }
            }
        }
    }
}

fn on_node(sim: &Sim, node: &str) -> usize {
    sim.pods().iter().filter(|p| pods::active(p) && pods::node_name(p) == node).count()
}

fn tolerating(seconds: u32) -> Deployment {
    let mut d = deployment(3, "25%", "25%");
    let pod = d.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
    pod.tolerations = serde_json::from_value(json!([
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds},
    ]))
    .unwrap();
    d
}

#[test]
fn pods_of_a_silent_node_stop_serving_at_once_and_are_replaced_after_their_toleration() {
    let mut sim = whole_cluster();
    sim.create(
        serde_json::from_value::<k8s_openapi::api::core::v1::Service>(json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
        }))
        .unwrap(),
    );
    sim.create(tolerating(20));
    pass(&mut sim, 3, &["n1", "n2", "n3"]);
    assert_eq!((on_node(&sim, "n1"), on_node(&sim, "n2"), on_node(&sim, "n3")), (1, 1, 1));
    pass(&mut sim, 7, &["n2", "n3"]);
    let Some(Object::Node(node)) = sim.get(Kind::Node, &Key::cluster("n1")) else { panic!("kept") };
    assert_eq!(controllers::node_lifecycle::ready_status(&node), "Unknown");
    let taints = node.spec.as_ref().unwrap().taints.as_ref().unwrap();
    let effects: Vec<&str> = taints.iter().map(|t| t.effect.as_str()).collect();
    assert_eq!(effects, ["NoSchedule", "NoExecute"]);
    let Some(Object::EndpointSlice(slice)) = sim.all(Kind::EndpointSlice).pop() else { panic!("made") };
    let serving =
        slice.endpoints.iter().flatten().filter(|e| e.conditions.as_ref().unwrap().ready == Some(true));
    assert_eq!(serving.count(), 2, "the lost pod gets no connections");
    assert_eq!(sim.pods().len(), 3, "tolerated for now");
    pass(&mut sim, 22, &["n2", "n3"]);
    assert_eq!((on_node(&sim, "n1"), on_node(&sim, "n2") + on_node(&sim, "n3")), (0, 3));
    assert_eq!(sim.pods().len(), 4, "the lost one cannot be confirmed gone");
}

#[test]
fn a_node_that_comes_back_in_time_keeps_its_pods() {
    let mut sim = whole_cluster();
    sim.create(tolerating(60));
    pass(&mut sim, 3, &["n1", "n2", "n3"]);
    pass(&mut sim, 20, &["n2", "n3"]);
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    sim.patch(Kind::Node, &Key::cluster("n1"), ready);
    pass(&mut sim, 90, &["n1", "n2", "n3"]);
    let Some(Object::Node(node)) = sim.get(Kind::Node, &Key::cluster("n1")) else { panic!("kept") };
    assert!(node.spec.as_ref().unwrap().taints.iter().flatten().next().is_none());
    assert_eq!((sim.pods().len(), on_node(&sim, "n1")), (3, 1));
}

#[test]
fn when_every_node_is_silent_nothing_is_evicted() {
    let mut sim = whole_cluster();
    sim.create(tolerating(5));
    pass(&mut sim, 3, &["n1", "n2", "n3"]);
    sim.advance(Duration::from_secs(600));
    for _ in 0..20 {
        sim.deliver(usize::MAX);
        sim.decide();
        while !sim.tasks.is_empty() {
            sim.perform(Fate::Answered);
        }
    }
    let gone = sim.pods().iter().filter(|p| p.metadata.deletion_timestamp.is_some()).count();
    assert!(gone == 0, "{gone} evicted by a fault that is more likely the server's");
}

#[test]
fn pods_of_a_deleted_node_go_and_networks_are_given_once() {
    let mut sim = whole_cluster();
    let cidrs: std::collections::BTreeSet<String> = sim
        .all(Kind::Node)
        .iter()
        .filter_map(|o| if let Object::Node(n) = o { n.spec.as_ref()?.pod_cidr.clone() } else { None })
        .collect();
    assert_eq!(cidrs.len(), 3);
    sim.create(tolerating(300));
    pass(&mut sim, 3, &["n1", "n2", "n3"]);
    sim.vanish(Kind::Node, &Key::cluster("n1"));
    pass(&mut sim, 3, &["n2", "n3"]);
    assert_eq!((sim.pods().len(), on_node(&sim, "n1")), (3, 0));
}

fn job(spec: serde_json::Value) -> k8s_openapi::api::batch::v1::Job {
    let mut spec = spec;
    spec["template"] =
        json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}});
    serde_json::from_value(json!({"metadata": {"name": "j", "namespace": "ns"}, "spec": spec})).unwrap()
}

/// Runs pods of a Job to their ends: the nth to end fails if `fails` says so.
fn run_job(
    sim: &mut Sim,
    rounds: usize,
    fails: impl Fn(usize) -> bool,
) -> k8s_openapi::api::batch::v1::JobStatus {
    let mut ended = 0;
    for _ in 0..rounds {
        for _ in 0..10 {
            sim.deliver(usize::MAX);
            sim.decide();
            while !sim.tasks.is_empty() {
                sim.perform(Fate::Answered);
            }
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

fn ended(status: &k8s_openapi::api::batch::v1::JobStatus) -> Vec<&str> {
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
