//! The view as API objects, and as changes of an index in the order in which lists would come.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};
use skep_network::engine::Message;

use super::view::{PodName, View};
use crate::cluster::{NODE_ADDR, object};

/// Every object of the first lists.
pub(super) fn lists(view: View) -> impl Iterator<Item = Message> {
    let size = view.size;
    let nodes = (0..size.nodes).map(|n| apply(node(n), |index, node| index.apply_node(node)));
    let namespaces =
        (0..size.namespaces).map(|n| apply(namespace(n), |index, object| index.apply_namespace(object)));
    let policies = (0..size.policies()).map(|n| policy_message(policy(n, 0)));
    let local = (0..size.local_pods).map(move |n| pod_message(&view.local_pod(n)));
    let pods = local.chain((0..size.pods).map(move |n| pod_message(&view.pod(n))));
    let services = (0..size.services).flat_map(move |n| {
        [apply(service(n), |index, service| index.apply_service(service)), slice_message(slice(&view, n, 0))]
    });
    nodes.chain(namespaces).chain(policies).chain(pods).chain(services)
}

fn apply<K: Send + 'static>(object: K, apply: fn(&mut skep_netplan::Index, &K)) -> Message {
    Message::index(move |index| apply(index, &object))
}

fn pod_message(name: &PodName) -> Message {
    apply(pod(name), |index, pod| index.apply_pod(pod))
}

pub(super) fn policy_message(policy: NetworkPolicy) -> Message {
    apply(policy, |index, policy| index.apply_policy(policy))
}

pub(super) fn slice_message(slice: EndpointSlice) -> Message {
    apply(slice, |index, slice| index.apply_slice(slice))
}

fn node(number: u32) -> Node {
    let addr = if number == 0 { NODE_ADDR } else { View::node_addr(number) };
    object(json!({
        "metadata": {"name": View::node_name(number),
                     "labels": {"topology.kubernetes.io/zone": format!("zone-{}", number % 3)}},
        "spec": {"podCIDR": View::pod_cidr(number)},
        "status": {"addresses": [{"type": "InternalIP", "address": addr}],
                   "conditions": [{"type": "Ready", "status": "True"}]},
    }))
}

fn namespace(number: u32) -> Namespace {
    let (name, team) = (View::namespace(number), format!("team-{}", View::team(number)));
    object(json!({"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name, "team": team}}}))
}

fn pod(name: &PodName) -> Pod {
    let PodName { namespace, name, app, node, addr } = name;
    let hash = format!("{namespace}-{app}");
    let ips: Vec<Value> = addr.iter().map(|ip| json!({"ip": ip})).collect();
    object(json!({
        "metadata": {"namespace": namespace, "name": name, "uid": uid(namespace, name),
                     "labels": {"app": format!("app-{app}"), "pod-template-hash": hash, "tier": "backend"}},
        "spec": {"nodeName": node,
                 "containers": [{"name": "main", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": addr, "podIPs": ips},
    }))
}

pub(super) fn uid(namespace: &str, name: &str) -> String {
    format!("{namespace}-{name}-8a1f-4a0e")
}

/// Of each namespace two: the even one isolates all of its pods and lets in those of the namespace and of a team; the odd one is
/// one app's. A version has other peers and another port.
pub(super) fn policy(number: u32, version: u32) -> NetworkPolicy {
    let namespace = number / 2;
    let team = json!({"matchLabels": {"team": format!("team-{}", (View::team(namespace) + 1) % 20)}});
    let app = |app: u32| json!({"matchLabels": {"app": format!("app-{app}")}});
    let spec = match number % 2 {
        0 => json!({
            "podSelector": {}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {}}]},
                        {"from": [{"namespaceSelector": team}],
                         "ports": [{"protocol": "TCP", "port": 8_080 + version % 2}]}],
        }),
        _ => json!({
            "podSelector": app(0), "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"namespaceSelector": team, "podSelector": app(1 + version % 2)}]}],
            "egress": [{"to": [{"podSelector": {}}]},
                       {"to": [{"ipBlock": {"cidr": Ipv4Addr::from((198 << 24) + (namespace << 8)).to_string() + "/24"}}],
                        "ports": [{"protocol": "TCP", "port": 443}]},
                       {"ports": [{"protocol": "UDP", "port": 53}]}],
        }),
    };
    let meta = json!({"namespace": View::namespace(namespace), "name": format!("policy-{number}")});
    object(json!({"metadata": meta, "spec": spec}))
}

fn service_port(number: u32) -> (&'static str, u16, u16) {
    if View::is_udp(number) { ("UDP", 53, 5353) } else { ("TCP", 80, 8080) }
}

/// Namespace and name.
fn service_name(number: u32) -> (String, String) {
    (View::namespace(number % 500), format!("service-{number}"))
}

fn service(number: u32) -> Service {
    let (namespace, name) = service_name(number);
    let (proto, port, target) = service_port(number);
    let (node_port, balancer) = (View::node_port(number), View::balancer_ip(number));
    let kind = match (node_port, balancer) {
        (_, Some(_)) => "LoadBalancer",
        (Some(_), None) => "NodePort",
        (None, None) => "ClusterIP",
    };
    let ip = View::service_ip(number);
    let external: Vec<Ipv4Addr> = View::external_ip(number).into_iter().collect();
    let ingress: Vec<Value> = balancer.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
    let conditions: Vec<Value> = balancer
        .iter()
        .map(|_| {
            json!({"type": "skep.io/LoadBalancerAddress", "status": "True", "reason": "Allocated", "message": "",
                   "lastTransitionTime": "2026-01-01T00:00:00Z"})
        })
        .collect();
    object(json!({
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"type": kind, "clusterIP": ip, "clusterIPs": [ip], "externalIPs": external,
                 "ports": [{"name": "main", "protocol": proto, "port": port, "targetPort": target,
                            "nodePort": node_port}]},
        "status": {"loadBalancer": {"ingress": ingress}, "conditions": conditions},
    }))
}

pub(super) fn slice(view: &View, number: u32, version: u32) -> EndpointSlice {
    let (namespace, name) = service_name(number);
    let (proto, _, target) = service_port(number);
    let endpoints = view.endpoints(number, version).map(|pod| {
        json!({"addresses": [pod.addr], "nodeName": pod.node,
               "targetRef": {"kind": "Pod", "namespace": pod.namespace, "name": pod.name},
               "conditions": {"ready": true, "serving": true, "terminating": false}})
    });
    object(json!({
        "metadata": {"namespace": namespace, "name": format!("{name}-abcde"),
                     "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"name": "main", "protocol": proto, "port": target}],
        "endpoints": endpoints.collect::<Vec<_>>(),
    }))
}
