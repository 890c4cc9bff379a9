//! The cluster that every subject is given: so many services, three of them ours, as values and as API objects.
//!
//! Each subject stands in namespaces of its own, so all of them have the same addresses.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service as ServiceObject};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skep_netplan::Index;

/// This node, and where it stands on the uplink.
pub(crate) const NODE: &str = "node-a";
pub(crate) const NODE_ADDR: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
/// The other node: a neighbour without a machine behind it.
pub(crate) const OTHER: &str = "node-b";
pub(crate) const OTHER_ADDR: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
pub(crate) const OUTSIDE_ADDR: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 254);
/// Where pods of this node and of the other one have their addresses.
pub(crate) const POD_CIDR: &str = "10.77.1.0/24";
pub(crate) const OTHER_CIDR: &str = "10.128.0.0/9";
pub(crate) const CLUSTER_CIDR: &str = "10.0.0.0/8";

/// What the clients of requests and of iperf3 address, and where the servers listen.
pub(crate) const REQUESTS: Port =
    Port { name: "requests", proto: "TCP", port: 80, target: 8080, node_port: 0 };
pub(crate) const IPERF_PORT: u16 = 5201;
const IPERF: [Port; 2] = [
    Port { name: "iperf", proto: "TCP", port: IPERF_PORT, target: IPERF_PORT, node_port: 0 },
    Port { name: "iperf-udp", proto: "UDP", port: IPERF_PORT, target: IPERF_PORT, node_port: 0 },
];
/// What the packet source addresses at the node; its backend is the other node's.
pub(crate) const NODE_PORT: u16 = 30_053;
const REMOTE: Port = Port { name: "remote", proto: "UDP", port: 53, target: 5353, node_port: NODE_PORT };

/// A pair of pods of this node, and the service that leads from one to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) client: (&'static str, Ipv4Addr),
    pub(crate) server: (&'static str, Ipv4Addr),
    /// Policies select both.
    pub(crate) guarded: bool,
}

pub(crate) const OPEN: Pair = Pair {
    client: ("client", Ipv4Addr::new(10, 77, 1, 2)),
    server: ("server", Ipv4Addr::new(10, 77, 1, 3)),
    guarded: false,
};
pub(crate) const GUARDED: Pair = Pair {
    client: ("guarded-client", Ipv4Addr::new(10, 77, 1, 4)),
    server: ("guarded-server", Ipv4Addr::new(10, 77, 1, 5)),
    guarded: true,
};
const PAIRS: [Pair; 2] = [OPEN, GUARDED];

impl Pair {
    /// The service's cluster address.
    pub(crate) fn service(&self) -> Ipv4Addr {
        if self.guarded { cluster_ip(1) } else { cluster_ip(0) }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Port {
    pub(crate) name: &'static str,
    pub(crate) proto: &'static str,
    pub(crate) port: u16,
    pub(crate) target: u16,
    /// 0: none.
    pub(crate) node_port: u16,
}

#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) ip: Ipv4Addr,
    pub(crate) ports: Vec<Port>,
    pub(crate) endpoints: Vec<Ipv4Addr>,
}

/// `count` services, ours in the middle of them: rules that are walked one by one are then walked halfway. Ours are
/// there even if `count` is less.
pub(crate) fn services(count: u32) -> impl Iterator<Item = Service> {
    let others = count.saturating_sub(OURS);
    let half = OURS + others / 2;
    (OURS..half).map(other).chain(ours()).chain((half..OURS + others).map(other))
}

const OURS: u32 = 3;

fn ours() -> impl Iterator<Item = Service> {
    let pairs = PAIRS.iter().map(|pair| Service {
        name: pair.server.0.to_owned(),
        ip: pair.service(),
        ports: [&[REQUESTS][..], &IPERF].concat(),
        endpoints: vec![pair.server.1],
    });
    let remote = Service {
        name: "remote".to_owned(),
        ip: cluster_ip(2),
        ports: vec![REMOTE],
        endpoints: vec![Ipv4Addr::new(10, 128, 0, 1)],
    };
    pairs.chain([remote])
}

/// Two or three endpoints: 100,000 services have 250,000.
pub(crate) fn other(number: u32) -> Service {
    Service {
        name: format!("service-{number}"),
        ip: cluster_ip(number),
        ports: vec![REQUESTS],
        endpoints: (0..2 + number % 2).map(|e| remote_pod(number * 3 + e)).collect(),
    }
}

pub(crate) fn cluster_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 1)) + number)
}

pub(crate) fn remote_pod(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 129, 0, 0)) + number)
}

