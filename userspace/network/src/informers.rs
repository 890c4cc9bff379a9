//! The shared informers of a node: one watch a kind, whatever the number of subscribers, so that each object is decoded
//! once.
//!
//! In: the API server's lists and watches. Out: the same ordered [`Event`]s for each subscriber of the kind.
//! Subscribe first, then [`Informers::run`]: a kind without subscribers is not watched, and no one can subscribe later.
//! A list that starts again (first list, broken watch, 410 Gone) is `Init`, an `InitApply` per object, `InitDone`; the
//! subscriber then removes what the list did not contain. Watches retry for ever with back-off; an outage is no event.
//! An object that does not decode is logged and becomes `InitKeep`, in a list and as a change: the subscriber decides what
//! stands for it.

use std::fmt::Debug;
use std::sync::Arc;

use futures::{Stream, StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass, NetworkPolicy};
use kube::Resource;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use serde::de::DeserializeOwned;
use skep_api::decode::{Decoded, Unreadable};
use skep_api::watch::WatchEvent;
use skep_gateway::gateway_api::kinds::{
    BackendTlsPolicy, Gateway, GatewayClass, GrpcRoute, HttpRoute, ListenerSet, LoadBalancerPool,
    ReferenceGrant, TcpRoute, TlsRoute, UdpRoute,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::lenient::Lenient;

/// A subscriber's end; it closes when the informers stop.
pub type Events<K> = mpsc::Receiver<WatchEvent<Arc<K>>>;

/// Events that a subscriber has not taken yet. A full queue holds the kind's watch back, for its other subscribers too.
const QUEUE_LENGTH: usize = 1024;

/// What an informer needs of a kind.
pub trait Watched:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + Sized + 'static
{
}

impl<K> Watched for K where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + Sized + 'static
{
}

/// The informers of every kind that a node needs.
#[derive(Default)]
pub struct Informers {
    pub services: Informer<Service>,
    pub endpoint_slices: Informer<EndpointSlice>,
    pub pods: Informer<Pod>,
    pub nodes: Informer<Node>,
    pub namespaces: Informer<Namespace>,
    pub network_policies: Informer<NetworkPolicy>,
    pub config_maps: Informer<ConfigMap>,
    pub ingresses: Informer<Ingress>,
    pub ingress_classes: Informer<IngressClass>,
    pub gateway_api: GatewayApiInformers,
}

/// Kinds that an API server may not have: then they count as listed, and empty.
pub struct GatewayApiInformers {
    pub classes: Informer<GatewayClass>,
    pub gateways: Informer<Gateway>,
    pub listener_sets: Informer<ListenerSet>,
    pub http_routes: Informer<HttpRoute>,
    pub grpc_routes: Informer<GrpcRoute>,
    pub tls_routes: Informer<TlsRoute>,
    pub tcp_routes: Informer<TcpRoute>,
    pub udp_routes: Informer<UdpRoute>,
    pub grants: Informer<ReferenceGrant>,
    pub policies: Informer<BackendTlsPolicy>,
    pub pools: Informer<LoadBalancerPool>,
}

impl Default for GatewayApiInformers {
    fn default() -> Self {
        GatewayApiInformers {
            classes: Informer::optional(),
            gateways: Informer::optional(),
            listener_sets: Informer::optional(),
            http_routes: Informer::optional(),
            grpc_routes: Informer::optional(),
            tls_routes: Informer::optional(),
            tcp_routes: Informer::optional(),
            udp_routes: Informer::optional(),
            grants: Informer::optional(),
            policies: Informer::optional(),
            pools: Informer::optional(),
        }
    }
}

impl GatewayApiInformers {
    fn spawn(self, client: &kube::Client, watches: &mut JoinSet<()>) {
        let GatewayApiInformers {
            classes,
            gateways,
            listener_sets,
            http_routes,
            grpc_routes,
            tls_routes,
            tcp_routes,
            udp_routes,
            grants,
            policies,
            pools,
        } = self;
        watches.spawn(classes.run(client.clone()));
        watches.spawn(gateways.run(client.clone()));
        watches.spawn(listener_sets.run(client.clone()));
        watches.spawn(http_routes.run(client.clone()));
        watches.spawn(grpc_routes.run(client.clone()));
        watches.spawn(tls_routes.run(client.clone()));
        watches.spawn(tcp_routes.run(client.clone()));
        watches.spawn(udp_routes.run(client.clone()));
        watches.spawn(grants.run(client.clone()));
        watches.spawn(policies.run(client.clone()));
        watches.spawn(pools.run(client.clone()));
    }
}

impl Informers {
    /// Watches every kind that has a subscriber, until `stop` is cancelled or every subscriber is gone.
    pub async fn run(self, client: kube::Client, stop: CancellationToken) {
        let Informers {
            services,
            endpoint_slices,
            pods,
            nodes,
            namespaces,
            network_policies,
            config_maps,
            ingresses,
            ingress_classes,
            gateway_api,
        } = self;
        let mut watches = JoinSet::new();
        watches.spawn(services.run(client.clone()));
        watches.spawn(endpoint_slices.run(client.clone()));
        watches.spawn(pods.run(client.clone()));
        watches.spawn(nodes.run(client.clone()));
        watches.spawn(namespaces.run(client.clone()));
        watches.spawn(network_policies.run(client.clone()));
        watches.spawn(config_maps.run(client.clone()));
        watches.spawn(ingresses.run(client.clone()));
        gateway_api.spawn(&client, &mut watches);
        watches.spawn(ingress_classes.run(client));
        let all_ended = async { while watches.join_next().await.is_some() {} };
        if stop.run_until_cancelled(all_ended).await.is_none() {
            watches.shutdown().await;
        }
    }
}

/// The informer of one kind.
pub struct Informer<K> {
    field_selector: Option<String>,
    subscribers: Vec<Subscriber<K>>,
    /// An API server without the kind has no objects of it.
    is_optional: bool,
}

struct Subscriber<K> {
    selects: Box<dyn Fn(&K) -> bool + Send + Sync>,
    events: mpsc::Sender<WatchEvent<Arc<K>>>,
}

impl<K> Default for Informer<K> {
    fn default() -> Self {
        Informer { field_selector: None, subscribers: Vec::new(), is_optional: false }
    }
}

impl<K> Informer<K> {
    fn optional() -> Self {
        Informer { is_optional: true, ..Informer::default() }
    }
}

impl<K: Watched> Informer<K> {
    /// Every object of the kind.
    pub fn subscribe(&mut self) -> Events<K> {
        self.subscribe_to(|_| true)
    }

    /// The objects for which `selects` is true. What it reads of an object must not change while the object exists.
    pub fn subscribe_to(&mut self, selects: impl Fn(&K) -> bool + Send + Sync + 'static) -> Events<K> {
        let (events, receiver) = mpsc::channel(QUEUE_LENGTH);
        self.subscribers.push(Subscriber { selects: Box::new(selects), events });
        receiver
    }

    /// Asks the API server only for objects that match, such as `spec.nodeName=a`: for all subscribers of the kind.
    pub fn restrict(&mut self, field_selector: String) {
        self.field_selector = Some(field_selector);
    }

    async fn run(self, client: kube::Client) {
        if self.subscribers.is_empty() {
            return;
        }
        let mut config = watcher::Config::default();
        if let Some(selector) = &self.field_selector {
            config = config.fields(selector);
        }
        self.publish_all(watcher(Api::<Lenient<K>>::all(client), config).default_backoff()).await;
    }

    async fn publish_all(mut self, events: impl Stream<Item = watcher::Result<Event<Lenient<K>>>>) {
        let kind = K::kind(&()).into_owned();
        let (mut failing, mut missed) = (false, false);
        pin_mut!(events);
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event,
                Err(error) if self.is_optional && is_unknown_kind(&error) => {
                    if !std::mem::replace(&mut missed, true) {
                        tracing::info!(kind, "the API server does not have the kind");
                        self.publish(WatchEvent::Init).await;
                        self.publish(WatchEvent::InitDone).await;
                    }
                    continue;
                }
                Err(error) => {
                    // Logged once an outage: the back-off repeats the error for as long as the outage lasts.
                    if !failing {
                        tracing::warn!(kind, %error, "watch failed; the last known objects stay in force");
                    }
                    failing = true;
                    continue;
                }
            };
            // The watcher itself sends `Init` when it begins a list, before the server has answered.
            if !matches!(event, Event::Init) && std::mem::take(&mut failing) {
                tracing::info!(kind, "watch works again");
            }
            self.publish(shared(event)).await;
            if self.subscribers.is_empty() {
                return;
            }
        }
    }

    /// Hands the event to each subscriber that selects its object, and drops subscribers that are gone.
    async fn publish(&mut self, event: WatchEvent<Arc<K>>) {
        let mut open = Vec::with_capacity(self.subscribers.len());
        for subscriber in self.subscribers.drain(..) {
            let selected = match &event {
                WatchEvent::InitApply(object) | WatchEvent::Apply(object) | WatchEvent::Delete(object) => {
                    (subscriber.selects)(object)
                }
                // Whether a subscriber selects an object that does not decode is not known.
                WatchEvent::Init
                | WatchEvent::InitDone
                | WatchEvent::InitKeep(_)
                | WatchEvent::DeleteUnreadable(_) => true,
            };
            let gone = match selected {
                true => subscriber.events.send(event.clone()).await.is_err(),
                false => subscriber.events.is_closed(),
            };
            if !gone {
                open.push(subscriber);
            }
        }
        self.subscribers = open;
    }
}

