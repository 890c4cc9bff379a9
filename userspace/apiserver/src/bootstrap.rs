//! The objects of every cluster: namespaces, roles, priority classes, the Ingress class, the `kubernetes` Service. Missing ones are created.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use skep_api::{Kind, Reason, Status, find, find_kind, local_path, meta};

use crate::admission::storage::{DEFAULT_CLASS, newest_default};
use crate::aggregate;
use crate::allocate::Allocator;
use crate::allocate::address::ensure_default_range;
use crate::authz::{default_objects, reconciled};
use crate::config::{Config, FrontProxy, NodeTls};
use crate::field_manager::{SERVER, track_own};
use crate::object::prefix;
use crate::reconcilers::service_allocations::repair;
use crate::stored::{Storage, stamp};

const CONTROLLER_ROLES: &str = "system:controller:";
/// Default bindings of earlier versions, which gave more than they should.
const OBSOLETE_BINDINGS: [&str; 1] = ["skep:node-network"];

pub(crate) async fn run(config: &Config, allocator: &Arc<Allocator>) -> Result<(), Status> {
    let storage = &allocator.storage;
    ensure_namespaces(storage).await?;
    for name in OBSOLETE_BINDINGS {
        let kind = find("rbac.authorization.k8s.io", "v1", "clusterrolebindings");
        if let Some((kind, old)) =
            kind.and_then(|kind| Some((kind, storage.caches.get_or_404(kind, "", name).ok()?)))
        {
            // Another server of the cluster may be faster.
            let _ = storage.remove(kind, &old).await;
        }
    }
    for object in default_objects() {
        for account in controller_accounts(&object) {
            ensure(storage, account).await?;
        }
        ensure_role(storage, object).await?;
    }
    for (name, value) in [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)]
    {
        let class = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value,
        });
        ensure(storage, class).await?;
    }
    ensure_storage_class(storage).await?;
    ensure_ingress_class(storage).await?;
    ensure_default_range(storage, &allocator.network).await?;
    repair(storage).await?;
    publish(storage, &config.client_ca, &config.front_proxy, &config.node_tls).await?;
    kubernetes_service(allocator, config.advertise).await
}

/// The class of the built-in provisioner; the cluster's default, unless an administrator has chosen another.
async fn ensure_storage_class(storage: &Storage) -> Result<(), Status> {
    let kind = find("storage.k8s.io", "v1", "storageclasses");
    let classes =
        kind.and_then(|kind| Some(storage.caches.of(kind)?.list(&prefix(kind)))).unwrap_or_default();
    let is_default = newest_default(classes.iter().map(|class| class.value()), &DEFAULT_CLASS).is_none();
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": local_path::CLASS, "annotations": {DEFAULT_CLASS[0]: is_default.to_string()}},
        "provisioner": local_path::PROVISIONER,
        "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true,
    });
    ensure(storage, class).await
}

/// The class that nodes serve. It is the default, and stays as an administrator changes it.
async fn ensure_ingress_class(storage: &Storage) -> Result<(), Status> {
    let class = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": "skep", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}},
        "spec": {"controller": "skep.io/ingress"},
    });
    ensure(storage, class).await
}

/// Writes the ConfigMaps by which other API servers and nodes know which CA to trust for what.
pub(crate) async fn publish(
    storage: &Storage,
    client_ca: &str,
    front_proxy: &FrontProxy,
    node_tls: &NodeTls,
) -> Result<(), Status> {
    let authorities = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "skep-certificate-authorities", "namespace": "kube-system"},
        "data": {
            "cluster-ca.crt": client_ca,
            "kubelet-client-ca.crt": node_tls.client_ca,
            "kubelet-serving-ca.crt": node_tls.ca,
        },
    });
    ensure_fields(storage, aggregate::trust(client_ca, front_proxy), &["data"]).await?;
    ensure_fields(storage, authorities, &["data"]).await
}

/// Creates the namespaces that every cluster has, as far as they are missing.
pub(crate) async fn ensure_namespaces(storage: &Storage) -> Result<(), Status> {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        ensure(storage, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await?;
    }
    Ok(())
}

/// The ServiceAccounts to which a role of upstream's controllers is bound.
fn controller_accounts(binding: &Value) -> impl Iterator<Item = Value> + use<'_> {
    let is_of_controller =
        binding["kind"] == "ClusterRoleBinding" && meta::name(binding).starts_with(CONTROLLER_ROLES);
    let subjects = binding["subjects"].as_array().filter(|_| is_of_controller);
    subjects.into_iter().flatten().map(|subject| {
        let metadata = json!({"name": subject["name"], "namespace": subject["namespace"]});
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    })
}

