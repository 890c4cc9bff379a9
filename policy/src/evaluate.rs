//! The reference verdict: NetworkPolicy evaluated literally, without tables, caches or classes.
//!
//! In: API objects and one packet. Out: allowed or not. Slow on purpose; the entries of [`crate::compile`] must agree
//! with it. It expects policies that passed the API server's validation.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use skep_abi::{Direction, Proto};

pub type LabelMap = BTreeMap<String, String>;

#[derive(Clone, Debug)]
pub struct Pod {
    pub namespace: String,
    pub labels: LabelMap,
    /// Name, protocol and number of container ports.
    pub ports: Vec<(String, Proto, u16)>,
    pub addrs: Vec<IpAddr>,
}

/// The cluster's policies, labels of namespaces by name, and pods.
#[derive(Clone, Debug)]
pub struct World {
    pub policies: Vec<NetworkPolicy>,
    pub namespaces: BTreeMap<String, LabelMap>,
    pub pods: Vec<Pod>,
}

/// `port` is the destination port: the pod's for ingress, the peer's for egress; 0 for protocols without ports.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub direction: Direction,
    pub peer: IpAddr,
    pub proto: Proto,
    pub port: u16,
}

/// Whether `pod` may receive (ingress) or send (egress) the packet.
pub fn allows(world: &World, pod: &Pod, packet: Packet) -> bool {
    let mut isolated = false;
    for policy in &world.policies {
        let Some(spec) = &policy.spec else { continue };
        let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
        let everything = LabelSelector::default();
        let selector = spec.pod_selector.as_ref().unwrap_or(&everything);
        if namespace != pod.namespace || !selects(selector, &pod.labels) {
            continue;
        }
        let has = |name: &str| spec.policy_types.iter().flatten().any(|t| t == name);
        let defaulted = spec.policy_types.as_ref().is_none_or(Vec::is_empty);
        let rules: Vec<_> = if packet.direction == Direction::INGRESS {
            if !(has("Ingress") || defaulted) {
                continue;
            }
            spec.ingress.iter().flatten().map(|rule| (&rule.from, &rule.ports)).collect()
        } else {
            let any = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
            if !(has("Egress") || defaulted && any) {
                continue;
            }
            spec.egress.iter().flatten().map(|rule| (&rule.to, &rule.ports)).collect()
        };
        isolated = true;
        for (peers, ports) in rules {
            if peers_match(world, namespace, peers, packet) && ports_match(world, pod, ports, packet) {
                return true;
            }
        }
    }
    !isolated
}

fn peers_match(
    world: &World,
    namespace: &str,
    peers: &Option<Vec<NetworkPolicyPeer>>,
    packet: Packet,
) -> bool {
    let peers = peers.as_deref().unwrap_or_default();
    peers.is_empty() || peers.iter().any(|peer| peer_matches(world, namespace, peer, packet.peer))
}

fn peer_matches(world: &World, namespace: &str, peer: &NetworkPolicyPeer, addr: IpAddr) -> bool {
    if let Some(block) = &peer.ip_block {
        return block_matches(block, addr);
    }
    let Some(pod) = pod_at(world, addr) else { return false };
    let in_namespace = match &peer.namespace_selector {
        None => pod.namespace == namespace,
        Some(selector) => {
            world.namespaces.get(&pod.namespace).is_some_and(|labels| selects(selector, labels))
        }
    };
    in_namespace && peer.pod_selector.as_ref().is_none_or(|selector| selects(selector, &pod.labels))
}

fn block_matches(block: &IPBlock, addr: IpAddr) -> bool {
    let inside = |text: &String| text.parse::<IpNetwork>().is_ok_and(|network| network.contains(addr));
    inside(&block.cidr) && !block.except.iter().flatten().any(inside)
}

fn ports_match(world: &World, pod: &Pod, ports: &Option<Vec<NetworkPolicyPort>>, packet: Packet) -> bool {
    let ports = ports.as_deref().unwrap_or_default();
    // The pod that receives the packet resolves named ports.
    let receiver =
        if packet.direction == Direction::INGRESS { Some(pod) } else { pod_at(world, packet.peer) };
    ports.is_empty() || ports.iter().any(|port| port_matches(receiver, port, packet))
}

fn port_matches(receiver: Option<&Pod>, port: &NetworkPolicyPort, packet: Packet) -> bool {
    let proto = match port.protocol.as_deref().unwrap_or("TCP") {
        "TCP" => Proto::TCP,
        "UDP" => Proto::UDP,
        _ => Proto::SCTP,
    };
    if proto != packet.proto {
        return false;
    }
    let number = i32::from(packet.port);
    match &port.port {
        None => true,
        Some(IntOrString::Int(first)) => *first <= number && number <= port.end_port.unwrap_or(*first),
        Some(IntOrString::String(name)) => receiver.is_some_and(|receiver| {
            let found = receiver.ports.iter().find(|(n, p, _)| n == name && *p == proto);
            found.is_some_and(|(_, _, port)| *port == packet.port)
        }),
    }
}

fn pod_at(world: &World, addr: IpAddr) -> Option<&Pod> {
    world.pods.iter().find(|pod| pod.addrs.contains(&addr))
}

fn selects(selector: &LabelSelector, labels: &LabelMap) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|expression| {
            let value = labels.get(&expression.key);
            let listed = value.is_some_and(|v| expression.values.iter().flatten().any(|w| w == v));
            match expression.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                _ => value.is_none(),
            }
        })
}