/// The API server does not have the kind, or its administrator gave no right to it.
fn is_unknown_kind(error: &watcher::Error) -> bool {
    let watcher::Error::InitialListFailed(kube::Error::Api(status)) = error else { return false };
    matches!(status.code, 403 | 404)
}

/// The event for subscribers.
fn shared<K: Watched>(event: Event<Lenient<K>>) -> WatchEvent<Arc<K>> {
    match event {
        Event::Init => WatchEvent::Init,
        Event::InitDone => WatchEvent::InitDone,
        Event::InitApply(item) => match item.item {
            Decoded::Object(object) => WatchEvent::InitApply(Arc::new(object)),
            Decoded::Unreadable(unreadable) => {
                log_unreadable::<K>(&unreadable);
                WatchEvent::InitKeep(*unreadable)
            }
        },
        Event::Apply(item) => match item.item {
            Decoded::Object(object) => WatchEvent::Apply(Arc::new(object)),
            Decoded::Unreadable(unreadable) => {
                log_unreadable::<K>(&unreadable);
                WatchEvent::InitKeep(*unreadable)
            }
        },
        Event::Delete(item) => match item.item {
            Decoded::Object(object) => WatchEvent::Delete(Arc::new(object)),
            Decoded::Unreadable(unreadable) => WatchEvent::DeleteUnreadable(*unreadable),
        },
    }
}

