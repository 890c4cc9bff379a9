//! The objects of the cluster's DNS: the Service `kube-system/kube-dns`, its endpoints, and the ConfigMap `skep-dns` with the
//! settings. Missing ones are created; what an administrator made of them stays.
//!
//! Every node answers at the Service's addresses for its own pods (annotation `skep.io/served-by: node`), so the endpoints are those
//! addresses themselves. A Service with a selector is served by the pods that it selects, and has no endpoints from here.

use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use skep_api::{Status, find, meta};

use super::reconcile_loop;
use crate::allocate::Allocator;
use crate::bootstrap::{ensure, ensure_fields, ensure_service};
use crate::endpoints::slices_of;
use crate::stored::Storage;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";
/// kubeadm's choice: the tenth address of the range of Services.
const ADDRESS_NUMBER: u32 = 10;
const SERVED_BY: &str = "skep.io/served-by";
const NODE: &str = "node";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "skep-apiserver";
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
/// The settings of a new cluster.
const COREFILE: &str = "\
.:53 {
    errors
    autopath
    kubernetes {
        ttl 5
        pods insecure
    }
    forward . /etc/resolv.conf
    cache
}
";

/// Follows Services, EndpointSlices and ConfigMaps.
pub(super) async fn run(allocator: Arc<Allocator>) {
    let kinds = [("", "services"), ("", "configmaps"), ("discovery.k8s.io", "endpointslices")];
    let follow = |(group, plural)| {
        let allocator = allocator.clone();
        async move {
            let Some(kind) = find(group, "v1", plural) else { return };
            let round = || async {
                let ensured = ensure_cluster_dns(&allocator).await;
                if let Err(error) = &ensured {
                    tracing::warn!(%error, "reconcile the cluster's DNS failed; it is retried");
                }
                ensured.is_ok()
            };
            reconcile_loop::run(&allocator.storage.caches, kind, round).await;
        }
    };
    futures::future::join_all(kinds.map(follow)).await;
}

/// Creates what is missing.
pub(crate) async fn ensure_cluster_dns(allocator: &Arc<Allocator>) -> Result<(), Status> {
    let storage = &allocator.storage;
    let settings = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": NAMESPACE, "name": "skep-dns"},
        "data": {"Corefile": COREFILE},
    });
    ensure(storage, settings).await?;
    let Some(kind) = find("", "v1", "services") else { return Ok(()) };
    if storage.caches.get_or_404(kind, NAMESPACE, NAME).is_err() {
        create_service(allocator).await?;
    }
    let Ok(service) = storage.caches.get_or_404(kind, NAMESPACE, NAME) else { return Ok(()) };
    endpoints(storage, &service.value()).await
}

async fn create_service(allocator: &Arc<Allocator>) -> Result<(), Status> {
    let cidrs = &allocator.network.cidrs;
    let addresses: Option<Vec<IpAddr>> = cidrs.iter().map(tenth).collect();
    let fixed = addresses.filter(|addresses| !addresses.is_empty()).unwrap_or_default();
    match ensure_service(allocator, service(&fixed, cidrs.len())).await {
        // Another Service has the address in a cluster that is older than its DNS.
        Err(error) if !fixed.is_empty() => {
            tracing::warn!(%error, addresses = ?fixed, "the usual address of DNS is not free; it gets another");
            ensure_service(allocator, service(&[], cidrs.len())).await
        }
        ensured => ensured,
    }
}

/// `None`: the range is too small.
fn tenth(cidr: &IpNetwork) -> Option<IpAddr> {
    let ip = match cidr.network() {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first).checked_add(ADDRESS_NUMBER)?).into()),
        IpAddr::V6(first) => IpAddr::V6((u128::from(first).checked_add(ADDRESS_NUMBER.into())?).into()),
    };
    cidr.contains(ip).then_some(ip)
}

