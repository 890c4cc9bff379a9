//! Stories of nodes that are down or gone: how fast, and when, their pods go.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::cache::{Key, Kind, Object};
use crate::controllers::node_lifecycle::NodeLifecycle;
use crate::controllers::pod_gc::PodGc;
use crate::controllers::pods;
use crate::controllers::stale_disruption::StaleDisruptions;
use crate::meta;
use crate::runner::sim::Sim;

const STEP: Duration = Duration::from_secs(5);

fn sim() -> Sim {
    let never = Duration::from_secs(1_000_000);
    Sim::new(vec![Box::new(NodeLifecycle { grace: never, startup_grace: never })])
}

fn ready(sim: &Sim, status: &str) -> Value {
    let at = meta::time(sim.now);
    json!({"status": {"conditions": [{"type": "Ready", "status": status, "lastTransitionTime": at}]}})
}

/// Creates nodes of a zone, the first ones of which are down.
fn create(sim: &mut Sim, zone: &str, count: usize, down: usize) {
    for n in 0..count {
        let mut node = ready(sim, if n < down { "Unknown" } else { "True" });
        node["metadata"] = json!({
            "name": format!("{zone}-{n:03}"), "labels": {"topology.kubernetes.io/zone": zone},
        });
        sim.create(serde_json::from_value::<Node>(node).unwrap());
    }
}

fn nodes(sim: &Sim) -> impl Iterator<Item = Node> {
    let node = |object| if let Object::Node(node) = object { Some(node.as_ref().clone()) } else { None };
    sim.all(Kind::Node).into_iter().filter_map(node)
}

fn is_evicted(node: &Node) -> bool {
    node.spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|taint| taint.effect == "NoExecute")
}

fn evicted(sim: &Sim) -> usize {
    nodes(sim).filter(is_evicted).count()
}

/// Evicted nodes after each step.
fn run(sim: &mut Sim, steps: usize) -> Vec<usize> {
    let mut counts = Vec::new();
    for _ in 0..steps {
        sim.settle();
        counts.push(evicted(sim));
        sim.advance(STEP);
    }
    counts
}

#[test]
fn evictions_keep_to_the_pace_of_their_zone() {
    // Nodes, how many are down, seconds between two evictions (0: none).
    let rows = [
        (60, 59, 100),
        (51, 50, 100),
        (60, 33, 100),
        (60, 32, 10),
        (50, 49, 0),
        (10, 6, 0),
        (10, 5, 10),
        (3, 2, 10),
        (10, 10, 0),
    ];
    for (all, down, seconds) in rows {
        let mut sim = sim();
        create(&mut sim, "a", all, down);
        let counts = run(&mut sim, 130);
        for (step, count) in counts.iter().enumerate() {
            let passed = step * 5;
            let most = passed.checked_div(seconds).map_or(0, |pauses| (1 + pauses).min(down));
            assert!(*count <= most, "{down} of {all}: {count} evicted after {passed} s");
            assert!(count + 1 >= most, "{down} of {all}: only {count} evicted after {passed} s");
        }
    }
}

#[test]
fn sixty_nodes_of_which_fifty_nine_are_unknown_are_not_emptied_within_an_hour() {
    let mut sim = sim();
    create(&mut sim, "", 60, 59);
    let counts = run(&mut sim, 720);
    assert!((35..=37).contains(counts.last().unwrap()), "{counts:?}");
}

#[test]
fn zones_have_paces_of_their_own() {
    let mut sim = sim();
    create(&mut sim, "whole", 10, 0);
    create(&mut sim, "lost", 10, 10);
    create(&mut sim, "mostly-lost", 10, 9);
    run(&mut sim, 60);
    let in_zone = |zone: &str| {
        nodes(&sim).filter(|n| is_evicted(n) && meta::name(&n.metadata).starts_with(zone)).count()
    };
    assert_eq!((in_zone("whole"), in_zone("lost"), in_zone("mostly-lost")), (0, 10, 0));
}

#[test]
fn no_node_stays_evicted_when_none_is_ready() {
    let mut sim = sim();
    create(&mut sim, "a", 3, 2);
    assert_eq!(run(&mut sim, 10).last(), Some(&2));
    let down = ready(&sim, "Unknown");
    sim.patch(Kind::Node, &Key::cluster("a-002"), down);
    assert_eq!(run(&mut sim, 10).last(), Some(&0));
    let up = ready(&sim, "True");
    sim.patch(Kind::Node, &Key::cluster("a-002"), up);
    assert_eq!(run(&mut sim, 10).last(), Some(&2), "evictions go on");
}

