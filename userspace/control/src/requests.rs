//! Typed requests: from a [`Kind`] or an [`Object`] to the Rust type that the server's answer has.

use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::core::Request;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::action::{Delete, Propagation};
use crate::cache::kinds::{with_object, with_type};
use crate::cache::{Key, Kind, Object, transformed};

impl From<Propagation> for PropagationPolicy {
    fn from(propagation: Propagation) -> Self {
        match propagation {
            Propagation::Background => PropagationPolicy::Background,
            Propagation::Foreground => PropagationPolicy::Foreground,
            Propagation::Orphan => PropagationPolicy::Orphan,
        }
    }
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
    with_object!(object, o => typed_create(client, o.as_ref(), namespace).await.map(transformed))
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
    with_object!(object, o => typed_update(client, o.as_ref(), &key, subresource).await.map(transformed))
}

pub(crate) async fn patch(
    client: &Client,
    kind: Kind,
    key: &Key,
    patch: &serde_json::Value,
    subresource: &str,
) -> kube::Result<Object> {
    let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
    with_type!(kind, K => {
        let request = match subresource {
            "" => path::<K>(&key.namespace).patch(&key.name, &params, &patch),
            _ => path::<K>(&key.namespace).patch_subresource(subresource, &key.name, &params, &patch),
        };
        client.request::<K>(request.map_err(kube::Error::BuildRequest)?).await.map(transformed)
    })
}

pub(crate) async fn get(client: &Client, kind: Kind, key: &Key) -> kube::Result<Object> {
    with_type!(kind, K => {
        let request = path::<K>(&key.namespace).get(&key.name, &Default::default());
        client.request::<K>(request.map_err(kube::Error::BuildRequest)?).await.map(transformed)
    })
}

/// Deletes. The answer is the object in its last state, or `None` if the server only confirms.
pub(crate) async fn delete(client: &Client, delete: &Delete) -> kube::Result<Option<Object>> {
    let params = DeleteParams {
        grace_period_seconds: delete.grace_seconds,
        propagation_policy: delete.propagation.map(PropagationPolicy::from),
        preconditions: delete.uid.clone().map(|uid| Preconditions { uid: Some(uid), ..Default::default() }),
        ..Default::default()
    };
    with_type!(delete.kind, K => {
        let request = path::<K>(&delete.key.namespace).delete(&delete.key.name, &params);
        let answer = client.request_status::<K>(request.map_err(kube::Error::BuildRequest)?).await?;
        Ok(answer.left().map(transformed))
    })
}

/// The kind's name in URLs.
pub(crate) fn plural(kind: Kind) -> String {
    with_type!(kind, K => K::plural(&()).into_owned())
}
