//! Measures the scheduler's scheduler alone, without a server: `decisions [nodes] [pods] [case]...`.
//!
//! Prints for each case how many pods a second get a node. Cases: `owned` (replicas of controllers, spread by default),
//! `spread` (a hard zone constraint), `apart` (never two of an app on a node), `near` (with their app, by zone), `full`
//! (no room anywhere), `preempt` (room only in place of lesser pods).

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use skep_control::cache::{Change, Object};
use skep_control::scheduler::{Decision, Scheduler};

const REPLICAS: usize = 50;
const CASES: [&str; 6] = ["owned", "spread", "apart", "near", "full", "preempt"];

fn node(i: usize) -> Node {
    let name = format!("node-{i:05}");
    parse(json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", i % 3),
        }},
        "spec": {},
        "status": {"allocatable": {"cpu": "32", "memory": "128Gi", "pods": "110"}},
    }))
}

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object of this program's own")
}

fn pod(case: &str, prefix: &str, i: usize) -> Pod {
    let (name, app) = (format!("{prefix}-{i:06}"), format!("{prefix}-app-{}", i / REPLICAS));
    let mut pod = json!({
        "metadata": {"name": name, "namespace": format!("ns-{}", i / REPLICAS % 20), "uid": name,
            "labels": {"app": app},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": app, "uid": app,
                "controller": true}]},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]},
    });
    let selector = json!({"matchLabels": {"app": app}});
    let term = |key: &str| json!({"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": key, "labelSelector": selector}]});
    match case {
        "spread" => {
            pod["spec"]["topologySpreadConstraints"] = json!([{
                "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector,
            }]);
        }
        "apart" => pod["spec"]["affinity"]["podAntiAffinity"] = term("kubernetes.io/hostname"),
        "near" => pod["spec"]["affinity"]["podAffinity"] = term("topology.kubernetes.io/zone"),
        "full" => pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("100"),
        "preempt" => {
            pod["spec"]["priority"] = json!(1000);
            pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("31900m");
        }
        _ => {}
    }
    parse(pod)
}

fn put(scheduler: &mut Scheduler, old: Option<Arc<Pod>>, new: Arc<Pod>, now: Timestamp) {
    scheduler.apply(&Change { old: old.map(Object::Pod), new: Some(Object::Pod(new)) }, now);
}

fn bound(pod: &Arc<Pod>, node: &str) -> Arc<Pod> {
    let mut bound = Pod::clone(pod);
    bound.spec.get_or_insert_default().node_name = Some(node.to_owned());
    Arc::new(bound)
}

/// A cluster with thirty pods on each node.
fn cluster(nodes: usize, now: Timestamp) -> Scheduler {
    let mut scheduler = Scheduler::default();
    for i in 0..nodes {
        scheduler.apply(&Change { old: None, new: Some(Object::Node(Arc::new(node(i)))) }, now);
    }
    for i in 0..nodes * 30 {
        let pod = bound(&Arc::new(pod("owned", "old", i)), &format!("node-{:05}", i % nodes));
        put(&mut scheduler, None, pod, now);
    }
    scheduler
}

/// Decisions a second, and how many were bindings.
fn measure(case: &str, nodes: usize, pods: usize) -> (f64, usize) {
    let now = Timestamp::UNIX_EPOCH;
    let mut scheduler = cluster(nodes, now);
    let waiting: Vec<Arc<Pod>> = (0..pods).map(|i| Arc::new(pod(case, "new", i))).collect();
    let (mut spent, mut count, mut bindings) = (Duration::ZERO, 0, 0);
    for pod in waiting {
        let start = Instant::now();
        put(&mut scheduler, None, pod.clone(), now);
        let decision = scheduler.next(now, 7);
        spent += start.elapsed();
        count += usize::from(decision.is_some());
        if let Some(Decision::Bind { pod, node }) = decision {
            bindings += 1;
            let bound = bound(&pod, &node);
            let start = Instant::now();
            put(&mut scheduler, Some(pod), bound, now);
            spent += start.elapsed();
        }
    }
    (count as f64 / spent.as_secs_f64(), bindings)
}

fn main() {
    let mut args = std::env::args().skip(1);
    let mut number = |default| args.next().and_then(|arg| arg.parse().ok()).unwrap_or(default);
    let (nodes, pods) = (number(1_000), number(1_000));
    let chosen: Vec<String> = args.collect();
    for case in CASES.into_iter().filter(|case| chosen.is_empty() || chosen.iter().any(|c| c == case)) {
        let (rate, bindings) = measure(case, nodes, pods);
        println!("{case}: {rate:.0} decisions a second with {nodes} nodes; {bindings} of {pods} pods bound");
    }
}
