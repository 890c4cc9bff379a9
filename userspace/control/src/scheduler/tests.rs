//! Which node a pod gets, and what it hears if it gets none.

use serde_json::{Value, json};

use super::decide::choose;
use super::*;

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
    chosen.map(|name| name.to_string()).map_err(|why| why.to_string())
}

fn three() -> Vec<Value> {
    ["n1", "n2", "n3"].map(|name| node(name, json!({}))).to_vec()
}

#[test]
fn without_nodes_nothing_is_available() {
    let why = choice(&snapshot(&[], &[]), &pod("a", json!({}))).unwrap_err();
    assert_eq!(why, "0/0 nodes are available.");
}

#[test]
fn every_node_that_refuses_says_why() {
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
fn the_neediest_moment_of_a_pod_counts() {
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
fn the_first_of_a_group_may_go_anywhere_the_next_go_there_too() {
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
    let mut mind = Mind::default();
    let node: k8s_openapi::api::core::v1::Node = serde_json::from_value(node("n1", json!({}))).unwrap();
    mind.apply(&Change { old: None, new: Some(node.into()) });
    for (name, priority) in [("old", 0), ("young", 0), ("vip", 10)] {
        let pod = pod(name, json!({"spec": {"priority": priority}}));
        mind.apply(&Change { old: None, new: Some(Object::Pod(pod)) });
    }
    let mut order = Vec::new();
    while let Some(Decision::Bind { pod, .. }) = mind.next(Timestamp::UNIX_EPOCH, 0) {
        order.push(meta::name(&pod.metadata).to_owned());
    }
    assert_eq!(order, ["vip", "old", "young"]);
}

#[test]
fn a_refused_pod_is_tried_again_when_something_changes() {
    let mut mind = Mind::default();
    let now = Timestamp::UNIX_EPOCH;
    mind.apply(&Change { old: None, new: Some(Object::Pod(pod("a", json!({})))) });
    assert!(matches!(mind.next(now, 0), Some(Decision::Refuse { reason: "Unschedulable", .. })));
    let later = now + std::time::Duration::from_secs(20);
    assert!(mind.next(later, 0).is_none(), "nothing has changed");
    let node: k8s_openapi::api::core::v1::Node = serde_json::from_value(node("n1", json!({}))).unwrap();
    mind.apply(&Change { old: None, new: Some(node.into()) });
    assert!(mind.next(now, 0).is_none(), "its pause is not over");
    assert!(matches!(mind.next(later, 0), Some(Decision::Bind { .. })));
}

#[test]
fn a_binding_that_failed_frees_the_room_and_is_tried_again() {
    let mut mind = Mind::default();
    let now = Timestamp::UNIX_EPOCH;
    let big = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1500m"}}}]}});
    let node: k8s_openapi::api::core::v1::Node = serde_json::from_value(node("n1", json!({}))).unwrap();
    mind.apply(&Change { old: None, new: Some(node.into()) });
    let pod = pod("a", big);
    mind.apply(&Change { old: None, new: Some(Object::Pod(pod.clone())) });
    assert!(matches!(mind.next(now, 0), Some(Decision::Bind { .. })));
    mind.not_bound(&Key::of(&pod.metadata), now);
    let later = now + std::time::Duration::from_secs(2);
    assert!(matches!(mind.next(later, 0), Some(Decision::Bind { .. })));
}

#[test]
fn a_gated_pod_is_not_placed() {
    let mut mind = Mind::default();
    let node: k8s_openapi::api::core::v1::Node = serde_json::from_value(node("n1", json!({}))).unwrap();
    mind.apply(&Change { old: None, new: Some(node.into()) });
    let gated = pod("a", json!({"spec": {"schedulingGates": [{"name": "wait"}]}}));
    mind.apply(&Change { old: None, new: Some(Object::Pod(gated)) });
    let decision = mind.next(Timestamp::UNIX_EPOCH, 0);
    assert!(matches!(decision, Some(Decision::Refuse { reason: "SchedulingGated", .. })));
}
