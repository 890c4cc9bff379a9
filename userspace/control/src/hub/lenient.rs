//! The type that informers watch: an object of a kind, or one that its type cannot hold.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use skep_api::decode::{Decoded, Unreadable};

/// An item of a list or watch. kube's watcher decodes it as one type, so the item that does not decode is a value.
#[derive(Clone, Debug)]
pub(crate) enum Lenient<K> {
    Object(K),
    Unreadable {
        /// Namespace, name, uid and resourceVersion.
        meta: Box<ObjectMeta>,
        /// Why it does not decode.
        error: String,
    },
}

impl<K> Lenient<K> {
    fn unreadable(unreadable: Unreadable) -> Self {
        let Unreadable { namespace, name, uid, resource_version, error } = unreadable;
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let meta = ObjectMeta {
            namespace: some(namespace),
            name: some(name),
            uid: some(uid),
            resource_version: some(resource_version),
            ..ObjectMeta::default()
        };
        Lenient::Unreadable { meta: Box::new(meta), error }
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Lenient<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Decoded::deserialize(deserializer)? {
            Decoded::Object(object) => Lenient::Object(object),
            Decoded::Unreadable(unreadable) => Lenient::unreadable(*unreadable),
        })
    }
}

impl<K: Resource> Resource for Lenient<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &K::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &K::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &K::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }

    fn api_version(dt: &K::DynamicType) -> Cow<'_, str> {
        K::api_version(dt)
    }

    fn plural(dt: &K::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        match self {
            Lenient::Object(object) => object.meta(),
            Lenient::Unreadable { meta, .. } => meta,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Lenient::Object(object) => object.meta_mut(),
            Lenient::Unreadable { meta, .. } => meta,
        }
    }
}
