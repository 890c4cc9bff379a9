//! Measures the scheduler alone, without a server: `decisions NODES PODS TEMPLATE`.
//!
//! TEMPLATE is a file with a Pod in JSON; `@NAME` and `@APP` in it become the names of the pod and of its application, one for each
//! 50 pods. All pods wait behind a scheduling gate and are let go at once, on nodes of 32 cores with thirty small pods each. Prints one
//! line of JSON: decisions a second, from the removal of the gates on, and how many of them were bindings.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodSchedulingGate};
use serde_json::{Value, json};
use skep_control::cache::{Change, Object};
use skep_control::scheduler::{Decision, Scheduler};

type Failure = Box<dyn std::error::Error>;

const REPLICAS: usize = 50;
const PODS_OF_NODE: usize = 30;
const SEED: u64 = 7;

fn node(number: usize) -> serde_json::Result<Node> {
    let name = format!("node-{number:05}");
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", number % 3),
        }},
        "spec": {},
        "status": {"allocatable": {"cpu": "32", "memory": "128Gi", "pods": "110"}},
    }))
}

/// A pod that runs already.
fn small(number: usize, nodes: usize) -> serde_json::Result<Pod> {
    let name = format!("old-{number:06}");
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "bench", "uid": name, "labels": {"app": "old"}},
        "spec": {"nodeName": format!("node-{:05}", number % nodes),
            "containers": [{"name": "main", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]},
    }))
}

fn waiting(template: &str, number: usize) -> serde_json::Result<Pod> {
    let name = format!("new-{number:06}");
    let text = template.replace("@NAME", &name).replace("@APP", &format!("app-{}", number / REPLICAS));
    let mut pod: Pod = serde_json::from_str(&text)?;
    pod.metadata.uid = Some(name);
    Ok(pod)
}

fn put(scheduler: &mut Scheduler, old: Option<Arc<Pod>>, new: Arc<Pod>, now: Timestamp) {
    scheduler.apply(&Change { old: old.map(Object::Pod), new: Some(Object::Pod(new)) }, now);
}

fn gated(pod: &Pod) -> Arc<Pod> {
    let mut pod = pod.clone();
    let gate = PodSchedulingGate { name: "bench.example/start".into() };
    pod.spec.get_or_insert_default().scheduling_gates = Some(vec![gate]);
    Arc::new(pod)
}

fn bound(pod: &Arc<Pod>, node: &str) -> Arc<Pod> {
    let mut bound = Pod::clone(pod);
    bound.spec.get_or_insert_default().node_name = Some(node.to_owned());
    Arc::new(bound)
}

fn cluster(nodes: usize, now: Timestamp) -> serde_json::Result<Scheduler> {
    let mut scheduler = Scheduler::default();
    for number in 0..nodes {
        let node = Object::Node(Arc::new(node(number)?));
        scheduler.apply(&Change { old: None, new: Some(node) }, now);
    }
    for number in 0..nodes * PODS_OF_NODE {
        put(&mut scheduler, None, Arc::new(small(number, nodes)?), now);
    }
    Ok(scheduler)
}

fn measure(template: &str, nodes: usize, pods: usize) -> serde_json::Result<Value> {
    let now = Timestamp::UNIX_EPOCH;
    let mut scheduler = cluster(nodes, now)?;
    let mut changes = Vec::new();
    for number in 0..pods {
        let pod = waiting(template, number)?;
        let gated = gated(&pod);
        put(&mut scheduler, None, gated.clone(), now);
        changes.push((gated, Arc::new(pod)));
    }
    let (mut decisions, mut bindings, start) = (0, 0, Instant::now());
    for (gated, open) in changes {
        put(&mut scheduler, Some(gated), open, now);
    }
    while decisions < pods
        && let Some(decision) = scheduler.next(now, SEED)
    {
        decisions += 1;
        if let Decision::Bind { pod, node } = decision {
            bindings += 1;
            let bound = bound(&pod, &node);
            put(&mut scheduler, Some(pod), bound, now);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(json!({"rate": f64::from(decisions as u32) / seconds, "decisions": decisions, "bindings": bindings}))
}

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [nodes, pods, template] = words.as_slice() else {
        return Err("decisions NODES PODS TEMPLATE".into());
    };
    let template = std::fs::read_to_string(template).map_err(|error| format!("read {template}: {error}"))?;
    println!("{}", measure(&template, nodes.parse()?, pods.parse()?)?);
    Ok(())
}
