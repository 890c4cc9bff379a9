//! What of a Node routes need.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;

const ZONE: &str = "topology.kubernetes.io/zone";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    pub internal_ips: Box<[IpAddr]>,
    pub external_ips: Box<[IpAddr]>,
    pub pod_cidrs: Box<[IpNetwork]>,
    pub zone: Box<str>,
}

impl NodeFacts {
    pub fn extract(node: &Node) -> Self {
        let addresses = node.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default();
        let of_type = |kind: &str| {
            let texts = addresses.iter().filter(|a| a.type_ == kind).map(|a| a.address.as_str());
            super::service::addresses(texts)
        };
        let spec = node.spec.as_ref();
        let all = spec.and_then(|s| s.pod_cidrs.as_deref()).unwrap_or_default();
        let only = spec.and_then(|s| s.pod_cidr.as_ref()).filter(|_| all.is_empty());
        let cidrs = all.iter().chain(only).filter_map(|text| text.parse::<IpNetwork>().ok());
        let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE));
        NodeFacts {
            internal_ips: of_type("InternalIP"),
            external_ips: of_type("ExternalIP"),
            // Without host bits, as routes are named.
            pod_cidrs: cidrs.filter_map(|c| IpNetwork::new(c.network(), c.prefix()).ok()).collect(),
            zone: zone.map(|zone| zone.as_str().into()).unwrap_or_default(),
        }
    }
}
