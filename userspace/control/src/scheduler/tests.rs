//! Which node a pod gets, and the reasons if it gets none.

use serde_json::{Value, json};

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::core::{Decision, Scheduler};
use super::decide::choose;
use super::snapshot::Snapshot;
use crate::cache::{Change, Key, Object};
use crate::meta;

fn node(name: &str, more: Value) -> Value {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}},
    });
    merge(&mut node, more);
    node
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

fn pod(name: &str, more: Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]},
    });
    merge(&mut pod, more);
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn on(node: &str, more: Value) -> Value {
    let mut spec = json!({"spec": {"nodeName": node}});
    merge(&mut spec, more);
    spec
}

fn snapshot(nodes: &[Value], pods: &[Arc<Pod>]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for node in nodes {
        let node: k8s_openapi::api::core::v1::Node = serde_json::from_value(node.clone()).unwrap();
        snapshot.apply(&Change { old: None, new: Some(node.into()) });
    }
    for pod in pods {
        snapshot.apply(&Change { old: None, new: Some(Object::Pod(pod.clone())) });
    }
    snapshot
}

fn choice(snapshot: &Snapshot, pod: &Pod) -> Result<String, String> {
    let chosen = choose(snapshot, pod, pod.spec.as_ref().unwrap(), 1);
    chosen.map(|choice| choice.node.to_string()).map_err(|why| why.to_string())
}

fn three() -> Vec<Value> {
    ["n1", "n2", "n3"].map(|name| node(name, json!({}))).to_vec()
}

#[test]
fn without_nodes_nothing_is_available() {
    let why = choice(&snapshot(&[], &[]), &pod("a", json!({}))).unwrap_err();
    assert_eq!(why, "no nodes available to schedule pods");
}

#[test]
fn every_refusing_node_has_a_reason() {
    let taint = json!({"key": "dedicated", "value": "gpu", "effect": "NoSchedule"});
    let nodes = [
        node("n1", json!({"spec": {"taints": [taint]}})),
        node("n2", json!({"spec": {"unschedulable": true}})),
        node("n3", json!({"status": {"allocatable": {"cpu": "50m"}}})),
    ];
    let why = choice(&snapshot(&nodes, &[]), &pod("a", json!({}))).unwrap_err();
    let wanted = "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), \
                  1 node(s) were unschedulable.";
    assert_eq!(why, wanted);
    let tolerant = json!({"spec": {"tolerations": [{"key": "dedicated", "operator": "Exists"}]}});
    assert_eq!(choice(&snapshot(&nodes, &[]), &pod("a", tolerant)).unwrap(), "n1");
}

#[test]
fn a_decided_pod_holds_its_room() {
    let big = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1500m"}}}]}});
    let mut snapshot = snapshot(&[node("n1", json!({}))], &[]);
    let first = pod("a", big.clone());
    assert_eq!(choice(&snapshot, &first).unwrap(), "n1");
    snapshot.assume(&first, &"n1".into());
    let second = pod("b", big);
    assert_eq!(choice(&snapshot, &second).unwrap_err(), "0/1 nodes are available: 1 Insufficient cpu.");
    snapshot.delete_pod(&Key::of(&first.metadata));
    assert_eq!(choice(&snapshot, &second).unwrap(), "n1");
}

#[test]
fn the_highest_request_of_a_pod_counts() {
    let init = json!({"spec": {"initContainers": [
        {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}},
        {"name": "init", "resources": {"requests": {"cpu": "1600m"}}},
    ]}});
    let why = choice(&snapshot(&three(), &[]), &pod("a", init)).unwrap_err();
    assert_eq!(why, "0/3 nodes are available: 3 Insufficient cpu.");
}

#[test]
fn a_controllers_pods_are_spread_over_nodes() {
    let owned = |name: &str, more: Value| {
        let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true});
        let mut all = json!({"metadata": {"ownerReferences": [owner]}});
        merge(&mut all, more);
        pod(name, all)
    };
    let mut snapshot = snapshot(&three(), &[]);
    let mut used = std::collections::BTreeMap::<String, usize>::new();
    for number in 0..9 {
        let pod = owned(&format!("p{number}"), json!({}));
        let chosen = choice(&snapshot, &pod).unwrap();
        snapshot.assume(&pod, &chosen.as_str().into());
        *used.entry(chosen).or_default() += 1;
    }
    assert_eq!(used.into_values().collect::<Vec<_>>(), [3, 3, 3]);
}

