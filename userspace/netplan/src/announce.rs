//! The load balancer addresses that this node answers for on its link; each address has one owner.
//!
//! In: the index. Out: addresses. Every node computes the same owners from the same objects (rendezvous hashing), without
//! messages; when a node comes or goes, only its own addresses move. With externalTrafficPolicy Local only nodes with a
//! ready endpoint are candidates.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use skep_abi::StableHasher;

use crate::index::{Index, NodeFacts, ServiceFacts};

/// The addresses that this node owns now.
pub fn compile(index: &Index) -> BTreeSet<IpAddr> {
    let mut services: BTreeMap<IpAddr, Vec<(&Arc<str>, &ServiceFacts)>> = BTreeMap::new();
    for (key, facts) in index.announced_services() {
        for addr in index.without_taken(facts).announced() {
            services.entry(*addr).or_default().push((key, facts));
        }
    }
    if services.is_empty() {
        return BTreeSet::new();
    }
    let nodes: Vec<(&str, &NodeFacts)> =
        index.nodes().filter(|(_, node)| node.accepts_external_traffic()).collect();
    let own: BTreeSet<IpAddr> = index.nodes().flat_map(|(_, node)| node.addrs()).collect();
    let mine = services.iter().filter(|(addr, services)| {
        // The kernel answers for a node's own address.
        !own.contains(addr) && owner(**addr, &nodes, services, index) == Some(index.node_name())
    });
    mine.map(|(addr, _)| *addr).collect()
}

/// The node that answers for the address; `None` without candidates.
fn owner<'n>(
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

