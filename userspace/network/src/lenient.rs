//! The type that informers watch: an object of a kind, or one that its type cannot hold.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use skep_api::decode::{Decoded, Unreadable};

/// An item of a list or watch. kube's watcher decodes it as one type, so the item that does not decode is a value.
#[derive(Clone, Debug)]
pub(crate) struct Lenient<K> {
    pub(crate) item: Decoded<K>,
    /// Identity of an item that does not decode, as kube needs it.
    meta: ObjectMeta,
}

impl<K> From<Decoded<K>> for Lenient<K> {
    fn from(item: Decoded<K>) -> Self {
        let meta = match &item {
            Decoded::Object(_) => ObjectMeta::default(),
            Decoded::Unreadable(unreadable) => identity(unreadable),
        };
        Lenient { item, meta }
    }
}

/// Namespace, name, uid and resourceVersion as metadata.
pub(crate) fn identity(unreadable: &Unreadable) -> ObjectMeta {
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    ObjectMeta {
        namespace: some(&unreadable.namespace),
        name: some(&unreadable.name),
        uid: some(&unreadable.uid),
        resource_version: some(&unreadable.resource_version),
        ..ObjectMeta::default()
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Lenient<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Decoded::deserialize(deserializer)?.into())
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
        match &self.item {
            Decoded::Object(object) => object.meta(),
            Decoded::Unreadable(_) => &self.meta,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match &mut self.item {
            Decoded::Object(object) => object.meta_mut(),
            Decoded::Unreadable(_) => &mut self.meta,
        }
    }
}