#[test]
fn a_host_port_is_taken_once_a_node() {
    let port =
        json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}});
    let taken = pod("a", on("n1", port.clone()));
    let snapshot = snapshot(&[node("n1", json!({}))], &[taken]);
    let why = choice(&snapshot, &pod("b", port)).unwrap_err();
    assert_eq!(why, "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.");
}

#[test]
fn anti_affinity_holds_both_ways() {
    let term =
        json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}});
    let shy = json!({"spec": {"affinity": {"podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [term],
    }}}});
    let nodes = [node("n1", json!({})), node("n2", json!({}))];
    let one = snapshot(&nodes, &[pod("a", on("n1", json!({})))]);
    assert_eq!(choice(&one, &pod("b", shy.clone())).unwrap(), "n2");
    let other = snapshot(&nodes, &[pod("a", on("n1", shy))]);
    assert_eq!(choice(&other, &pod("b", json!({}))).unwrap(), "n2");
    let elsewhere = pod("b", json!({"metadata": {"namespace": "other"}}));
    assert!(choice(&other, &elsewhere).is_ok());
}

#[test]
fn the_first_of_a_group_may_go_anywhere_and_the_others_follow() {
    let term =
        json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}});
    let social = json!({"spec": {"affinity": {"podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [term],
    }}}});
    assert!(choice(&snapshot(&three(), &[]), &pod("a", social.clone())).is_ok());
    let snapshot = snapshot(&three(), &[pod("a", on("n2", json!({})))]);
    for number in 0..5 {
        assert_eq!(choice(&snapshot, &pod(&format!("b{number}"), social.clone())).unwrap(), "n2");
    }
}

#[test]
fn a_hard_spread_constraint_bounds_the_skew() {
    let constraint = json!({
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    });
    let spread = json!({"spec": {"topologySpreadConstraints": [constraint]}});
    let full = json!({"spec": {"unschedulable": true}});
    let nodes = [node("n1", json!({})), node("n2", full)];
    let first = snapshot(&nodes, &[]);
    assert_eq!(choice(&first, &pod("a", spread.clone())).unwrap(), "n1");
    let second = snapshot(&nodes, &[pod("a", on("n1", json!({})))]);
    let why = choice(&second, &pod("b", spread)).unwrap_err();
    assert!(why.contains("1 node(s) didn't match pod topology spread constraints"), "{why}");
}

#[test]
fn higher_priorities_are_decided_first_and_then_the_older() {
    let mut scheduler = Scheduler::default();
    let new = Some(node_object(node("n1", json!({}))));
    scheduler.apply(&Change { old: None, new }, Timestamp::UNIX_EPOCH);
    for (name, priority) in [("old", 0), ("young", 0), ("vip", 10)] {
        let pod = pod(name, json!({"spec": {"priority": priority}}));
        scheduler.apply(&Change { old: None, new: Some(Object::Pod(pod)) }, Timestamp::UNIX_EPOCH);
    }
    let mut order = Vec::new();
    while let Some(Decision::Bind { pod, .. }) = scheduler.next(Timestamp::UNIX_EPOCH, 0) {
        order.push(meta::name(&pod.metadata).to_owned());
    }
    assert_eq!(order, ["vip", "old", "young"]);
}

#[test]
fn a_refused_pod_is_tried_again_when_something_changes() {
    let mut scheduler = Scheduler::default();
    let now = Timestamp::UNIX_EPOCH;
    scheduler
        .apply(&Change { old: None, new: Some(Object::Pod(pod("a", json!({})))) }, Timestamp::UNIX_EPOCH);
    assert!(matches!(scheduler.next(now, 0), Some(Decision::Refuse { reason: "Unschedulable", .. })));
    let later = now + std::time::Duration::from_secs(20);
    assert!(scheduler.next(later, 0).is_none(), "nothing has changed");
    let new = Some(node_object(node("n1", json!({}))));
    scheduler.apply(&Change { old: None, new }, Timestamp::UNIX_EPOCH);
    assert!(scheduler.next(now, 0).is_none(), "its backoff is not over");
    assert!(matches!(scheduler.next(later, 0), Some(Decision::Bind { .. })));
}

