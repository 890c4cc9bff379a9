//! The facts about a Pod: its endpoint for policies, and its bandwidth limits.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use skep_abi::Addr;
use skep_policy::{Endpoint, Labels, NamedPort};

use super::interner::Interner;
use super::service::proto;

pub const INGRESS_BANDWIDTH: &str = "kubernetes.io/ingress-bandwidth";
pub const EGRESS_BANDWIDTH: &str = "kubernetes.io/egress-bandwidth";

/// What the planner keeps of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// Without addresses if the pod has none yet, has ended, or uses the host network.
    pub endpoint: Endpoint,
    /// Empty of pods of other nodes, of which nothing is asked by it.
    pub uid: Box<str>,
    pub on_this_node: bool,
    pub deleting: bool,
    /// The annotations' values; of pods of this node only.
    pub ingress_bandwidth: Option<Box<str>>,
    pub egress_bandwidth: Option<Box<str>>,
}

impl PodFacts {
    pub(crate) fn extract(pod: &Pod, node: &str, interner: &mut Interner) -> Self {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let ended = matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
        let host_network = spec.and_then(|s| s.host_network).unwrap_or(false);
        let addrs: Arc<[Addr]> = match ended || host_network {
            true => Arc::default(),
            false => pod_addrs(pod).collect(),
        };
        let labels = Labels::from(pod.metadata.labels.as_ref());
        let node_name = spec.and_then(|s| s.node_name.as_deref());
        let on_this_node = node_name == Some(node);
        let uid = pod.metadata.uid.as_deref().filter(|_| node_name.is_none() || on_this_node);
        let annotations = pod.metadata.annotations.as_ref().filter(|_| on_this_node);
        let annotation = |name| annotations?.get(name).map(|text| text.as_str().into());
        PodFacts {
            endpoint: Endpoint {
                namespace: interner.text(pod.metadata.namespace.as_deref().unwrap_or_default()),
                labels: interner.labels(labels),
                ports: interner.ports(named_ports(pod)),
                addrs,
            },
            uid: uid.unwrap_or_default().into(),
            on_this_node,
            deleting: pod.metadata.deletion_timestamp.is_some(),
            ingress_bandwidth: annotation(INGRESS_BANDWIDTH),
            egress_bandwidth: annotation(EGRESS_BANDWIDTH),
        }
    }
}

fn pod_addrs(pod: &Pod) -> impl Iterator<Item = Addr> {
    let status = pod.status.as_ref();
    let all = status.and_then(|s| s.pod_ips.as_deref()).unwrap_or_default();
    let only = status.and_then(|s| s.pod_ip.as_deref()).filter(|_| all.is_empty());
    let texts = all.iter().map(|ip| ip.ip.as_str()).chain(only);
    texts.filter_map(|text| text.parse::<IpAddr>().ok()).map(Addr::from)
}

/// Ports of containers, then of sidecars: the order in which a Service's targetPort is resolved.
fn named_ports(pod: &Pod) -> Vec<NamedPort> {
    let Some(spec) = pod.spec.as_ref() else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(NamedPort {
                name: port.name.as_deref().filter(|name| !name.is_empty())?.into(),
                proto: proto(port.protocol.as_deref())?,
                port: u16::try_from(port.container_port).ok()?,
            })
        })
        .collect()
}