/// Without addresses it gets free ones.
fn service(addresses: &[IpAddr], families: usize) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "namespace": NAMESPACE, "name": NAME,
            "annotations": {SERVED_BY: NODE},
            "labels": {
                "k8s-app": NAME, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS",
            },
        },
        "spec": {
            "type": "ClusterIP",
            "ports": [
                {"name": "dns", "port": 53, "targetPort": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "targetPort": 53, "protocol": "TCP"},
            ],
        },
    });
    if families > 1 {
        service["spec"]["ipFamilyPolicy"] = "PreferDualStack".into();
    }
    if let Some(first) = addresses.first() {
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        service["spec"]["clusterIP"] = first.to_string().into();
        service["spec"]["clusterIPs"] = json!(texts);
    }
    service
}

/// Writes the endpoints of a Service that nodes serve, and removes ours from another.
async fn endpoints(storage: &Storage, service: &Value) -> Result<(), Status> {
    let selects = service["spec"]["selector"].as_object().is_some_and(|selector| !selector.is_empty());
    let of_node = service["metadata"]["annotations"][SERVED_BY] == NODE && !selects;
    let addresses: Vec<&str> = match of_node {
        true => {
            service["spec"]["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
        }
        false => Vec::new(),
    };
    let ports = json!([
        {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]);
    let mut wanted = Vec::new();
    for address in &addresses {
        let family = if address.contains(':') { "IPv6" } else { "IPv4" };
        let name = format!("{NAME}-{}", family.to_lowercase());
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": NAMESPACE, "name": name,
                "labels": {"kubernetes.io/service-name": NAME, MANAGED_BY: MANAGER}},
            "addressType": family,
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            "ports": ports,
        });
        ensure_equal(storage, slice, &["addressType", "endpoints", "ports"]).await?;
        wanted.push(name);
    }
    remove_others(storage, &wanted).await?;
    if addresses.is_empty() {
        return Ok(());
    }
    let of_object: Vec<Value> = addresses.iter().map(|address| json!({"ip": address})).collect();
    let object = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"namespace": NAMESPACE, "name": NAME, "labels": {SKIP_MIRROR: "true"}},
        "subsets": [{"addresses": of_object, "ports": ports}],
    });
    ensure_equal(storage, object, &["subsets"]).await
}

/// Writes only what differs: each write starts another round.
async fn ensure_equal(storage: &Storage, wanted: Value, fields: &[&str]) -> Result<(), Status> {
    let api_version = wanted["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = skep_api::find_kind(group, version, wanted["kind"].as_str().unwrap_or_default());
    let known = kind.and_then(|kind| storage.caches.get_or_404(kind, NAMESPACE, meta::name(&wanted)).ok());
    let known = known.map(|known| known.value());
    if known.is_some_and(|known| fields.iter().all(|field| known[*field] == wanted[*field])) {
        return Ok(());
    }
    ensure_fields(storage, wanted, fields).await
}

async fn remove_others(storage: &Storage, wanted: &[String]) -> Result<(), Status> {
    let Some(kind) = find("discovery.k8s.io", "v1", "endpointslices") else { return Ok(()) };
    for slice in slices_of(&storage.caches, NAMESPACE, NAME) {
        let object = slice.value();
        let ours = object["metadata"]["labels"][MANAGED_BY] == MANAGER;
        if ours && !wanted.iter().any(|name| *name == meta::name(&object)) {
            storage.remove(kind, &slice).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_the_tenth_of_the_range_if_that_is_large_enough() {
        let of = |cidr: &str| tenth(&cidr.parse().unwrap()).map(|ip| ip.to_string());
        assert_eq!(of("10.96.0.0/12").as_deref(), Some("10.96.0.10"));
        assert_eq!(of("fd00:96::/112").as_deref(), Some("fd00:96::a"));
        assert_eq!(of("10.96.0.0/28").as_deref(), Some("10.96.0.10"));
        assert_eq!(of("10.96.0.0/29"), None);
        assert_eq!(of("255.255.255.248/29"), None);
    }
}
