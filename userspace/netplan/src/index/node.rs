//! The facts about a Node: for routes, for node ports, and for the choice of a load balancer address's owner.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";
const EXCLUDED_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// What the planner keeps of a Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    pub internal_ips: Box<[IpAddr]>,
    pub external_ips: Box<[IpAddr]>,
    pub pod_cidrs: Box<[IpNetwork]>,
    pub zone: Box<str>,
    pub ready: bool,
    /// Has the label that excludes it from load balancers.
    pub excluded: bool,
    /// Being deleted, or tainted by the cluster autoscaler for deletion.
    pub leaving: bool,
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
        let labels = node.metadata.labels.as_ref();
        let zone = labels.and_then(|labels| labels.get(ZONE_LABEL));
        let mut taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
        let mut conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
        NodeFacts {
            internal_ips: of_type("InternalIP"),
            external_ips: of_type("ExternalIP"),
            // Routes have no host bits.
            pod_cidrs: cidrs.filter_map(|c| IpNetwork::new(c.network(), c.prefix()).ok()).collect(),
            zone: zone.map(|zone| zone.as_str().into()).unwrap_or_default(),
            ready: conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            leaving: node.metadata.deletion_timestamp.is_some()
                || taints.any(|taint| taint.key == TO_BE_DELETED_TAINT),
            excluded: labels.is_some_and(|labels| labels.contains_key(EXCLUDED_LABEL)),
        }
    }

    /// Whether it may answer for addresses of load balancers.
    pub fn accepts_external_traffic(&self) -> bool {
        self.ready && !self.excluded
    }

    /// InternalIPs, then ExternalIPs.
    pub fn addrs(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.internal_ips.iter().chain(self.external_ips.iter()).copied()
    }
}
