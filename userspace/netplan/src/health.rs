//! The answers to health checks of external load balancers, for Services with externalTrafficPolicy Local.
//!
//! In: the index. Out: for each healthCheckNodePort the number of ready endpoints on this node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skep_abi::Addr;

use crate::index::Index;

/// The Service of a healthCheckNodePort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceHealth {
    /// `namespace/name`.
    pub service: Arc<str>,
    /// Addresses of ready endpoints on this node.
    pub local_endpoints: usize,
}

/// By port. The API refuses two Services with one port; the first counts.
pub fn compile(index: &Index) -> BTreeMap<u16, ServiceHealth> {
    let mut ports = BTreeMap::new();
    for (key, facts) in index.announced_services().filter(|(_, facts)| facts.health_check_port != 0) {
        let endpoints = index.slices_of(key).flat_map(|slice| slice.endpoints.iter());
        let local: BTreeSet<Addr> = endpoints.filter(|e| e.local && e.ready).map(|e| e.addr).collect();
        let health = ServiceHealth { service: key.clone(), local_endpoints: local.len() };
        ports.entry(facts.health_check_port).or_insert(health);
    }
    ports
}

/// Whether load balancers may send new traffic to this node: its Node object exists and is not about to be deleted.
pub fn eligible(index: &Index) -> bool {
    index.this_node().is_some_and(|node| !node.leaving)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_is_eligible_until_it_is_about_to_be_deleted() {
        let mut index = Index::new("n1");
        assert!(!eligible(&index), "it has no Node object");
        let mut eligible_as = |node| {
            index.apply_node(&serde_json::from_value(node).unwrap());
            eligible(&index)
        };
        assert!(eligible_as(json!({"metadata": {"name": "n1"}})));
        let taint = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
        assert!(!eligible_as(json!({"metadata": {"name": "n1"}, "spec": {"taints": taint}})));
        assert!(!eligible_as(
            json!({"metadata": {"name": "n1", "deletionTimestamp": "2026-01-01T00:00:00Z"}})
        ));
    }

    #[test]
    fn ready_endpoints_of_this_node_are_counted_once_each() {
        let mut index = Index::new("n1");
        let service = json!({
            "metadata": {"name": "s", "namespace": "ns"},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.9", "externalTrafficPolicy": "Local",
                "healthCheckNodePort": 30000, "ports": [{"port": 80}]},
        });
        index.apply_service(&serde_json::from_value::<Service>(service.clone()).unwrap());
        let count = |index: &Index| compile(index).get(&30_000).map(|health| health.local_endpoints);
        assert_eq!(count(&index), Some(0));
        let endpoint = |ip: &str, node: &str, ready: bool| {
            let conditions = json!({"ready": ready, "serving": true, "terminating": !ready});
            json!({"addresses": [ip], "nodeName": node, "conditions": conditions})
        };
        for (name, port) in [("s-1", 80), ("s-2", 81)] {
            let slice = json!({
                "metadata": {"name": name, "namespace": "ns", "labels": {"kubernetes.io/service-name": "s"}},
                "addressType": "IPv4", "ports": [{"name": "", "port": port}],
                "endpoints": [
                    endpoint("10.1.0.1", "n1", true),
                    endpoint("10.1.0.2", "n1", false),
                    endpoint("10.1.0.3", "n2", true),
                ],
            });
            index.apply_slice(&serde_json::from_value::<EndpointSlice>(slice).unwrap());
        }
        assert_eq!(count(&index), Some(1));
        let mut cluster = service;
        cluster["spec"]["externalTrafficPolicy"] = json!("Cluster");
        index.apply_service(&serde_json::from_value::<Service>(cluster).unwrap());
        assert_eq!(count(&index), None);
    }
}
