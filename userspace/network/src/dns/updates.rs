//! The informers' events as changes to the index of names.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use skep_dns::{Dns, Index};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::index_updates::{Change, Performer, forward, indexes, keep_last, until};
use crate::informers::{Events, Informers};

/// What names are made from.
pub struct DnsSubscriptions {
    services: Events<Service>,
    endpoint_slices: Events<EndpointSlice>,
    pods: Events<Pod>,
    namespaces: Events<Namespace>,
}

/// How many kinds those are.
const KINDS: usize = 4;

impl DnsSubscriptions {
    /// `node` is the name of this node: of pods, only its own ask here.
    pub fn new(informers: &mut Informers, node: &str) -> Self {
        let node = node.to_owned();
        let is_here = move |pod: &Pod| {
            pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node.as_str())
        };
        DnsSubscriptions {
            services: informers.services.subscribe(),
            endpoint_slices: informers.endpoint_slices.subscribe(),
            pods: informers.pods.subscribe_to(is_here),
            namespaces: informers.namespaces.subscribe(),
        }
    }

    /// Has the server's index follow them until `stop` is cancelled.
    pub fn forward(self, dns: &Dns, stop: &CancellationToken) -> JoinSet<()> {
        let DnsSubscriptions { services, endpoint_slices, pods, namespaces } = self;
        let to = Names { dns: dns.clone(), unlisted: Arc::new(AtomicUsize::new(KINDS)) };
        let mut tasks = JoinSet::new();
        tasks.spawn(until(stop.clone(), forward(services, to.clone())));
        tasks.spawn(until(stop.clone(), forward(endpoint_slices, to.clone())));
        tasks.spawn(until(stop.clone(), forward(pods, to.clone())));
        tasks.spawn(until(stop.clone(), forward(namespaces, to)));
        tasks
    }
}

/// Performs the changes at once.
#[derive(Clone)]
struct Names {
    dns: Dns,
    /// Kinds that have not been listed yet.
    unlisted: Arc<AtomicUsize>,
}

impl Performer<Index> for Names {
    async fn change(&self, change: Change<Index>) -> bool {
        self.dns.update(change);
        true
    }

    async fn listed(&self) -> bool {
        if self.unlisted.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.dns.listed();
        }
        true
    }
}

indexes! {
    Index:
    Service, apply_service, delete_service, keep_services, keep_last;
    EndpointSlice, apply_slice, delete_slice, keep_slices, keep_last;
    Pod, apply_pod, delete_pod, keep_pods, keep_last;
    Namespace, apply_namespace, delete_namespace, keep_namespaces, keep_last;
}
