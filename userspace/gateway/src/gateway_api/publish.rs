//! The Service of a Gateway: an address for it, and the node's ports that its listeners have. PURE.
//!
//! Its target ports are where every node's gateway listens for the Gateway; they are chosen once, by the node that writes. Ports of
//! TCP and UDP whose routes have one backend lead to the endpoints themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde_json::{Value, json};

use super::grants::{name_of, namespace_of};
use super::listeners::GatewayListeners;
use super::objects::{CONTROLLER, Key, Objects};
use super::published::{GATEWAY_LABEL, MANAGED_BY};
use super::routing::{Direct, DirectPart, Routing};

/// Ports of nodes for listeners: below those of node ports and of connections that nodes open.
const NODE_PORTS: std::ops::Range<u16> = 20_000..30_000;
const MAX_LABEL_BYTES: usize = 63;
/// On a Service: the routes of ports that lead to endpoints, as PORT/PROTOCOL=ROUTE with commas. The flow log names them.
const ROUTES_ANNOTATION: &str = "skep.io/routes";
/// On an EndpointSlice: how often each of its endpoints counts. Nodes read it.
const ENDPOINT_WEIGHT: &str = "skep.io/endpoint-weight";
/// As nodes bound it.
const MAX_WEIGHT: u64 = 32;
/// Weights are below 2^20, so shares of them fit.
const SHARE_PRECISION: u64 = 1 << 20;

/// Objects that should be, in the form in which they are applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Publication {
    /// The Service is there, in this form or another.
    pub is_known: bool,
    pub service: Value,
    pub slices: Vec<Value>,
}

/// The key of a Gateway's Service.
fn service_key(gateway: &Key) -> Key {
    format!("{}/{}", namespace_of(gateway), service_name(name_of(gateway))).into()
}

/// A name of at most 63 characters for any name of a Gateway.
fn service_name(gateway: &str) -> String {
    let plain: String = gateway.chars().map(|c| if c == '.' { '-' } else { c }).take(40).collect();
    format!("gateway-{}-{:08x}", plain.trim_end_matches('-'), fnv(gateway))
}

/// FNV-1a, which is the same on every node.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

impl Objects {
    /// Where this Gateway's clients reach a port of the node: by its Service, and without pools also at the port itself.
    pub(crate) fn node_ports(&self, gateway: &Key, port: u16) -> impl Iterator<Item = u16> + use<> {
        let by_service = self
            .published
            .get(&service_key(gateway))
            .and_then(|published| published.ports.get(&port))
            .copied();
        by_service.into_iter().chain(self.pools.is_empty().then_some(port))
    }

    /// Whether a Gateway has an address of its own, or pools that give it one.
    pub(super) fn is_balanced(&self, gateway: &Key) -> bool {
        let published = self.published.get(&service_key(gateway));
        !self.pools.is_empty() || published.is_some_and(|published| !published.addresses.is_empty())
    }

    /// The addresses of a Gateway: its Service's, or without pools those of the nodes.
    pub(super) fn addresses(&self, gateway: &GatewayListeners) -> BTreeSet<IpAddr> {
        let of_service = self.published.get(&service_key(&gateway.key)).map(|published| &published.addresses);
        match of_service {
            Some(addresses) if !addresses.is_empty() => addresses.clone(),
            _ if !self.pools.is_empty() => BTreeSet::new(),
            _ => self.nodes.values().filter(|node| node.is_serving).map(|node| node.address).collect(),
        }
    }

    /// The Services of all Gateways, and what they lead to.
    pub(crate) fn publications(
        &self,
        routing: &Routing,
        endpoints: &dyn Fn(usize) -> Vec<SocketAddr>,
    ) -> Vec<Publication> {
        let mut used: BTreeSet<u16> =
            self.published.values().flat_map(|published| published.ports.values().copied()).collect();
        let mut all = Vec::new();
        for gateway in &routing.gateways {
            if gateway.gateway.metadata.deletion_timestamp.is_none() {
                all.extend(self.publication(gateway, routing, endpoints, &mut used));
            }
        }
        all
    }