#[test]
fn a_node_that_is_excluded_counts_for_no_zone() {
    let mut sim = sim();
    create(&mut sim, "a", 3, 2);
    let excluded = json!({"metadata": {"labels": {"node.kubernetes.io/exclude-disruption": ""}}});
    sim.patch(Kind::Node, &Key::cluster("a-002"), excluded);
    assert_eq!(run(&mut sim, 10).last(), Some(&0), "no other node is ready");
}

const NODE: &str = "node-1";

fn sim_of_pod(with_node: bool) -> Sim {
    let mut sim = Sim::new(vec![Box::new(PodGc { threshold: 0 })]);
    if with_node {
        create_node(&mut sim);
    }
    sim.advance(Duration::from_secs(3600));
    sim.create(
        serde_json::from_value::<Pod>(json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {"nodeName": NODE, "containers": []},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap(),
    );
    sim.settle();
    sim
}

fn create_node(sim: &mut Sim) {
    sim.create(serde_json::from_value::<Node>(json!({"metadata": {"name": NODE}})).unwrap());
}

/// Whether the pod lives so many seconds later.
fn lives_after(sim: &mut Sim, seconds: u64) -> bool {
    sim.advance(Duration::from_secs(seconds));
    sim.settle();
    sim.get(Kind::Pod, &Key::new("ns", "p")).is_some()
}

#[test]
fn pods_of_a_deleted_node_go_after_the_quarantine() {
    let mut sim = sim_of_pod(true);
    assert!(lives_after(&mut sim, 100));
    sim.remove(Kind::Node, &Key::cluster(NODE));
    assert!(lives_after(&mut sim, 0) && lives_after(&mut sim, 39));
    assert!(!lives_after(&mut sim, 2));
}

#[test]
fn pods_of_a_node_that_is_registered_again_stay() {
    let mut sim = sim_of_pod(true);
    sim.remove(Kind::Node, &Key::cluster(NODE));
    assert!(lives_after(&mut sim, 20));
    create_node(&mut sim);
    assert!(lives_after(&mut sim, 100));
    sim.remove(Kind::Node, &Key::cluster(NODE));
    assert!(lives_after(&mut sim, 0) && lives_after(&mut sim, 39), "each absence has its own quarantine");
}

#[test]
fn a_pod_of_a_node_that_never_was_has_a_quarantine_too() {
    let mut sim = sim_of_pod(false);
    assert!(lives_after(&mut sim, 39));
    assert!(!lives_after(&mut sim, 2));
}

#[test]
fn a_node_that_the_server_has_and_no_watch_has_shown_keeps_its_pods() {
    let mut sim = sim_of_pod(true);
    sim.remove(Kind::Node, &Key::cluster(NODE));
    assert!(lives_after(&mut sim, 20));
    create_node(&mut sim);
    sim.advance(Duration::from_secs(60));
    sim.decide();
    assert!(!sim.tasks.is_empty(), "the watch lags: the pod's deletion is decided");
    sim.settle();
    assert!(lives_after(&mut sim, 100));
}

#[test]
fn a_pod_whose_deletion_does_not_follow_is_no_longer_called_disrupted() {
    // (reason, phase, condition taken back after two minutes)
    let rows = [
        ("EvictionByEvictionAPI", "Running", true),
        ("TerminationByKubelet", "Running", false),
        ("EvictionByEvictionAPI", "Failed", false),
    ];
    for (reason, phase, taken_back) in rows {
        let mut sim = Sim::new(vec![Box::new(StaleDisruptions)]);
        let target = json!({
            "type": "DisruptionTarget", "status": "True", "reason": reason, "lastTransitionTime": meta::time(sim.now),
        });
        let ready = json!({"type": "Ready", "status": "True"});
        let pod = json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {"nodeName": NODE, "containers": []},
            "status": {"phase": phase, "conditions": [ready, target]},
        });
        sim.create(serde_json::from_value::<Pod>(pod).unwrap());
        let mut is_target = |seconds: u64| {
            assert!(lives_after(&mut sim, seconds));
            let target = pods::condition(&sim.pods()[0], "DisruptionTarget").unwrap().status == "True";
            assert!(pods::ready(&sim.pods()[0]), "the other conditions stay");
            target
        };
        assert!(is_target(0) && is_target(119));
        assert_eq!(!is_target(2), taken_back, "{reason} {phase}");
    }
}