fn log_unreadable<K: Watched>(unreadable: &Unreadable) {
    let Unreadable { namespace, name, error, .. } = unreadable;
    tracing::warn!(kind = %K::kind(&()), namespace, name, error, "decode object failed");
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;

    use super::*;

    fn pod(node: &str) -> Pod {
        let spec = PodSpec { node_name: Some(node.to_owned()), ..PodSpec::default() };
        Pod { spec: Some(spec), ..Pod::default() }
    }

    fn good(node: &str) -> Lenient<Pod> {
        Decoded::Object(pod(node)).into()
    }

    fn runs_on(pod: &Pod, node: &str) -> bool {
        pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node)
    }

    async fn drain(mut events: Events<Pod>) -> Vec<WatchEvent<Arc<Pod>>> {
        let mut all = Vec::new();
        while let Some(event) = events.recv().await {
            all.push(event);
        }
        all
    }

    #[tokio::test]
    async fn subscribers_share_objects_and_get_what_they_select_in_order() {
        let mut informer = Informer::<Pod>::default();
        let (all, own) = (informer.subscribe(), informer.subscribe_to(|pod| runs_on(pod, "a")));
        let events = [
            Event::Init,
            Event::InitApply(good("a")),
            Event::InitApply(good("b")),
            Event::InitDone,
            Event::Delete(good("b")),
            Event::Apply(good("a")),
        ];
        informer.publish_all(futures::stream::iter(events.map(Ok))).await;
        let (all, own) = (drain(all).await, drain(own).await);
        assert_eq!(all.len(), 6);
        let [WatchEvent::Init, WatchEvent::InitApply(first), WatchEvent::InitDone, WatchEvent::Apply(second)] =
            own.as_slice()
        else {
            panic!("{own:?}");
        };
        assert!(runs_on(first, "a") && runs_on(second, "a"));
        let Some(WatchEvent::InitApply(same)) = all.get(1) else { panic!("{all:?}") };
        assert!(Arc::ptr_eq(first, same));
    }

    #[tokio::test]
    async fn a_subscriber_that_is_gone_does_not_disturb_the_others() {
        let mut informer = Informer::<Pod>::default();
        let (gone, stays) = (informer.subscribe(), informer.subscribe());
        drop(gone);
        informer.publish_all(futures::stream::iter([Event::Init, Event::InitDone].map(Ok))).await;
        assert_eq!(drain(stays).await.len(), 2);
    }

    #[tokio::test]
    async fn an_object_that_does_not_decode_is_kept_and_holds_up_no_other() {
        let bad = r#"{"metadata": {"name": "bad", "namespace": "n", "uid": "u"}, "spec": 7}"#;
        let bad = || Lenient::<Pod>::from(Decoded::parse(bad));
        let mut informer = Informer::<Pod>::default();
        let events = informer.subscribe_to(|pod| runs_on(pod, "a"));
        let sent = [
            Event::Init,
            Event::InitApply(bad()),
            Event::InitApply(good("a")),
            Event::InitDone,
            Event::Apply(bad()),
            Event::Apply(good("a")),
            Event::Delete(bad()),
        ];
        informer.publish_all(futures::stream::iter(sent.map(Ok))).await;
        let received = drain(events).await;
        let [
            WatchEvent::Init,
            WatchEvent::InitKeep(kept),
            WatchEvent::InitApply(_),
            WatchEvent::InitDone,
            WatchEvent::InitKeep(changed),
            WatchEvent::Apply(_),
            WatchEvent::DeleteUnreadable(gone),
        ] = received.as_slice()
        else {
            panic!("{received:?}");
        };
        assert_eq!((&*kept.name, &*changed.name, &*gone.uid), ("bad", "bad", "u"));
    }
}
