//! The informers' events as changes to the index of Ingresses.

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use skep_gateway::ingress::Index;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::index_updates::{Change, Performer, forward, indexes, keep_last, until};
use crate::informers::{Events, Informers};

/// What routes are made from.
pub struct GatewaySubscriptions {
    ingresses: Events<Ingress>,
    ingress_classes: Events<IngressClass>,
    services: Events<Service>,
    endpoint_slices: Events<EndpointSlice>,
    nodes: Events<Node>,
}

/// How many kinds must be listed before the first configuration.
pub(super) const KINDS: usize = 4;

/// What the engine performs.
pub(super) enum Message {
    Change(Change<Index>),
    /// One more kind was listed completely.
    Listed,
}

impl GatewaySubscriptions {
    pub fn new(informers: &mut Informers) -> Self {
        GatewaySubscriptions {
            ingresses: informers.ingresses.subscribe(),
            ingress_classes: informers.ingress_classes.subscribe(),
            services: informers.services.subscribe(),
            endpoint_slices: informers.endpoint_slices.subscribe(),
            nodes: informers.nodes.subscribe(),
        }
    }

    /// Forwards all events but those of Nodes, which are returned.
    pub(super) fn forward(
        self,
        to: Sender<Message>,
        stop: &CancellationToken,
    ) -> (JoinSet<()>, Events<Node>) {
        let GatewaySubscriptions { ingresses, ingress_classes, services, endpoint_slices, nodes } = self;
        let mut tasks = JoinSet::new();
        tasks.spawn(until(stop.clone(), forward(ingresses, to.clone())));
        tasks.spawn(until(stop.clone(), forward(ingress_classes, to.clone())));
        tasks.spawn(until(stop.clone(), forward(services, to.clone())));
        tasks.spawn(until(stop.clone(), forward(endpoint_slices, to)));
        (tasks, nodes)
    }
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
}
