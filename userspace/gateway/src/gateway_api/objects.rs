//! The objects of the group, as they are now, and what else routing depends on. PURE.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Service};

use super::kinds::{
    BackendTlsPolicy, Gateway, GatewayClass, GrpcRoute, HttpRoute, ListenerSet, LoadBalancerPool,
    ReferenceGrant, TcpRoute, TlsRoute, UdpRoute,
};
use super::published::Published;
use crate::acme::Request;
use crate::ingress::states::key_of;

/// The `spec.controllerName` of the classes that the gateway serves.
pub const CONTROLLER: &str = "skep.io/gateway";

/// NAMESPACE/NAME, or the name of an object without a namespace.
pub(crate) type Key = Arc<str>;

/// Kind and key of a route.
pub(super) type RouteKey = (&'static str, Key);

/// The objects, as they are now.
#[derive(Default)]
pub struct Objects {
    pub(super) classes: BTreeMap<Key, Arc<GatewayClass>>,
    pub(super) gateways: BTreeMap<Key, Arc<Gateway>>,
    pub(super) listener_sets: BTreeMap<Key, Arc<ListenerSet>>,
    pub(super) http_routes: BTreeMap<Key, Arc<HttpRoute>>,
    pub(super) grpc_routes: BTreeMap<Key, Arc<GrpcRoute>>,
    pub(super) tls_routes: BTreeMap<Key, Arc<TlsRoute>>,
    pub(super) tcp_routes: BTreeMap<Key, Arc<TcpRoute>>,
    pub(super) udp_routes: BTreeMap<Key, Arc<UdpRoute>>,
    pub(super) grants: BTreeMap<Key, Arc<ReferenceGrant>>,
    pub(super) policies: BTreeMap<Key, Arc<BackendTlsPolicy>>,
    pub(super) namespaces: BTreeMap<Key, BTreeMap<String, String>>,
    /// Nodes that have a gateway, and the address at which it listens.
    pub(super) nodes: BTreeMap<Key, NodeFacts>,
    /// Services that lead to Gateways.
    pub(super) published: BTreeMap<Key, Published>,
    /// LoadBalancerPools, which give Services addresses.
    pub(super) pools: BTreeMap<Key, Arc<LoadBalancerPool>>,
    /// Routes of HTTP and of gRPC that changed, by kind and key.
    changed: BTreeSet<RouteKey>,
    /// BackendTLSPolicies changed, on which no route depends.
    are_policies_changed: bool,
    /// Rises with each other change that routing depends on.
    revision: u64,
}

/// A node with a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeFacts {
    pub(super) address: IpAddr,
    /// It listens, and the node is ready.
    pub(super) is_serving: bool,
    /// Where it listens. `None`: its agent is of a release that does not say.
    ports: Option<BTreeSet<u16>>,
}

macro_rules! objects {
    ($($kind:ty: $field:ident, $apply:ident, $delete:ident, $keep:ident, $change:expr;)+) => {$(
        pub fn $apply(&mut self, object: &$kind) {
            let key = key_of(&object.metadata);
            let old = self.$field.get(&key);
            // A status is written by the gateway itself, and changes no route.
            let is_same = |old: &Arc<$kind>| {
                old.spec == object.spec
                    && old.metadata.generation == object.metadata.generation
                    && old.metadata.uid == object.metadata.uid
                    && old.metadata.labels == object.metadata.labels
                    && Request::parse(&old.metadata) == Request::parse(&object.metadata)
            };
            if !old.is_some_and(is_same) {
                $change(self, &key);
            }
            self.$field.insert(key, Arc::new(object.clone()));
        }

        pub fn $delete(&mut self, key: &str) {
            if let Some((key, _)) = self.$field.remove_entry(key) {
                $change(self, &key);
            }
        }

        pub fn $keep(&mut self, listed: &HashSet<Arc<str>>) {
            let gone: Vec<_> = self.$field.keys().filter(|key| !listed.contains(*key)).cloned().collect();
            gone.iter().for_each(|key| self.$delete(key));
        }
    )+};
}

/// A change of an object on which more than itself depends.
fn all(objects: &mut Objects, _: &Key) {
    objects.revision += 1;
}

fn http(objects: &mut Objects, key: &Key) {
    objects.changed.insert(("HTTPRoute", key.clone()));
}

fn grpc(objects: &mut Objects, key: &Key) {
    objects.changed.insert(("GRPCRoute", key.clone()));
}

fn policies(objects: &mut Objects, _: &Key) {
    objects.are_policies_changed = true;
}