#[test]
fn a_failed_binding_frees_the_room_and_is_retried() {
    let mut scheduler = Scheduler::default();
    let now = Timestamp::UNIX_EPOCH;
    let big = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1500m"}}}]}});
    let new = Some(node_object(node("n1", json!({}))));
    scheduler.apply(&Change { old: None, new }, Timestamp::UNIX_EPOCH);
    let pod = pod("a", big);
    scheduler.apply(&Change { old: None, new: Some(Object::Pod(pod.clone())) }, Timestamp::UNIX_EPOCH);
    assert!(matches!(scheduler.next(now, 0), Some(Decision::Bind { .. })));
    scheduler.binding_failed(&Key::of(&pod.metadata), "a", now);
    let later = now + std::time::Duration::from_secs(2);
    assert!(matches!(scheduler.next(later, 0), Some(Decision::Bind { .. })));
}

#[test]
fn a_gated_pod_is_not_placed() {
    let mut scheduler = Scheduler::default();
    let new = Some(node_object(node("n1", json!({}))));
    scheduler.apply(&Change { old: None, new }, Timestamp::UNIX_EPOCH);
    let gated = pod("a", json!({"spec": {"schedulingGates": [{"name": "wait"}]}}));
    scheduler.apply(&Change { old: None, new: Some(Object::Pod(gated)) }, Timestamp::UNIX_EPOCH);
    let decision = scheduler.next(Timestamp::UNIX_EPOCH, 0);
    assert!(matches!(decision, Some(Decision::Refuse { reason: "SchedulingGated", .. })));
}

fn asks(cpu: &str, priority: i32) -> Value {
    let containers = json!([{"name": "c", "resources": {"requests": {"cpu": cpu}}}]);
    json!({"spec": {"priority": priority, "containers": containers}})
}

fn node_object(node: Value) -> Object {
    serde_json::from_value::<k8s_openapi::api::core::v1::Node>(node).unwrap().into()
}

fn scheduler(nodes: &[Value], pods: &[Arc<Pod>]) -> Scheduler {
    let mut scheduler = Scheduler::default();
    for node in nodes {
        let new = Some(node_object(node.clone()));
        scheduler.apply(&Change { old: None, new }, Timestamp::UNIX_EPOCH);
    }
    for pod in pods {
        let new = Some(Object::Pod(pod.clone()));
        scheduler.apply(&Change { old: None, new }, Timestamp::UNIX_EPOCH);
    }
    scheduler
}

fn placed(name: &str, node: &str, cpu: &str, priority: i32) -> Arc<Pod> {
    pod(name, on(node, asks(cpu, priority)))
}

fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
    pods.iter().map(|pod| meta::name(&pod.metadata)).collect()
}

