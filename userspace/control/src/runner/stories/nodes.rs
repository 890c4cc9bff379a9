//! Stories of nodes: lost, returning and deleted ones.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use serde_json::json;

use super::{deployment, work, work_once};
use crate::Config;
use crate::cache::{Key, Kind, Object};
use crate::controllers::{self, node_conditions, node_lifecycle, pods};
use crate::runner::sim::Sim;

fn whole_cluster() -> Sim {
    let mut sim = Sim::new(controllers::all(&Config {
        node_grace: Duration::from_secs(5),
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        ..Default::default()
    }));
    for name in ["n1", "n2", "n3"] {
        sim.create(
            serde_json::from_value::<Node>(json!({
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
    let key = Key::new(node_lifecycle::LEASES, node);
    let time = MicroTime(sim.now);
    if sim.patch(Kind::Lease, &key, json!({"spec": {"renewTime": time}})).is_none() {
        let lease =
            json!({"metadata": {"namespace": "kube-node-lease", "name": node}, "spec": {"renewTime": time}});
        sim.create(serde_json::from_value::<Lease>(lease).unwrap());
    }
}

/// Time passes second by second; the named nodes renew their leases, and their kubelets work.
fn pass(sim: &mut Sim, seconds: u64, alive: &[&str]) {
    for _ in 0..seconds {
        sim.advance(Duration::from_secs(1));
        alive.iter().for_each(|node| renew(sim, node));
        for _ in 0..20 {
            work_once(sim);
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
        serde_json::from_value::<Service>(json!({
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
    assert_eq!(node_conditions::ready_status(&node), "Unknown");
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
    work(&mut sim);
    let gone = sim.pods().iter().filter(|p| p.metadata.deletion_timestamp.is_some()).count();
    assert!(gone == 0, "{gone} evicted by a fault that is more likely the server's");
}

#[test]
fn pods_of_a_deleted_node_go_and_networks_are_given_once() {
    let mut sim = whole_cluster();
    let cidrs: BTreeSet<String> = sim
        .all(Kind::Node)
        .iter()
        .filter_map(|o| if let Object::Node(n) = o { n.spec.as_ref()?.pod_cidr.clone() } else { None })
        .collect();
    assert_eq!(cidrs.len(), 3);
    sim.create(tolerating(300));
    pass(&mut sim, 3, &["n1", "n2", "n3"]);
    sim.remove(Kind::Node, &Key::cluster("n1"));
    pass(&mut sim, 35, &["n2", "n3"]);
    assert_eq!((sim.pods().len(), on_node(&sim, "n1")), (3, 1), "it may be registered again");
    pass(&mut sim, 10, &["n2", "n3"]);
    assert_eq!((sim.pods().len(), on_node(&sim, "n1")), (3, 0));
}

#[test]
fn a_step_of_the_wall_clock_makes_no_node_unreachable() {
    let mut sim = whole_cluster();
    pass(&mut sim, 2, &["n1", "n2", "n3"]);
    sim.step = Duration::from_secs(50);
    work(&mut sim);
    pass(&mut sim, 2, &[]);
    for node in sim.all(Kind::Node) {
        let Object::Node(node) = node else { panic!("{node:?}") };
        assert_eq!(node_conditions::ready_status(&node), "True");
    }
    pass(&mut sim, 4, &["n1", "n2"]);
    let Some(Object::Node(lost)) = sim.get(Kind::Node, &Key::cluster("n3")) else { panic!("n3") };
    assert_eq!(node_conditions::ready_status(&lost), "Unknown");
}