/// The same on every node, whatever its version: two nodes that differ would both answer for an address.
fn weight(addr: IpAddr, node: &str) -> u64 {
    let addr = match addr {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    StableHasher::new().bytes(&addr).bytes(node.as_bytes()).finish()
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
            self.objects.push((
                "service",
                json!({
                    "metadata": {"name": name, "namespace": "ns"},
                    "spec": {
                        "type": "LoadBalancer", "clusterIP": "10.96.0.9", "externalTrafficPolicy": policy,
                        "ports": [{"port": 80}],
                    },
                    "status": {
                        "loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"}]},
                        "conditions": [{
                            "type": "skep.io/LoadBalancerAddress", "status": "True", "reason": "Allocated",
                            "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
                        }],
                    },
                }),
            ));
        }

        fn endpoint(&mut self, service: &str, node: &str, ready: bool) {
            self.objects.push(("slice", json!({
                "metadata": {
                    "name": format!("{service}-{node}"), "namespace": "ns",
                    "labels": {"kubernetes.io/service-name": service},
                },
                "addressType": "IPv4", "ports": [{"name": "", "port": 80}],
                "endpoints": [{"addresses": ["10.1.0.9"], "nodeName": node, "conditions": {"ready": ready}}],
            })));
        }

        /// The addresses that the node owns, by its own computation.
        fn owned_by(&self, node: &str) -> BTreeSet<IpAddr> {
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

        /// The address's owner; panics if two nodes claim it.
        fn owner(&self, nodes: &[&str], ip: &str) -> Option<String> {
            let ip = ip.parse().unwrap();
            let owners: Vec<&&str> = nodes.iter().filter(|node| self.owned_by(node).contains(&ip)).collect();
            assert!(owners.len() < 2, "{ip}: {owners:?}");
            owners.first().map(ToString::to_string)
        }
    }

    #[test]
    fn weights_are_the_same_in_every_version() {
        let weights = ["192.0.2.1", "2001:db8::1"].map(|ip| weight(ip.parse().unwrap(), "node-a"));
        assert_eq!(weights, [0x4db2_7244_4bf6_6a53, 0x3e24_faa8_a493_8b28]);
    }

    const NAMES: [&str; 3] = ["a", "bb", "ccc"];

    #[test]
    fn one_ready_node_owns_an_address_and_only_its_own_move_when_it_goes() {
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
    fn with_the_local_policy_a_node_with_a_ready_endpoint_is_the_owner() {
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
    fn no_service_takes_the_address_of_a_node_a_pod_the_api_server_or_a_service() {
        let mut index = Index::new("a");
        let node = json!({
            "metadata": {"name": "a"}, "spec": {"podCIDRs": ["10.1.0.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]},
        });
        index.apply_node(&serde_json::from_value::<Node>(node).unwrap());
        let slice = json!({
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv4", "ports": [{"name": "https", "port": 6443}], "endpoints": [{"addresses": ["10.0.0.9"]}],
        });
        index.apply_slice(&serde_json::from_value::<EndpointSlice>(slice).unwrap());
        let service = |name: &str, cluster_ip: &str, external: &[&str]| {
            let service = json!({
                "metadata": {"name": name, "namespace": "ns"},
                "spec": {"clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "externalIPs": external, "ports": [{"port": 80}]},
            });
            serde_json::from_value::<Service>(service).unwrap()
        };
        index.apply_service(&service("other", "10.96.0.7", &[]));
        let external = ["10.0.0.1", "10.0.0.9", "10.1.0.5", "10.96.0.7", "192.0.2.1"];
        index.apply_service(&service("s", "10.96.0.8", &external));
        let kept = index.without_taken(&index.services["ns/s"]).external_ips.clone();
        assert_eq!(*kept, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(compile(&index), BTreeSet::new(), "the node is not ready");
    }

    #[test]
    fn neither_node_addresses_nor_those_of_other_balancers_have_an_owner() {
        let mut cluster = Cluster::new(&[("a", "True")]);
        cluster.service("s", "Cluster", "10.0.0.1");
        assert_eq!(cluster.owned_by("a"), BTreeSet::new());
        cluster.service("t", "Cluster", "192.0.2.1");
        cluster.objects.last_mut().unwrap().1["status"]["conditions"] = json!([]);
        assert_eq!(cluster.owned_by("a"), BTreeSet::new());
        let external = json!({"metadata": {"name": "e", "namespace": "ns"}, "spec": {
            "type": "ClusterIP", "clusterIP": "10.96.0.8", "externalIPs": ["192.0.2.2"], "ports": [{"port": 80}]}});
        cluster.objects.push(("service", external));
        assert_eq!(cluster.owner(&["a"], "192.0.2.2").as_deref(), Some("a"));
    }

    /// Whether the change makes a new version of what is published.
    fn is_published(index: &mut Index, change: impl FnOnce(&mut Index)) -> bool {
        let before = index.published_version();
        change(index);
        index.published_version() != before
    }

    #[test]
    fn only_what_announcements_are_made_of_is_published_again() {
        let service = |name: &str, ip: &str, external: &[&str], policy: &str| -> Service {
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "ns"},
                "spec": {"clusterIP": ip, "externalIPs": external, "externalTrafficPolicy": policy,
                         "ports": [{"port": 80}]},
            }))
            .unwrap()
        };
        let slice = |service: &str, addr: &str| -> EndpointSlice {
            serde_json::from_value(json!({
                "metadata": {"name": service, "namespace": "ns", "labels": {"kubernetes.io/service-name": service}},
                "addressType": "IPv4", "ports": [{"name": "", "port": 80}], "endpoints": [{"addresses": [addr]}],
            }))
            .unwrap()
        };
        let mut index = Index::new("n1");
        let mut put = |s: Service| is_published(&mut index, |index| index.apply_service(&s));
        assert!(put(service("all", "10.96.0.1", &["192.0.2.1"], "Cluster")));
        assert!(put(service("own", "10.96.0.2", &["192.0.2.2"], "Local")));
        assert!(!put(service("plain", "10.96.0.3", &[], "Cluster")));
        // It takes the external IP of another.
        assert!(put(service("taker", "192.0.2.1", &[], "Cluster")));
        for (name, published) in [("all", false), ("own", true), ("plain", false), ("taker", false)] {
            let slice = slice(name, "10.1.0.1");
            assert_eq!(is_published(&mut index, |index| index.apply_slice(&slice)), published, "{name}");
        }
        assert!(!is_published(&mut index, |index| index.delete_service("ns/plain")));
        assert!(is_published(&mut index, |index| index.delete_service("ns/taker")));
        assert!(is_published(&mut index, |index| index.delete_service("ns/all")));
        // No Service has its external IP any more.
        let taker = service("taker", "192.0.2.1", &[], "Cluster");
        assert!(!is_published(&mut index, |index| index.apply_service(&taker)));
    }
}
