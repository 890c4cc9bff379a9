//! The typed half of every request: from a [`Kind`] or an [`Object`] to the Rust type that the server's answer has.

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
    batch::v1::Job,
    certificates::v1::CertificateSigningRequest,
    coordination::v1::Lease,
    core::v1::{
        ConfigMap, Endpoints, Namespace, Node, PersistentVolumeClaim, Pod, ReplicationController, Service,
        ServiceAccount,
    },
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
    policy::v1::PodDisruptionBudget,
    rbac::v1::ClusterRole,
};
use kube::{
    Client, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy},
    core::Request,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    action::{Delete, Propagation},
    pool::LoadBalancerPool,
    slim::slimmed,
    view::{Key, Kind, Object},
};

/// Runs a body with `$K` bound to the type of a kind.
macro_rules! typed {
    ($kind:expr, $K:ident => $body:expr) => {
        typed!(@ $kind, $K, $body, Namespace Node Lease Pod Service Endpoints EndpointSlice ConfigMap ServiceAccount
            ReplicationController ReplicaSet Deployment DaemonSet StatefulSet ControllerRevision
            PersistentVolumeClaim Job CertificateSigningRequest PodDisruptionBudget ClusterRole ServiceCIDR
            LoadBalancerPool)
    };
    (@ $kind:expr, $K:ident, $body:expr, $($name:ident)*) => {
        match $kind { $(Kind::$name => { type $K = $name; $body })* }
    };
}
pub(crate) use typed;

/// Runs a body with `$o` bound to the object in its own type.
macro_rules! of_object {
    ($object:expr, $o:ident => $body:expr) => {
        of_object!(@ $object, $o, $body, Namespace Node Lease Pod Service Endpoints EndpointSlice ConfigMap
            ServiceAccount ReplicationController ReplicaSet Deployment DaemonSet StatefulSet ControllerRevision
            PersistentVolumeClaim Job CertificateSigningRequest PodDisruptionBudget ClusterRole ServiceCIDR
            LoadBalancerPool)
    };
    (@ $object:expr, $o:ident, $body:expr, $($name:ident)*) => {
        match $object { $(Object::$name($o) => $body,)* }
    };
}

fn path<K: Resource<DynamicType = ()>>(namespace: &str) -> Request {
    Request::new(K::url_path(&(), Some(namespace).filter(|ns| !ns.is_empty())))
}

fn body<K: Serialize>(object: &K) -> kube::Result<Vec<u8>> {
    serde_json::to_vec(object).map_err(kube::Error::SerdeError)
}

pub(crate) async fn create(client: &Client, object: &Object) -> kube::Result<Object> {
    async fn typed_create<K>(client: &Client, object: &K, namespace: &str) -> kube::Result<K>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let request = path::<K>(namespace).create(&PostParams::default(), body(object)?);
        client.request(request.map_err(kube::Error::BuildRequest)?).await
    }
    let namespace = object.meta().namespace.as_deref().unwrap_or_default();
    of_object!(object, o => typed_create(client, o.as_ref(), namespace).await.map(slimmed))
}

pub(crate) async fn update(client: &Client, object: &Object, subresource: &str) -> kube::Result<Object> {
    async fn typed_update<K>(client: &Client, object: &K, key: &Key, subresource: &str) -> kube::Result<K>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let (path, params, bytes) = (path::<K>(&key.namespace), PostParams::default(), body(object)?);
        let request = match subresource {
            "" => path.replace(&key.name, &params, bytes),
            _ => path.replace_subresource(subresource, &key.name, &params, bytes),
        };
        client.request(request.map_err(kube::Error::BuildRequest)?).await
    }
    let key = Key::of(object.meta());
    of_object!(object, o => typed_update(client, o.as_ref(), &key, subresource).await.map(slimmed))
}

pub(crate) async fn patch(
    client: &Client,
    kind: Kind,
    key: &Key,
    patch: &serde_json::Value,
    subresource: &str,
) -> kube::Result<Object> {
    let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
    typed!(kind, K => {
        let request = match subresource {
            "" => path::<K>(&key.namespace).patch(&key.name, &params, &patch),
            _ => path::<K>(&key.namespace).patch_subresource(subresource, &key.name, &params, &patch),
        };
        client.request::<K>(request.map_err(kube::Error::BuildRequest)?).await.map(slimmed)
    })
}

pub(crate) async fn get(client: &Client, kind: Kind, key: &Key) -> kube::Result<Object> {
    typed!(kind, K => {
        let request = path::<K>(&key.namespace).get(&key.name, &Default::default());
        client.request::<K>(request.map_err(kube::Error::BuildRequest)?).await.map(slimmed)
    })
}

/// Deletes; the answer is the object in its last state, or nothing if the server only confirms.
pub(crate) async fn delete(client: &Client, delete: &Delete) -> kube::Result<Option<Object>> {
    let params = DeleteParams {
        grace_period_seconds: delete.grace_seconds,
        propagation_policy: delete.propagation.map(|p| match p {
            Propagation::Background => PropagationPolicy::Background,
            Propagation::Foreground => PropagationPolicy::Foreground,
            Propagation::Orphan => PropagationPolicy::Orphan,
        }),
        preconditions: delete.uid.clone().map(|uid| Preconditions { uid: Some(uid), ..Default::default() }),
        ..Default::default()
    };
    typed!(delete.kind, K => {
        let request = path::<K>(&delete.key.namespace).delete(&delete.key.name, &params);
        let answer = client.request_status::<K>(request.map_err(kube::Error::BuildRequest)?).await?;
        Ok(answer.left().map(slimmed))
    })
}

/// The kind's name in URLs.
pub(crate) fn plural(kind: Kind) -> String {
    typed!(kind, K => K::plural(&()).into_owned())
}