/// Everything that an API server would tell of the cluster.
pub(crate) fn apply(index: &mut Index, count: u32) {
    index.apply_node(&node(NODE, NODE_ADDR, POD_CIDR));
    index.apply_node(&node(OTHER, OTHER_ADDR, OTHER_CIDR));
    index.apply_namespace(&object::<Namespace>(json!({"metadata": {"name": "default"}})));
    for pair in PAIRS {
        index.apply_pod(&pod(pair.client.0));
        index.apply_pod(&pod(pair.server.0));
    }
    policies().iter().for_each(|policy| index.apply_policy(policy));
    for service in services(count) {
        index.apply_service(&service.object());
        index.apply_slice(&service.slice());
    }
}

pub(crate) fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an API object")
}

fn node(name: &str, addr: Ipv4Addr, cidr: &str) -> Node {
    object(json!({
        "metadata": {"name": name}, "spec": {"podCIDR": cidr},
        "status": {"addresses": [{"type": "InternalIP", "address": addr}]},
    }))
}

fn pod(name: &str) -> Pod {
    object(json!({
        "metadata": {"namespace": "default", "name": name, "labels": {"app": name}},
        "spec": {"nodeName": NODE, "containers": []},
    }))
}

/// The guarded pods may connect to each other only.
fn policies() -> [NetworkPolicy; 2] {
    let select = |app: &str| json!({"matchLabels": {"app": app}});
    let (client, server) = (GUARDED.client.0, GUARDED.server.0);
    [
        object(json!({
            "metadata": {"namespace": "default", "name": "to-server"},
            "spec": {"podSelector": select(server), "policyTypes": ["Ingress"],
                     "ingress": [{"from": [{"podSelector": select(client)}]}]},
        })),
        object(json!({
            "metadata": {"namespace": "default", "name": "from-client"},
            "spec": {"podSelector": select(client), "policyTypes": ["Egress"],
                     "egress": [{"to": [{"podSelector": select(server)}]}]},
        })),
    ]
}

/// A guarded pod may also send to these networks: two protocols, a range of ports.
pub(crate) fn networks_policy(count: u32) -> NetworkPolicy {
    networks_policy_of("default", GUARDED.client.0, count)
}

/// The same for the pods of an app.
pub(crate) fn networks_policy_of(namespace: &str, app: &str, count: u32) -> NetworkPolicy {
    let network = |n: u32| Ipv4Addr::from((11 << 24) + (n << 12));
    let peers: Vec<Value> =
        (0..count).map(|n| json!({"ipBlock": {"cidr": format!("{}/25", network(n))}})).collect();
    object(json!({
        "metadata": {"namespace": namespace, "name": "to-networks"},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Egress"],
                 "egress": [{"to": peers, "ports": [
                     {"protocol": "TCP", "port": 1024, "endPort": 65535},
                     {"protocol": "UDP", "port": 1024, "endPort": 65535},
                 ]}]},
    }))
}

impl Service {
    pub(crate) fn object(&self) -> ServiceObject {
        let ports: Vec<Value> = self.ports.iter().map(Port::object).collect();
        let kind = if self.ports.iter().any(|port| port.node_port != 0) { "NodePort" } else { "ClusterIP" };
        object(json!({
            "metadata": {"namespace": "default", "name": self.name},
            "spec": {"type": kind, "clusterIP": self.ip, "clusterIPs": [self.ip], "ports": ports},
        }))
    }

    pub(crate) fn slice(&self) -> EndpointSlice {
        let ports: Vec<Value> = self.ports.iter().map(Port::of_slice).collect();
        let endpoints = self.endpoints.iter().map(|addr| {
            let here = PAIRS.iter().any(|pair| pair.server.1 == *addr);
            json!({"addresses": [addr], "nodeName": if here { NODE } else { OTHER }})
        });
        object(json!({
            "metadata": {"namespace": "default", "name": format!("{}-abcde", self.name),
                         "labels": {"kubernetes.io/service-name": self.name}},
            "addressType": "IPv4", "ports": ports, "endpoints": endpoints.collect::<Vec<_>>(),
        }))
    }
}

impl Port {
    fn object(&self) -> Value {
        let node_port = (self.node_port != 0).then_some(self.node_port);
        json!({"name": self.name, "protocol": self.proto, "port": self.port, "targetPort": self.target,
               "nodePort": node_port})
    }

    fn of_slice(&self) -> Value {
        json!({"name": self.name, "protocol": self.proto, "port": self.target})
    }
}