    /// Services of Gateways that are gone.
    pub(crate) fn leftover_services(&self, routing: &Routing) -> Vec<Key> {
        let wanted: BTreeSet<Key> =
            routing.gateways.iter().map(|gateway| service_key(&gateway.key)).collect();
        self.published.keys().filter(|key| !wanted.contains(*key)).cloned().collect()
    }

    /// `None`: no listener is open, and a Service needs a port.
    fn publication(
        &self,
        gateway: &GatewayListeners,
        routing: &Routing,
        endpoints: &dyn Fn(usize) -> Vec<SocketAddr>,
        used: &mut BTreeSet<u16>,
    ) -> Option<Publication> {
        let known = self.published.get(&service_key(&gateway.key));
        let (mut ports, mut slices) = (BTreeMap::new(), Vec::new());
        let mut routes: Vec<String> = Vec::new();
        let name = service_name(name_of(&gateway.key));
        for listener in gateway.listeners.iter().filter(|listener| listener.is_open()) {
            let (port, is_udp) = (listener.spec.port, listener.spec.protocol == "UDP");
            let protocol = if is_udp { "UDP" } else { "TCP" };
            let port_name = format!("{}-{port}", protocol.to_ascii_lowercase());
            if ports.contains_key(&port_name) {
                continue;
            }
            let kept = known.and_then(|published| published.ports.get(&port)).copied();
            let free = || NODE_PORTS.clone().find(|candidate| !used.contains(candidate)).unwrap_or(port);
            let target = if is_udp { port } else { kept.unwrap_or_else(free) };
            if !is_udp {
                used.insert(target);
            }
            ports.insert(
                port_name.clone(),
                json!({"name": port_name, "port": port, "protocol": protocol, "targetPort": target}),
            );
            let is_of_port = |direct: &&Direct| {
                direct.gateway == gateway.key && direct.port == port && direct.protocol == protocol
            };
            match routing.direct.iter().find(is_of_port) {
                Some(direct) => {
                    routes.push(format!("{port}/{protocol}={}", direct.counters.name));
                    slices.extend(direct_slices(&name, &port_name, protocol, &direct.parts, endpoints));
                }
                None if is_udp => {}
                None => slices.extend(self.node_slice(&name, &port_name, target)),
            }
        }
        if ports.is_empty() {
            return None;
        }
        let ports: Vec<Value> = ports.into_values().collect();
        let service = self.service(gateway, &name, ports, &routes);
        let namespace = namespace_of(&gateway.key);
        for slice in &mut slices {
            slice["metadata"]["namespace"] = json!(namespace);
            slice["metadata"]["ownerReferences"] = service["metadata"]["ownerReferences"].clone();
        }
        Some(Publication { is_known: known.is_some(), service, slices })
    }

    /// `routes`: those whose packets go straight to endpoints.
    fn service(&self, gateway: &GatewayListeners, name: &str, ports: Vec<Value>, routes: &[String]) -> Value {
        let infrastructure = gateway.gateway.spec.infrastructure.clone().unwrap_or_default();
        let mut labels: BTreeMap<String, String> = infrastructure.labels;
        let gateway_name = name_of(&gateway.key);
        let label = if gateway_name.len() <= MAX_LABEL_BYTES { gateway_name } else { name };
        labels.insert(GATEWAY_LABEL.to_owned(), label.to_owned());
        labels.insert(MANAGED_BY.to_owned(), "skep".to_owned());
        let meta = &gateway.gateway.metadata;
        let owner = json!([{
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": meta.name,
            "uid": meta.uid, "controller": true,
        }]);
        // Nodes' gateways should see clients' addresses; endpoints of one node would leave the others without.
        let policy = if routes.is_empty() { "Local" } else { "Cluster" };
        let mut annotations = infrastructure.annotations;
        if !routes.is_empty() {
            annotations.insert(ROUTES_ANNOTATION.to_owned(), routes.join(","));
        }
        let mut spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": policy, "ports": ports});
        if let [address] = gateway.gateway.spec.addresses.as_slice()
            && !address.value.is_empty()
        {
            spec["loadBalancerIP"] = json!(address.value);
        }
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": name, "namespace": namespace_of(&gateway.key), "labels": labels,
                "annotations": annotations, "ownerReferences": owner,
            },
            "spec": spec,
        })
    }

    /// Every node whose gateway listens at the port: one that does not yet, or cannot, would refuse connections.
    fn node_slice(&self, service: &str, port_name: &str, target: u16) -> Vec<Value> {
        let of = |is_ipv6: bool| {
            let endpoints: Vec<Value> = self
                .nodes
                .iter()
                .filter(|(_, node)| node.serves(target) && node.address.is_ipv6() == is_ipv6)
                .map(|(name, node)| {
                    json!({"addresses": [node.address], "nodeName": name, "conditions": {"ready": true}})
                })
                .collect();
            (!endpoints.is_empty()).then(|| slice(service, port_name, "TCP", is_ipv6, target, endpoints))
        };
        [of(false), of(true)].into_iter().flatten().collect()
    }
}

