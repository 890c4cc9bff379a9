//! Services with the controllers: pools, ranges, and Endpoints that users write.

use k8s_openapi::api::core::v1::{Endpoints, Event, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::conditions::is_deleted;
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};
use skep_control::pool::LoadBalancerPool;

use crate::cluster::{Cluster, cluster, parsed, soon, until};

impl Cluster {
    fn services(&self) -> Api<Service> {
        Api::default_namespaced(self.client.clone())
    }

    fn ranges(&self) -> Api<ServiceCIDR> {
        Api::all(self.client.clone())
    }

    async fn service(&self, name: &str, spec: Value) -> Service {
        let mut all = json!({"ports": [{"port": 80}]});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let service = parsed(json!({"metadata": {"name": name}, "spec": all}));
        self.services().create(&PostParams::default(), &service).await.unwrap()
    }

    async fn service_until(&self, what: &str, name: &str, holds: impl Fn(&Service) -> bool) -> Service {
        let seen = await_condition(self.services(), name, |s: Option<&Service>| s.is_some_and(&holds));
        soon(what, seen).await.unwrap().unwrap()
    }

    async fn delete_service(&self, name: &str) {
        let uid = self.services().get(name).await.unwrap().metadata.uid.unwrap();
        self.services().delete(name, &DeleteParams::default()).await.unwrap();
        soon("the Service is deleted", await_condition(self.services(), name, is_deleted(&uid)))
            .await
            .unwrap();
    }
}

fn addresses(service: &Service) -> Vec<String> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer
        .into_iter()
        .flat_map(|b| b.ingress.iter().flatten())
        .filter_map(|ingress| ingress.ip.clone())
        .collect()
}

fn reason(service: &Service) -> Option<&str> {
    let mut conditions = service.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.find(|c| c.type_ == "skep.io/LoadBalancerAddress").map(|condition| condition.reason.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_gives_addresses_until_it_is_empty_and_takes_them_back() {
    let (cluster, _running) = cluster().await;
    let pools = Api::<LoadBalancerPool>::all(cluster.client.clone());
    let bad = parsed(json!({"metadata": {"name": "bad"}, "spec": {"cidrs": ["192.0.2.1/30"]}}));
    let refused = pools.create(&PostParams::default(), &bad).await.unwrap_err().to_string();
    assert!(
        refused.contains("spec.cidrs[0]: Invalid value") && refused.contains("beyond the prefix length"),
        "{refused}"
    );
    let pool = parsed(json!({"metadata": {"name": "p"}, "spec": {"cidrs": ["192.0.2.0/30"]}}));
    pools.create(&PostParams::default(), &pool).await.unwrap();
    for name in ["a", "b"] {
        cluster.service(name, json!({"type": "LoadBalancer"})).await;
        let given = cluster.service_until("an address", name, |service| !addresses(service).is_empty()).await;
        let ingress = given.status.unwrap().load_balancer.unwrap().ingress.unwrap();
        assert_eq!(ingress[0].ip_mode.as_deref(), Some("VIP"));
    }
    cluster.service("c", json!({"type": "LoadBalancer"})).await;
    let refused =
        cluster.service_until("the pool is exhausted", "c", |s| reason(s) == Some("PoolExhausted")).await;
    assert!(addresses(&refused).is_empty());
    let events = Api::<Event>::default_namespaced(cluster.client.clone());
    let about = |event: &Event| {
        event.reason.as_deref() == Some("PoolExhausted") && event.involved_object.name.as_deref() == Some("c")
    };
    until("an Event", async || events.list(&ListParams::default()).await.unwrap().items.iter().any(about))
        .await;
    // The finalizer is removed once the address is free; then another Service gets it.
    cluster.delete_service("a").await;
    cluster.service_until("the freed address", "c", |service| !addresses(service).is_empty()).await;
    let patch = Patch::Merge(json!({"spec": {"type": "ClusterIP"}}));
    cluster.services().patch("b", &PatchParams::default(), &patch).await.unwrap();
    let plain = cluster.service_until("no finalizer", "b", |s| s.metadata.finalizers.is_none()).await;
    assert!(addresses(&plain).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_made_ready_and_stays_while_it_is_in_use() {
    let (cluster, _running) = cluster().await;
    let range = parsed(json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.200.0.0/24"]}}));
    cluster.ranges().create(&PostParams::default(), &range).await.unwrap();
    let status = |range: Option<&ServiceCIDR>| {
        let status = range.and_then(|range| range.status.as_ref());
        status.and_then(|s| s.conditions.as_ref()?.first().map(|c| (c.status.clone(), c.reason.clone())))
    };
    let ready = |range: Option<&ServiceCIDR>| status(range).is_some_and(|(status, _)| status == "True");
    soon("ready", await_condition(cluster.ranges(), "more", ready)).await.unwrap();
    cluster.service("s", json!({"clusterIP": "10.200.0.9"})).await;
    cluster.ranges().delete("more", &DeleteParams::default()).await.unwrap();
    let why = |range: Option<&ServiceCIDR>| status(range).is_some_and(|(_, reason)| reason == "Terminating");
    let held = soon("the condition names why it stays", await_condition(cluster.ranges(), "more", why))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(held.metadata.finalizers.unwrap(), ["networking.k8s.io/service-cidr-finalizer"]);
    // A range that is being deleted allocates no more addresses.
    let service = parsed(
        json!({"metadata": {"name": "t"}, "spec": {"clusterIP": "10.200.0.10", "ports": [{"port": 80}]}}),
    );
    let refused = cluster.services().create(&PostParams::default(), &service).await.unwrap_err().to_string();
    assert!(refused.contains("does not match the current range"), "{refused}");
    cluster.delete_service("s").await;
    let uid = held.metadata.uid.unwrap();
    soon("the range is deleted", await_condition(cluster.ranges(), "more", is_deleted(&uid))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_of_users_are_mirrored_and_deleted_with_their_service() {
    let (cluster, _running) = cluster().await;
    cluster.service("db", json!({})).await;
    let endpoints = Api::<Endpoints>::default_namespaced(cluster.client.clone());
    let own = parsed(
        json!({"metadata": {"name": "db"}, "subsets": [{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 5432}]}]}),
    );
    endpoints.create(&PostParams::default(), &own).await.unwrap();
    let slices = Api::<EndpointSlice>::default_namespaced(cluster.client.clone());
    let of_db = ListParams::default().labels("kubernetes.io/service-name=db");
    let list = async || slices.list(&of_db).await.unwrap().items;
    until("a mirrored slice", async || list().await.len() == 1).await;
    let mirrored = list().await;
    assert_eq!(mirrored[0].endpoints.as_ref().unwrap()[0].addresses, ["192.0.2.7"]);
    assert_eq!(mirrored[0].ports.as_ref().unwrap()[0].port, Some(5432));
    cluster.delete_service("db").await;
    until("no slice", async || list().await.is_empty()).await;
    assert!(endpoints.get_opt("db").await.unwrap().is_none());
}
