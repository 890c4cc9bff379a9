//! The part of an object's metadata that the collector reads. The rest, such as labels and managed fields, is skipped in
//! the text: most of what a busy server writes has neither owners nor dependents.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Resource;
use kube::core::DynamicResourceScope;
use kube::core::discovery::ApiResource;
use serde::{Deserialize, Deserializer};

/// Identity, owners, finalizers and deletion of an object.
#[derive(Clone, Debug)]
pub(super) struct References(pub(super) Box<ObjectMeta>);

impl<'de> Deserialize<'de> for References {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Object {
            metadata: Metadata,
        }

        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata {
            namespace: Option<String>,
            name: Option<String>,
            uid: Option<String>,
            resource_version: Option<String>,
            owner_references: Option<Vec<OwnerReference>>,
            finalizers: Option<Vec<String>>,
            deletion_timestamp: Option<Time>,
        }

        let Metadata {
            namespace,
            name,
            uid,
            resource_version,
            owner_references,
            finalizers,
            deletion_timestamp,
        } = Object::deserialize(deserializer)?.metadata;
        Ok(References(Box::new(ObjectMeta {
            namespace,
            name,
            uid,
            resource_version,
            owner_references,
            finalizers,
            deletion_timestamp,
            ..ObjectMeta::default()
        })))
    }
}

impl Resource for References {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&resource.kind)
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&resource.group)
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&resource.version)
    }

    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&resource.api_version)
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&resource.plural)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.0
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_collector_does_not_read_need_not_decode() {
        let object = json!({
            "metadata": {
                "name": "a", "uid": "u", "labels": 7, "managedFields": {},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "o"}],
                "finalizers": ["x.io/y"], "deletionTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": 7,
        });
        let References(meta) = serde_json::from_value(object).unwrap();
        assert_eq!((meta.name.as_deref(), meta.uid.as_deref()), (Some("a"), Some("u")));
        assert_eq!(meta.owner_references.unwrap()[0].uid, "o");
        assert_eq!(meta.finalizers.unwrap(), ["x.io/y"]);
        assert!(meta.deletion_timestamp.is_some() && meta.labels.is_none());
        assert!(serde_json::from_value::<References>(json!({"metadata": {"ownerReferences": 7}})).is_err());
    }
}
