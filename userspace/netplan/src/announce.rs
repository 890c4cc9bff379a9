//! Which addresses of load balancers this node answers for on its link: one node an address.
//!
//! In: the index. Out: addresses. Every node computes the same choice from the same objects (rendezvous hashing), so
//! none has to be told; when a node comes or goes, only its own addresses move. With externalTrafficPolicy Local only
//! nodes with a ready endpoint are to choose from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::index::{Index, NodeFacts, ServiceFacts};

/// Addresses that this node answers for now.
pub fn compile(index: &Index) -> BTreeSet<IpAddr> {
    let mut services: BTreeMap<IpAddr, Vec<(&Arc<str>, &ServiceFacts)>> = BTreeMap::new();
    for (key, facts) in index.outward() {
        for addr in facts.announced() {
            services.entry(*addr).or_default().push((key, facts));
        }
    }
    if services.is_empty() {
        return BTreeSet::new();
    }
    let nodes: Vec<(&str, &NodeFacts)> = index.nodes().filter(|(_, node)| node.takes_load()).collect();
    let own: BTreeSet<IpAddr> = index.nodes().flat_map(|(_, node)| node.addrs()).collect();
    let mine = services.iter().filter(|(addr, services)| {
        // A node's own address its kernel answers for.
        !own.contains(addr) && leader(**addr, &nodes, services, index) == Some(index.node_name())
    });
    mine.map(|(addr, _)| *addr).collect()
}

fn leader<'n>(
    addr: IpAddr,
    nodes: &[(&'n str, &NodeFacts)],
    services: &[(&Arc<str>, &ServiceFacts)],
    index: &Index,
) -> Option<&'n str> {
    let local: Vec<&Arc<str>> =
        services.iter().filter(|(_, f)| f.external_local).map(|(key, _)| *key).collect();
    let serves = |node: &str| local.is_empty() || local.iter().any(|key| index.has_ready_endpoint(key, node));
    let names = nodes.iter().map(|(name, _)| *name).filter(|name| serves(name));
    names.max_by_key(|name| (weight(addr, name), *name))
}

/// FNV-1a, finished by a mix: the same on every node whatever it is built by.
fn weight(addr: IpAddr, node: &str) -> u64 {
    let addr = match addr {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    let bytes = addr.into_iter().chain(node.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Node, Service};
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use serde_json::{Value, json};

    use super::*;

    struct Cluster {
        objects: Vec<(&'static str, Value)>,
    }

    impl Cluster {
        fn new(nodes: &[(&str, &str)]) -> Self {
            let node = |(name, ready): &(&str, &str)| {
                json!({"metadata": {"name": name}, "status": {
                    "conditions": [{"type": "Ready", "status": ready}],
                    "addresses": [{"type": "InternalIP", "address": format!("10.0.0.{}", name.len())}],
                }})
            };
            Cluster { objects: nodes.iter().map(|n| ("node", node(n))).collect() }
        }

        fn service(&mut self, name: &str, policy: &str, ip: &str) {
            self.objects.push(("service", json!({
                "metadata": {"name": name, "namespace": "ns"},
                "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.9", "externalTrafficPolicy": policy, "ports": [{"port": 80}]},
                "status": {
                    "loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"}]},
                    "conditions": [{"type": "skep.io/LoadBalancerAddress", "status": "True", "reason": "Allocated", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                },
            })));
        }

        fn endpoint(&mut self, service: &str, node: &str, ready: bool) {
            self.objects.push(("slice", json!({
                "metadata": {"name": format!("{service}-{node}"), "namespace": "ns", "labels": {"kubernetes.io/service-name": service}},
                "addressType": "IPv4", "ports": [{"name": "", "port": 80}],
                "endpoints": [{"addresses": ["10.1.0.9"], "nodeName": node, "conditions": {"ready": ready}}],
            })));
        }

        fn seen_by(&self, node: &str) -> BTreeSet<IpAddr> {
            let mut index = Index::new(node);
            for (kind, object) in &self.objects {
                let object = object.clone();
                match *kind {
                    "node" => index.apply_node(&serde_json::from_value::<Node>(object).unwrap()),
                    "service" => index.apply_service(&serde_json::from_value::<Service>(object).unwrap()),
                    _ => index.apply_slice(&serde_json::from_value::<EndpointSlice>(object).unwrap()),
                }
            }
            compile(&index)
        }

        /// Who answers for the address; panics if two do.
        fn owner(&self, nodes: &[&str], ip: &str) -> Option<String> {
            let ip = ip.parse().unwrap();
            let owners: Vec<&&str> = nodes.iter().filter(|node| self.seen_by(node).contains(&ip)).collect();
            assert!(owners.len() < 2, "{ip}: {owners:?}");
            owners.first().map(ToString::to_string)
        }
    }

    const NAMES: [&str; 3] = ["a", "bb", "ccc"];

    #[test]
    fn one_ready_node_answers_and_only_what_it_had_moves_when_it_goes() {
        let mut cluster = Cluster::new(&[("a", "True"), ("bb", "True"), ("ccc", "True")]);
        let ips: Vec<String> = (1..40).map(|n| format!("192.0.2.{n}")).collect();
        ips.iter().for_each(|ip| cluster.service(&format!("s{ip}"), "Cluster", ip));
        let before: Vec<String> = ips.iter().map(|ip| cluster.owner(&NAMES, ip).unwrap()).collect();
        assert!(NAMES.iter().all(|name| before.iter().any(|owner| owner == name)), "{before:?}");
        let gone = json!({"metadata": {"name": "bb"}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
        cluster.objects.push(("node", gone));
        for (ip, before) in ips.iter().zip(before) {
            let after = cluster.owner(&NAMES, ip).unwrap();
            assert!(after == before || before == "bb" && after != "bb", "{ip}: {before} {after}");
        }
    }

    #[test]
    fn with_the_local_policy_a_node_with_a_ready_endpoint_answers() {
        let mut cluster = Cluster::new(&[("a", "True"), ("bb", "True"), ("ccc", "False")]);
        cluster.service("s", "Local", "192.0.2.1");
        assert_eq!(cluster.owner(&NAMES, "192.0.2.1"), None);
        cluster.endpoint("s", "a", false);
        cluster.endpoint("s", "ccc", true);
        assert_eq!(cluster.owner(&NAMES, "192.0.2.1"), None);
        cluster.endpoint("s", "bb", true);
        assert_eq!(cluster.owner(&NAMES, "192.0.2.1").as_deref(), Some("bb"));
    }

    #[test]
    fn neither_a_nodes_address_nor_another_balancers_is_answered_for() {
        let mut cluster = Cluster::new(&[("a", "True")]);
        cluster.service("s", "Cluster", "10.0.0.1");
        assert_eq!(cluster.seen_by("a"), BTreeSet::new());
        cluster.service("t", "Cluster", "192.0.2.1");
        cluster.objects.last_mut().unwrap().1["status"]["conditions"] = json!([]);
        assert_eq!(cluster.seen_by("a"), BTreeSet::new());
        let external = json!({"metadata": {"name": "e", "namespace": "ns"}, "spec": {
            "type": "ClusterIP", "clusterIP": "10.96.0.8", "externalIPs": ["192.0.2.2"], "ports": [{"port": 80}]}});
        cluster.objects.push(("service", external));
        assert_eq!(cluster.owner(&["a"], "192.0.2.2").as_deref(), Some("a"));
    }
}
