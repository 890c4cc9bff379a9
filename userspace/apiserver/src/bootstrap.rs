//! What every cluster has: namespaces, roles, priority classes, the `kubernetes` Service. Missing ones are made.

use std::sync::Arc;

use serde_json::{Value, json};
use skep_api::{Kind, Status, find, find_kind, meta};

use crate::Inner;
use crate::authz::default_objects;
use crate::object::Object;
use crate::write::{self, stamp};

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
    kubernetes_service(server).await
}

/// Makes the object unless one of its name is there.
async fn ensure(server: &Arc<Inner>, object: Value) -> Result<(), Status> {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = find_kind(group, version, object["kind"].as_str().unwrap_or_default());
    let kind = kind.ok_or_else(|| Status::internal(format!("{api_version} has no such kind")))?;
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
        Err(status) if status.reason != "AlreadyExists" => Err(status),
        _ => Ok(()),
    }
}

/// The API as pods see it, and the endpoint behind it.
async fn kubernetes_service(server: &Arc<Inner>) -> Result<(), Status> {
    let (Some(services), Some(slices)) =
        (find("", "v1", "services"), find("discovery.k8s.io", "v1", "endpointslices"))
    else {
        return Ok(());
    };
    let Some(first) = server.allocator.first() else { return Ok(()) };
    let advertise = server.config.advertise;
    if write::find(server, services, "default", "kubernetes").is_err() {
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {"type": "ClusterIP", "clusterIP": first.to_string(), "clusterIPs": [first.to_string()],
                "ports": [{"name": "https", "port": 443, "targetPort": advertise.port(), "protocol": "TCP"}]},
        });
        services.default(&mut service);
        server.allocator.assign(services, &mut service, None)?;
        insert(server, services, service).await?;
    }
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if advertise.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [advertise.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": advertise.port(), "protocol": "TCP"}],
    });
    match write::find(server, slices, "default", "kubernetes") {
        Ok(old) => follow_address(server, slices, &old, &slice).await,
        Err(_) => insert(server, slices, slice).await,
    }
}

async fn follow_address(
    server: &Arc<Inner>,
    kind: &Kind,
    old: &Object,
    wanted: &Value,
) -> Result<(), Status> {
    let mut new = old.value();
    for field in ["addressType", "endpoints", "ports"] {
        new[field] = wanted[field].clone();
    }
    write::replace(server, kind, old, &new).await.map(drop)
}
