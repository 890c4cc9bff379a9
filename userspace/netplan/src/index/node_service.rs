//! The Service that each node serves itself: DNS.
//!
//! In: that Service. Out: the facts of a pod that policies take its addresses for: one with the labels and ports of the Service. So a rule for the name servers of `kube-system` allows what it would allow if they were pods.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use skep_abi::{Addr, Proto};
use skep_policy::{Endpoint, Labels, NamedPort};

use super::interner::Interner;
use super::pod::PodFacts;
use super::service::ServiceFacts;

/// Prefix of the keys of such peers; no pod has it, since namespaces have no colon.
const KEY_PREFIX: &str = "service:";

pub(crate) fn peer_key(service: &str) -> Arc<str> {
    format!("{KEY_PREFIX}{service}").into()
}

pub(crate) fn is_peer(key: &str) -> bool {
    key.starts_with(KEY_PREFIX)
}

/// The key of the Service that such a peer stands for.
pub(crate) fn service_of_peer(key: &str) -> Option<&str> {
    key.strip_prefix(KEY_PREFIX)
}

pub(crate) fn peer(service: &Service, facts: &ServiceFacts, interner: &mut Interner) -> Option<PodFacts> {
    if !facts.of_node {
        return None;
    }
    let ports = facts.ports.iter().filter(|port| matches!(port.proto, Proto::TCP | Proto::UDP));
    let ports = ports.map(|port| NamedPort { name: port.name.clone(), proto: port.proto, port: port.port });
    Some(PodFacts {
        endpoint: Endpoint {
            namespace: interner.text(service.metadata.namespace.as_deref().unwrap_or_default()),
            labels: interner.labels(Labels::from(service.metadata.labels.as_ref())),
            ports: interner.ports(ports.collect()),
            addrs: facts.cluster_ips.iter().map(|ip| Addr::from(*ip)).collect(),
        },
        uid: Box::default(),
        on_this_node: false,
        deleting: false,
        ingress_bandwidth: None,
        egress_bandwidth: None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::index::Index;

    fn service(annotation: &str, spec: Value) -> k8s_openapi::api::core::v1::Service {
        let mut service = json!({
            "metadata": {"namespace": "kube-system", "name": "kube-dns", "labels": {"k8s-app": "kube-dns"},
                "annotations": {"skep.io/served-by": annotation}},
            "spec": {"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00::a"],
                "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]},
        });
        for (field, value) in spec.as_object().unwrap() {
            service["spec"][field] = value.clone();
        }
        serde_json::from_value(service).unwrap()
    }

    #[test]
    fn a_service_of_the_node_is_a_peer_with_its_labels_until_pods_serve_it() {
        let mut index = Index::new("n1");
        let peers = |index: &Index| {
            let peers =
                index.pods.values().map(|pod| (pod.endpoint.addrs.len(), pod.endpoint.labels.clone()));
            peers.collect::<Vec<_>>()
        };
        index.apply_service(&service("node", json!({})));
        index.keep_pods(&Default::default());
        let [(2, labels)] = &*peers(&index) else { panic!("one peer with two addresses") };
        assert_eq!(labels.get("k8s-app"), Some("kube-dns"));
        assert_eq!(index.dns_addrs().count(), 2);
        for other in
            [service("node", json!({"selector": {"k8s-app": "kube-dns"}})), service("pods", json!({}))]
        {
            index.apply_service(&service("node", json!({})));
            index.apply_service(&other);
            assert_eq!((peers(&index).len(), index.dns_addrs().count()), (0, 0));
        }
        index.apply_service(&service("node", json!({})));
        index.delete_service("kube-system/kube-dns");
        assert_eq!((peers(&index).len(), index.dns_addrs().count()), (0, 0));
    }
}