/// The backends' own endpoints, a slice for each of their ports and weights.
fn direct_slices(
    service: &str,
    port_name: &str,
    protocol: &str,
    backends: &[DirectPart],
    endpoints: &dyn Fn(usize) -> Vec<SocketAddr>,
) -> Vec<Value> {
    let mut by_slice: BTreeMap<(bool, u16, u64), BTreeSet<IpAddr>> = BTreeMap::new();
    for (endpoint, weight) in weights(backends, endpoints) {
        by_slice.entry((endpoint.is_ipv6(), endpoint.port(), weight)).or_default().insert(endpoint.ip());
    }
    let slices = by_slice.into_iter().map(|((is_ipv6, port, weight), ips)| {
        let endpoints =
            ips.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
        let mut slice = slice(service, port_name, protocol, is_ipv6, port, endpoints);
        if weight > 1 {
            let name = slice["metadata"]["name"].as_str().unwrap_or_default();
            slice["metadata"]["name"] = json!(format!("{name}-{weight}"));
            slice["metadata"]["annotations"] = json!({ENDPOINT_WEIGHT: weight.to_string()});
        }
        slice
    });
    slices.collect()
}

/// How often each endpoint counts: the endpoints of a backend share its weight. The largest count is at most [`MAX_WEIGHT`].
fn weights(
    backends: &[DirectPart],
    endpoints: &dyn Fn(usize) -> Vec<SocketAddr>,
) -> BTreeMap<SocketAddr, u64> {
    let mut shares: BTreeMap<SocketAddr, u64> = BTreeMap::new();
    for (backend, weight) in backends {
        let all = endpoints(*backend);
        let share = u64::from(*weight) * SHARE_PRECISION / (all.len() as u64).max(1);
        all.iter().for_each(|endpoint| *shares.entry(*endpoint).or_default() += share);
    }
    let most = shares.values().copied().max().unwrap_or(1).max(1);
    let counts = shares
        .into_iter()
        .map(|(endpoint, share)| (endpoint, ((share * MAX_WEIGHT + most / 2) / most).max(1)));
    let counts: BTreeMap<SocketAddr, u64> = counts.collect();
    let divisor = counts.values().copied().fold(0, greatest_common_divisor).max(1);
    counts.into_iter().map(|(endpoint, count)| (endpoint, count / divisor)).collect()
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

fn slice(
    service: &str,
    port_name: &str,
    protocol: &str,
    is_ipv6: bool,
    port: u16,
    endpoints: Vec<Value>,
) -> Value {
    let family = if is_ipv6 { "IPv6" } else { "IPv4" };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{port_name}-{port}-{}", family.to_ascii_lowercase()),
            "labels": {
                "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": CONTROLLER.replace('/', "-"),
            },
        },
        "addressType": family, "endpoints": endpoints,
        "ports": [{"name": port_name, "port": port, "protocol": protocol}],
    })
}

/// The publications' objects by their names, for those who apply them.
impl Publication {
    pub fn key(&self) -> Arc<str> {
        key_of_value(&self.service)
    }

    pub fn slice_keys(&self) -> BTreeSet<Arc<str>> {
        self.slices.iter().map(key_of_value).collect()
    }
}

/// NAMESPACE/NAME.
pub fn key_of_value(object: &Value) -> Arc<str> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    format!("{}/{}", text("/metadata/namespace"), text("/metadata/name")).into()
}