fn refusal(decision: Option<Decision>) -> (String, Option<super::preempt::Plan>) {
    match decision {
        Some(Decision::Refuse { message, plan, .. }) => (message, plan),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_minimal_set_of_pods_is_preempted() {
    let pods = [
        placed("big", "n1", "1500m", 5),
        placed("small", "n1", "300m", 1),
        placed("great", "n2", "1500m", 50),
        placed("mean", "n2", "400m", 5),
        pod("new", asks("400m", 10)),
    ];
    let mut scheduler = scheduler(&[node("n1", json!({})), node("n2", json!({}))], &pods);
    let (message, plan) = refusal(scheduler.next(Timestamp::UNIX_EPOCH, 0));
    assert_eq!(message, "0/2 nodes are available: 2 Insufficient cpu.");
    let plan = plan.unwrap();
    assert_eq!((&*plan.node, names(&plan.victims)), ("n1", vec!["small"]));
}

#[test]
fn the_room_of_victims_is_reserved_for_their_preemptor() {
    let now = Timestamp::UNIX_EPOCH;
    let victim = placed("old", "n1", "2", 0);
    let mut scheduler = scheduler(&[node("n1", json!({}))], &[victim.clone(), pod("great", asks("2", 10))]);
    assert!(refusal(scheduler.next(now, 0)).1.is_some());
    let lesser = pod("lesser", asks("1", 5));
    scheduler.apply(&Change { old: None, new: Some(Object::Pod(lesser)) }, now);
    scheduler.apply(&Change { old: Some(Object::Pod(victim)), new: None }, now);
    let (message, plan) = refusal(scheduler.next(now, 0));
    assert!(message.starts_with("0/1 nodes are available: 1 Insufficient cpu."), "{message}");
    assert!(plan.is_none(), "there is no pod of lower priority");
    let later = now + std::time::Duration::from_secs(2);
    match scheduler.next(later, 0) {
        Some(Decision::Bind { pod, .. }) => assert_eq!(meta::name(&pod.metadata), "great"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_more_pods_are_preempted_while_victims_are_terminating() {
    let now = Timestamp::UNIX_EPOCH;
    let victim = placed("old", "n1", "2", 0);
    let mut scheduler = scheduler(&[node("n1", json!({}))], &[victim.clone(), pod("great", asks("2", 10))]);
    assert!(refusal(scheduler.next(now, 0)).1.is_some());
    let mut going = (*victim).clone();
    going.metadata.deletion_timestamp = Some(meta::time(now));
    let target = json!({"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]});
    going.status = serde_json::from_value(target).unwrap();
    let new = Some(Object::Pod(Arc::new(going)));
    scheduler.apply(&Change { old: Some(Object::Pod(victim)), new }, now);
    let later = now + std::time::Duration::from_secs(2);
    let (message, plan) = refusal(scheduler.next(later, 0));
    assert!(plan.is_none());
    assert!(message.ends_with("preemption: not eligible due to a terminating pod on the nominated node."));
}

#[test]
fn a_reservation_ends_with_its_node() {
    let now = Timestamp::UNIX_EPOCH;
    let n1 = node("n1", json!({}));
    let mut scheduler =
        scheduler(std::slice::from_ref(&n1), &[placed("old", "n1", "2", 0), pod("great", asks("2", 10))]);
    let Some(Decision::Refuse { nominated, .. }) = scheduler.next(now, 0) else { panic!("it does not fit") };
    assert_eq!(nominated.as_deref(), Some("n1"));
    scheduler.apply(&Change { old: Some(node_object(n1)), new: None }, now);
    // The next node of that name is smaller than the pod.
    let small = json!({"status": {"allocatable": {"cpu": "1", "pods": "9"}}});
    scheduler.apply(&Change { old: None, new: Some(node_object(node("n1", small))) }, now);
    scheduler.apply(&Change { old: Some(Object::Pod(placed("old", "n1", "2", 0))), new: None }, now);
    scheduler.apply(&Change { old: None, new: Some(Object::Pod(pod("lesser", asks("1", 5)))) }, now);
    match scheduler.next(now, 0) {
        Some(Decision::Bind { pod, .. }) => assert_eq!(meta::name(&pod.metadata), "lesser"),
        other => panic!("{other:?}"),
    }
    let later = now + std::time::Duration::from_secs(2);
    let Some(Decision::Refuse { nominated, .. }) = scheduler.next(later, 0) else {
        panic!("it does not fit")
    };
    assert_eq!(nominated, None, "its status names no node any more");
}

#[test]
fn budgets_are_kept_if_another_node_has_victims() {
    let budget = json!({"metadata": {"name": "b", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}},
        "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
    let budget: k8s_openapi::api::policy::v1::PodDisruptionBudget = serde_json::from_value(budget).unwrap();
    let other = json!({"metadata": {"labels": {"app": "other"}}});
    let mut free = on("n2", asks("2", 9));
    merge(&mut free, other);
    let pods = [placed("guarded", "n1", "2", 0), pod("free", free), pod("new", asks("1", 10))];
    let mut scheduler = scheduler(&[node("n1", json!({})), node("n2", json!({}))], &pods);
    scheduler.apply(&Change { old: None, new: Some(budget.into()) }, Timestamp::UNIX_EPOCH);
    let plan = refusal(scheduler.next(Timestamp::UNIX_EPOCH, 0)).1.unwrap();
    assert_eq!(names(&plan.victims), ["free"], "though it has the higher priority");
}

#[test]
fn a_pod_that_never_preempts_gets_the_reason() {
    let mut meek = asks("2", 10);
    merge(&mut meek, json!({"spec": {"preemptionPolicy": "Never"}}));
    let mut scheduler = scheduler(&[node("n1", json!({}))], &[placed("old", "n1", "2", 0), pod("new", meek)]);
    let (message, plan) = refusal(scheduler.next(Timestamp::UNIX_EPOCH, 0));
    assert!(plan.is_none());
    let wanted = "0/1 nodes are available: 1 Insufficient cpu. \
                  preemption: not eligible due to preemptionPolicy=Never.";
    assert_eq!(message, wanted);
}

#[test]
fn a_dry_run_leaves_the_snapshot_as_it_was() {
    let constraint = json!({"maxSkew": 9, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}});
    for constraints in [json!([]), json!([constraint])] {
        let mut new = asks("2", 10);
        merge(&mut new, json!({"spec": {"topologySpreadConstraints": constraints}}));
        let pods = [placed("a", "n1", "1", 20), placed("b", "n1", "1", 3), pod("new", new)];
        let mut scheduler = scheduler(&[node("n1", json!({}))], &pods);
        let before = (format!("{:?}", scheduler.snapshot.nodes), scheduler.snapshot.classes.counts());
        let (message, plan) = refusal(scheduler.next(Timestamp::UNIX_EPOCH, 0));
        assert!(plan.is_none());
        assert!(message.ends_with("1 No preemption victims found for incoming pod."), "{message}");
        assert_eq!((format!("{:?}", scheduler.snapshot.nodes), scheduler.snapshot.classes.counts()), before);
    }
}

#[test]
fn no_pod_is_preempted_for_one_that_needs_more_than_the_node_has() {
    let mut scheduler =
        scheduler(&[node("n1", json!({}))], &[placed("a", "n1", "1", 0), pod("new", asks("3", 10))]);
    let (message, plan) = refusal(scheduler.next(Timestamp::UNIX_EPOCH, 0));
    assert!(plan.is_none());
    assert!(message.ends_with("1 Preemption is not helpful for scheduling."), "{message}");
}

#[test]
fn a_terminating_pod_still_keeps_others_away() {
    let term =
        json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}});
    let shy = json!({"spec": {"affinity": {"podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [term],
    }}}});
    let going = on("n1", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    let one = snapshot(&[node("n1", json!({}))], &[pod("a", going)]);
    let why = choice(&one, &pod("b", shy)).unwrap_err();
    assert_eq!(why, "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.");
}

#[test]
fn one_pod_must_match_all_affinity_terms() {
    let term = |app: &str| json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {app: "y"}}});
    let social = json!({"spec": {"affinity": {"podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [term("p"), term("q")],
    }}}});
    let labelled = |name: &str, labels: Value| pod(name, on("n1", json!({"metadata": {"labels": labels}})));
    let halves = [labelled("a", json!({"p": "y"})), labelled("b", json!({"q": "y"}))];
    assert!(choice(&snapshot(&[node("n1", json!({}))], &halves), &pod("c", social.clone())).is_err());
    let whole = [labelled("a", json!({"p": "y", "q": "y"}))];
    assert_eq!(choice(&snapshot(&[node("n1", json!({}))], &whole), &pod("c", social)).unwrap(), "n1");
}