impl Objects {
    objects! {
        GatewayClass: classes, apply_class, delete_class, keep_classes, all;
        Gateway: gateways, apply_gateway, delete_gateway, keep_gateways, all;
        ListenerSet: listener_sets, apply_listener_set, delete_listener_set, keep_listener_sets, all;
        HttpRoute: http_routes, apply_http_route, delete_http_route, keep_http_routes, http;
        GrpcRoute: grpc_routes, apply_grpc_route, delete_grpc_route, keep_grpc_routes, grpc;
        TlsRoute: tls_routes, apply_tls_route, delete_tls_route, keep_tls_routes, all;
        TcpRoute: tcp_routes, apply_tcp_route, delete_tcp_route, keep_tcp_routes, all;
        UdpRoute: udp_routes, apply_udp_route, delete_udp_route, keep_udp_routes, all;
        ReferenceGrant: grants, apply_grant, delete_grant, keep_grants, all;
        BackendTlsPolicy: policies, apply_policy, delete_policy, keep_policies, policies;
        LoadBalancerPool: pools, apply_pool, delete_pool, keep_pools, all;
    }

    pub fn apply_namespace(&mut self, namespace: &Namespace) {
        let labels = namespace.metadata.labels.clone().unwrap_or_default();
        let old = self.namespaces.insert(key_of(&namespace.metadata), labels.clone());
        if old.as_ref() != Some(&labels) {
            self.revision += 1;
        }
    }

    pub fn delete_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    pub fn keep_namespaces(&mut self, listed: &HashSet<Arc<str>>) {
        self.namespaces.retain(|name, _| listed.contains(name));
        self.revision += 1;
    }

    pub fn apply_node(&mut self, node: &Node) {
        let name = key_of(&node.metadata);
        let facts = NodeFacts::parse(node);
        // Ports only matter to what leads to Gateways, which depends on no revision.
        let routed = |facts: &NodeFacts| (facts.address, facts.is_serving);
        let now = facts.as_ref().map(routed);
        let old = match facts {
            Some(facts) => self.nodes.insert(name, facts),
            None => self.nodes.remove(&name),
        };
        if old.as_ref().map(routed) != now {
            self.revision += 1;
        }
    }

    pub fn delete_node(&mut self, name: &str) {
        if self.nodes.remove(name).is_some() {
            self.revision += 1;
        }
    }

    pub fn keep_nodes(&mut self, listed: &HashSet<Arc<str>>) {
        self.nodes.retain(|name, _| listed.contains(name));
        self.revision += 1;
    }

    /// A Service that leads to a Gateway. Others are not kept.
    pub(crate) fn apply_service(&mut self, service: &Service) {
        let key = key_of(&service.metadata);
        let published = Published::parse(service);
        if self.published.get(&key) != published.as_ref() {
            self.revision += 1;
            match published {
                Some(published) => drop(self.published.insert(key, published)),
                None => drop(self.published.remove(&key)),
            }
        }
    }

    pub(crate) fn delete_service(&mut self, key: &str) {
        if self.published.remove(key).is_some() {
            self.revision += 1;
        }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether BackendTLSPolicies changed since the last call.
    pub(crate) fn take_changed_policies(&mut self) -> bool {
        std::mem::take(&mut self.are_policies_changed)
    }

    /// Routes of HTTP and of gRPC that changed since the last call.
    pub(super) fn take_changed(&mut self) -> BTreeSet<RouteKey> {
        std::mem::take(&mut self.changed)
    }
}

impl NodeFacts {
    /// `None`: the node has no gateway.
    fn parse(node: &Node) -> Option<NodeFacts> {
        let status = node.status.as_ref()?;
        let state = |kind: &str| {
            let mut all = status.conditions.iter().flatten();
            all.find(|condition| condition.type_ == kind).map(|condition| condition.status.as_str())
        };
        let gateway = state(crate::NODE_CONDITION)?;
        let mut addresses = status.addresses.iter().flatten();
        let internal = addresses.find(|address| address.type_ == "InternalIP")?;
        let is_ready = matches!(state("Ready"), None | Some("True"));
        let address = internal.address.parse().ok()?;
        let annotation =
            node.metadata.annotations.as_ref().and_then(|all| all.get(crate::NODE_PORTS_ANNOTATION));
        let ports = annotation.map(|text| text.split(',').filter_map(|port| port.parse().ok()).collect());
        Some(NodeFacts { address, is_serving: gateway == "True" && is_ready, ports })
    }

    /// Whether connections to this port of the node are accepted.
    pub(super) fn serves(&self, port: u16) -> bool {
        self.is_serving && self.ports.as_ref().is_none_or(|ports| ports.contains(&port))
    }
}
