//! The informers' events as changes to the index of Ingresses and Gateways.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use skep_api::decode::Unreadable;
use skep_gateway::gateway_api::kinds::{
    BackendTlsPolicy, Gateway, GatewayClass, GrpcRoute, HttpRoute, ListenerSet, LoadBalancerPool,
    ReferenceGrant, TcpRoute, TlsRoute, UdpRoute,
};
use skep_gateway::ingress::Index;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::index_updates::{Change, Indexed, Performer, forward, indexes, keep_last, until};
use crate::informers::{Events, Informers};

macro_rules! followed {
    ($($field:ident: $kind:ty, $($informer:ident).+;)+) => {
        /// What routes are made from.
        pub struct GatewaySubscriptions {
            $($field: Events<$kind>,)+
            /// For the addresses of Ingresses.
            serving_nodes: Events<Node>,
        }

        /// How many kinds must be listed before the first configuration.
        pub(super) const KINDS: usize = [$(stringify!($kind)),+].len();

        impl GatewaySubscriptions {
            pub fn new(informers: &mut Informers) -> Self {
                GatewaySubscriptions {
                    $($field: informers.$($informer).+.subscribe(),)+
                    serving_nodes: informers.nodes.subscribe(),
                }
            }

            /// Forwards all events, and returns those of Nodes once more.
            pub(super) fn forward(
                self,
                to: Sender<Message>,
                stop: &CancellationToken,
            ) -> (JoinSet<()>, Events<Node>) {
                let mut tasks = JoinSet::new();
                $(tasks.spawn(until(stop.clone(), forward(self.$field, to.clone())));)+
                (tasks, self.serving_nodes)
            }
        }
    };
}

followed! {
    ingresses: Ingress, ingresses;
    ingress_classes: IngressClass, ingress_classes;
    services: Service, services;
    endpoint_slices: EndpointSlice, endpoint_slices;
    namespaces: Namespace, namespaces;
    nodes: Node, nodes;
    classes: GatewayClass, gateway_api.classes;
    gateways: Gateway, gateway_api.gateways;
    listener_sets: ListenerSet, gateway_api.listener_sets;
    http_routes: HttpRoute, gateway_api.http_routes;
    grpc_routes: GrpcRoute, gateway_api.grpc_routes;
    tls_routes: TlsRoute, gateway_api.tls_routes;
    tcp_routes: TcpRoute, gateway_api.tcp_routes;
    udp_routes: UdpRoute, gateway_api.udp_routes;
    grants: ReferenceGrant, gateway_api.grants;
    policies: BackendTlsPolicy, gateway_api.policies;
    pools: LoadBalancerPool, gateway_api.pools;
}

/// What the engine performs.
pub(super) enum Message {
    Change(Change<Index>),
    /// One more kind was listed completely.
    Listed,
}

impl Performer<Index> for Sender<Message> {
    async fn change(&self, change: Change<Index>) -> bool {
        self.send(Message::Change(change)).await.is_ok()
    }

    async fn listed(&self) -> bool {
        self.send(Message::Listed).await.is_ok()
    }
}

indexes! {
    Index:
    Ingress, apply_ingress, delete_ingress, keep_ingresses, keep_last;
    IngressClass, apply_class, delete_class, keep_classes, keep_last;
    Service, apply_service, delete_service, keep_services, keep_last;
    EndpointSlice, apply_slice, delete_slice, keep_slices, keep_last;
    Node, apply_node, delete_node, keep_nodes, keep_last;
}

macro_rules! of_gateway_api {
    ($($kind:ty, $apply:ident, $delete:ident, $keep:ident;)+) => {
        $(impl Indexed<Index> for $kind {
            fn apply(&self, index: &mut Index) {
                index.gateway_api().$apply(self);
            }
            fn delete(key: &str, index: &mut Index) {
                index.gateway_api().$delete(key);
            }
            fn keep(listed: &HashSet<Arc<str>>, index: &mut Index) {
                index.gateway_api().$keep(listed);
            }
            fn unreadable(unreadable: Unreadable) -> Option<Change<Index>> {
                keep_last(unreadable)
            }
        })+
    };
}

of_gateway_api! {
    Namespace, apply_namespace, delete_namespace, keep_namespaces;
    GatewayClass, apply_class, delete_class, keep_classes;
    Gateway, apply_gateway, delete_gateway, keep_gateways;
    ListenerSet, apply_listener_set, delete_listener_set, keep_listener_sets;
    HttpRoute, apply_http_route, delete_http_route, keep_http_routes;
    GrpcRoute, apply_grpc_route, delete_grpc_route, keep_grpc_routes;
    TlsRoute, apply_tls_route, delete_tls_route, keep_tls_routes;
    TcpRoute, apply_tcp_route, delete_tcp_route, keep_tcp_routes;
    UdpRoute, apply_udp_route, delete_udp_route, keep_udp_routes;
    ReferenceGrant, apply_grant, delete_grant, keep_grants;
    BackendTlsPolicy, apply_policy, delete_policy, keep_policies;
    LoadBalancerPool, apply_pool, delete_pool, keep_pools;
}