#[test]
fn a_node_with_the_image_is_preferred_among_equal_nodes() {
    let image = json!({"status": {"images": [{"names": ["registry/web"], "sizeBytes": 900_000_000}]}});
    let snapshot = snapshot(&[node("n1", json!({})), node("n2", image)], &[]);
    let wants = json!({"spec": {"containers": [{"name": "c", "image": "registry/web"}]}});
    for number in 0..8 {
        assert_eq!(choice(&snapshot, &pod(&format!("p{number}"), wants.clone())).unwrap(), "n2");
    }
}

#[test]
fn a_pod_that_is_being_resized_holds_its_present_allocation() {
    let status = json!({"status": {"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true,
        "restartCount": 0, "allocatedResources": {"cpu": "1500m"}}]}});
    let mut shrinking = on("n1", asks("100m", 0));
    merge(&mut shrinking, status);
    let snapshot = snapshot(&[node("n1", json!({}))], &[pod("a", shrinking)]);
    assert!(choice(&snapshot, &pod("b", asks("1", 0))).is_err());
    assert!(choice(&snapshot, &pod("b", asks("500m", 0))).is_ok());
}

#[test]
fn a_successor_may_go_to_the_node_of_a_terminating_pod() {
    let owner =
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true});
    let replica = |name: &str, node: &str, more: Value| {
        let mut spec = on(node, json!({"metadata": {"ownerReferences": [owner]}}));
        merge(&mut spec, more);
        pod(name, spec)
    };
    let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let pods = [replica("a", "n1", going), replica("b", "n2", json!({})), replica("c", "n3", json!({}))];
    let successor = pod("d", json!({"metadata": {"ownerReferences": [owner]}}));
    assert_eq!(choice(&snapshot(&three(), &pods), &successor).unwrap(), "n1");
}