/// Creates the object unless one of its name exists.
pub(crate) async fn ensure(storage: &Storage, object: Value) -> Result<(), Status> {
    let kind = kind_of(&object)?;
    if storage.caches.get_or_404(kind, meta::namespace(&object), meta::name(&object)).is_ok() {
        return Ok(());
    }
    insert(storage, kind, object).await
}

/// Creates a default role or binding, or brings it up to date, unless its annotation forbids that.
async fn ensure_role(storage: &Storage, wanted: Value) -> Result<(), Status> {
    let kind = kind_of(&wanted)?;
    let (namespace, name) = (meta::namespace(&wanted), meta::name(&wanted));
    let Ok(old) = storage.caches.get_or_404(kind, namespace, name) else {
        return insert(storage, kind, wanted).await;
    };
    let old_value = old.value();
    if old_value["roleRef"] != wanted["roleRef"] {
        // A binding's role never changes. The default one takes the place of another, as upstream.
        storage.remove(kind, &old).await?;
        return insert(storage, kind, wanted).await;
    }
    let Some(mut new) = reconciled(&old_value, &wanted) else { return Ok(()) };
    track_own(kind, SERVER, &old_value, &mut new);
    match storage.replace(kind, &old, &new).await {
        // Another server of the cluster does the same.
        Err(status) if !status.is_stale() => Err(status),
        _ => Ok(()),
    }
}

async fn insert(storage: &Storage, kind: &Kind, mut object: Value) -> Result<(), Status> {
    complete(kind, &mut object);
    match storage.insert(kind, &object).await {
        // Another server of the cluster created it first.
        Err(status) if status.reason != Reason::AlreadyExists => Err(status),
        _ => Ok(()),
    }
}

/// A new object of the server's own, as its client would have created it.
fn complete(kind: &Kind, object: &mut Value) {
    kind.default_new(object);
    track_own(kind, SERVER, &Value::Null, object);
    stamp(object);
    kind.prepare_create(object);
}

/// The Service by which pods reach the API, unless it exists. `own`: the address of this server.
pub(crate) async fn kubernetes_service(allocator: &Arc<Allocator>, own: SocketAddr) -> Result<(), Status> {
    if let Some(first) = allocator.network.cidrs.first().and_then(|cidr| cidr.iter().nth(1)) {
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {"type": "ClusterIP", "clusterIP": first.to_string(), "clusterIPs": [first.to_string()],
                "ports": [{"name": "https", "port": 443, "targetPort": own.port(), "protocol": "TCP"}]},
        });
        ensure_service(allocator, service).await?;
    }
    Ok(())
}

pub(crate) async fn ensure_service(allocator: &Arc<Allocator>, mut service: Value) -> Result<(), Status> {
    let Some(kind) = find("", "v1", "services") else { return Ok(()) };
    let storage = &allocator.storage;
    if storage.caches.get_or_404(kind, meta::namespace(&service), meta::name(&service)).is_ok() {
        return Ok(());
    }
    complete(kind, &mut service);
    match allocator.reserve(kind, &mut service, None, false).await {
        Ok(reservation) => {
            let created = storage.insert(kind, &service).await;
            if let Some(reservation) = reservation {
                reservation.end(created.is_ok()).await;
            }
            created.map(drop)
        }
        // Another server of the cluster creates it now, or died before it did. The store takes the first one.
        Err(_) if allocator.is_reserved_for(&service) => insert(storage, kind, service).await,
        Err(status) => Err(status),
    }
}

/// Creates the object, or sets these fields of it.
pub(crate) async fn ensure_fields(storage: &Storage, wanted: Value, fields: &[&str]) -> Result<(), Status> {
    let kind = kind_of(&wanted)?;
    let Ok(old) = storage.caches.get_or_404(kind, meta::namespace(&wanted), meta::name(&wanted)) else {
        return insert(storage, kind, wanted).await;
    };
    let mut new = old.value();
    for field in fields {
        new[*field] = wanted[*field].clone();
    }
    storage.replace(kind, &old, &new).await.map(drop)
}

fn kind_of(object: &Value) -> Result<&'static Kind, Status> {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = find_kind(group, version, object["kind"].as_str().unwrap_or_default());
    kind.ok_or_else(|| Status::internal(format!("{api_version} has no such kind")))
}
