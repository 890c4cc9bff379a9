//! What every cluster has: namespaces, roles, priority classes, the `kubernetes` Service. Missing ones are made.

use std::sync::Arc;

use serde_json::{Value, json};
use skep_api::{Kind, Reason, Status, find, find_kind, meta};

use crate::authz::default_objects;
use crate::write::{self, stamp};
use crate::{Inner, aggregate, allocate};

pub(crate) async fn run(server: &Arc<Inner>) -> Result<(), Status> {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        ensure(server, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await?;
    }
    for object in default_objects() {
        ensure(server, object).await?;
    }
    for (name, value) in [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)]
    {
        let class = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value,
        });
        ensure(server, class).await?;
    }
    allocate::ensure_default_range(server).await?;
    allocate::repair(server).await?;
    follow(server, aggregate::trust(server), &["data"]).await?;
    kubernetes_service(server).await
}

/// Makes the object unless one of its name is there.
async fn ensure(server: &Arc<Inner>, object: Value) -> Result<(), Status> {
    let kind = kind_of(&object)?;
    if write::find(server, kind, meta::namespace(&object), meta::name(&object)).is_ok() {
        return Ok(());
    }
    insert(server, kind, object).await
}

async fn insert(server: &Arc<Inner>, kind: &Kind, mut object: Value) -> Result<(), Status> {
    stamp(&mut object);
    kind.prepare_create(&mut object);
    match write::insert(server, kind, &object).await {
        // Another server of the cluster was faster.
        Err(status) if status.reason != Reason::AlreadyExists => Err(status),
        _ => Ok(()),
    }
}

/// The API as pods see it, and the endpoint behind it.
async fn kubernetes_service(server: &Arc<Inner>) -> Result<(), Status> {
    let advertise = server.config.advertise;
    if let Some(first) = server.config.services.cidrs.first().and_then(|cidr| cidr.iter().nth(1)) {
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {"type": "ClusterIP", "clusterIP": first.to_string(), "clusterIPs": [first.to_string()],
                "ports": [{"name": "https", "port": 443, "targetPort": advertise.port(), "protocol": "TCP"}]},
        });
        ensure_service(server, service).await?;
    }
    let port = json!({"name": "https", "port": advertise.port(), "protocol": "TCP"});
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if advertise.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [advertise.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [port],
    });
    follow(server, slice, &["addressType", "endpoints", "ports"]).await?;
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": advertise.ip().to_string()}], "ports": [port]}],
    });
    follow(server, endpoints, &["subsets"]).await
}

async fn ensure_service(server: &Arc<Inner>, mut service: Value) -> Result<(), Status> {
    let Some(kind) = find("", "v1", "services") else { return Ok(()) };
    if write::find(server, kind, meta::namespace(&service), meta::name(&service)).is_ok() {
        return Ok(());
    }
    kind.prepare_create(&mut service);
    stamp(&mut service);
    match allocate::reserve(server, kind, &mut service, None, false).await {
        Ok(reservation) => {
            let made = write::insert(server, kind, &service).await;
            if let Some(reservation) = reservation {
                reservation.end(made.is_ok()).await;
            }
            made.map(drop)
        }
        // Another server of the cluster is making it, or was and died: the store takes one.
        Err(_) if allocate::is_reserved_for(server, &service) => insert(server, kind, service).await,
        Err(status) => Err(status),
    }
}

/// Makes the object, or brings these fields of it up to date.
async fn follow(server: &Arc<Inner>, wanted: Value, fields: &[&str]) -> Result<(), Status> {
    let kind = kind_of(&wanted)?;
    let Ok(old) = write::find(server, kind, meta::namespace(&wanted), meta::name(&wanted)) else {
        return insert(server, kind, wanted).await;
    };
    let mut new = old.value();
    for field in fields {
        new[*field] = wanted[*field].clone();
    }
    write::replace(server, kind, &old, &new).await.map(drop)
}

fn kind_of(object: &Value) -> Result<&'static Kind, Status> {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = find_kind(group, version, object["kind"].as_str().unwrap_or_default());
    kind.ok_or_else(|| Status::internal(format!("{api_version} has no such kind")))
}
