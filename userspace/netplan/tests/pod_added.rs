//! What a pod that is added costs: writes of its own, however large the cluster is.

use std::net::IpAddr;

use serde_json::{Value, json};
use skep_abi::Pod;
use skep_netplan::{Observed, Owner, Planner, Write};

const NODE: &str = "node-a";
const APPS: u32 = 10;

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn pod(name: &str, app: &str, node: &str, ip: Option<IpAddr>) -> Value {
    json!({"metadata": {"namespace": "ns", "name": name, "labels": {"app": app}}, "spec": {"nodeName": node},
           "status": {"podIP": ip, "podIPs": ip.map(|ip| vec![json!({"ip": ip})])}})
}

/// Policies of each app, which allow pods of the next one, and pods of other nodes.
fn planner(remote_pods: u32) -> Planner {
    let mut planner = Planner::new(NODE, vec![IpAddr::from([10, 78, 0, 1])], Observed::default());
    planner.index.apply_namespace(&object(json!({"metadata": {"name": "ns"}})));
    for number in 0..APPS {
        planner.index.apply_policy(&object(json!({
            "metadata": {"namespace": "ns", "name": format!("p{number}")},
            "spec": {"podSelector": {"matchLabels": {"app": format!("app-{number}")}}, "ingress": [{
                "from": [{"podSelector": {"matchLabels": {"app": format!("app-{}", (number + 1) % APPS)}}}],
                "ports": [{"port": 80}],
            }]},
        })));
    }
    for number in 0..remote_pods {
        let ip = IpAddr::from([10, 1, (number >> 8) as u8, number as u8]);
        let app = format!("app-{}", number % APPS);
        planner.index.apply_pod(&object(pod(&format!("r{number}"), &app, "node-b", Some(ip))));
    }
    planner.synced();
    planner
}

/// Adds a pod of an app; returns the writes.
fn add(planner: &mut Planner, number: u8, app: u32) -> Vec<Write> {
    let (name, app) = (format!("l{number}"), format!("app-{app}"));
    planner.index.apply_pod(&object(pod(&name, &app, NODE, None)));
    let owner = Owner { namespace: "ns".into(), name, uid: String::new() };
    let slot = planner.free_slot().unwrap();
    let value = Pod { ifindex: u32::from(number) + 1, slot, ..Pod::default() };
    planner.attach(&format!("sandbox-{number}"), &owner, &[IpAddr::from([10, 0, 2, number])], value);
    let mut plan = planner.plan();
    let writes = plan.writes.clone();
    plan.done(writes.len());
    planner.commit(plan);
    writes
}

#[test]
fn a_pod_whose_rules_are_known_costs_as_many_writes_in_a_large_cluster() {
    let counts = [100, 5_000].map(|remote_pods| {
        let mut planner = planner(remote_pods);
        add(&mut planner, 1, 0);
        let known = add(&mut planner, 2, 0);
        let (compiled, put): (Vec<_>, Vec<_>) =
            known.iter().partition(|write| matches!(write, Write::CreateVerdictMap { .. }));
        assert!(compiled.is_empty(), "its rules are those of the pod before: {compiled:?}");
        put.len()
    });
    assert_eq!(counts[0], counts[1], "writes with 100 pods and with 5,000");
    assert!(counts[0] < 12, "{} writes", counts[0]);
}
