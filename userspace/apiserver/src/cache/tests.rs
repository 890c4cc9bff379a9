//! Caches over a real store: kinds and their objects follow the definitions.

use std::sync::Arc;

use serde_json::{Value, json};
use skep_api::custom::definition::{Verdict, judge};
use skep_api::{KindRef, find};
use skep_store::embedded::EmbeddedStore;
use skep_store::{Expect, Store};

use super::{Caches, prefix};
use crate::object::to_stored;

const DEFINITION: &str = "/registry/apiextensions.k8s.io/customresourcedefinitions/things.a.example.com";

/// An established definition whose instances have these fields.
fn definition(properties: Value) -> Value {
    let mut object = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.a.example.com", "uid": "u"},
        "spec": {
            "group": "a.example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}}],
        },
    });
    find("apiextensions.k8s.io", "v1", "customresourcedefinitions").unwrap().default(&mut object);
    match judge(&object, [], "2026-01-01T00:00:00Z") {
        Verdict::Changed(judged) => *judged,
        Verdict::Same => panic!("it was not judged"),
    }
}

struct Cluster {
    store: Arc<dyn Store>,
    _folder: tempfile::TempDir,
}

impl Cluster {
    fn new() -> Cluster {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&folder.path().join("store.redb")).unwrap();
        Cluster { store: Arc::new(store), _folder: folder }
    }

    async fn put(&self, key: &str, object: &Value) {
        self.store.put(key, to_stored(object), Expect::Any).await.unwrap();
    }

    async fn put_thing(&self, fields: Value) {
        let mut thing = json!({"apiVersion": "a.example.com/v1", "kind": "Thing", "metadata": {"name": "x", "namespace": "n"}});
        thing.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.put("/registry/a.example.com/things/n/x", &thing).await;
    }
}

fn served(caches: &Caches) -> Option<KindRef> {
    caches.registry().find("a.example.com", "v1", "things")
}

fn shown(caches: &Caches) -> Value {
    let kind = served(caches).unwrap();
    let objects = caches.of(&kind).unwrap().list(&prefix(&kind));
    assert_eq!(objects.len(), 1);
    objects[0].value()
}

#[tokio::test]
async fn what_was_stored_is_served_from_the_start() {
    let cluster = Cluster::new();
    cluster.put_thing(json!({"a": "1", "unknown": 2})).await;
    cluster
        .put(
            DEFINITION,
            &definition(json!({"a": {"type": "string"}, "b": {"type": "string", "default": "d"}})),
        )
        .await;
    let caches = Caches::load(cluster.store.clone()).await.unwrap();
    let thing = shown(&caches);
    assert_eq!((&thing["a"], &thing["b"], &thing["unknown"]), (&json!("1"), &json!("d"), &Value::Null));
}

#[tokio::test]
async fn a_definition_takes_up_what_is_there_and_follows_its_schema() {
    let cluster = Cluster::new();
    let caches = Caches::load(cluster.store.clone()).await.unwrap();
    cluster.put_thing(json!({"a": "1", "late": "2"})).await;
    caches.catch_up().await.unwrap();
    assert!(served(&caches).is_none());
    cluster.put(DEFINITION, &definition(json!({"a": {"type": "string"}}))).await;
    caches.catch_up().await.unwrap();
    assert_eq!((&shown(&caches)["a"], &shown(&caches)["late"]), (&json!("1"), &Value::Null));
    cluster.put(DEFINITION, &definition(json!({"a": {"type": "string"}, "late": {"type": "string"}}))).await;
    caches.catch_up().await.unwrap();
    assert_eq!(shown(&caches)["late"], "2", "what is stored shows again once the schema knows it");
    cluster.store.delete(DEFINITION, Expect::Any).await.unwrap();
    caches.catch_up().await.unwrap();
    assert!(served(&caches).is_none());
}

#[tokio::test]
async fn watchers_outlive_a_new_status_but_not_a_new_schema() {
    let cluster = Cluster::new();
    let mut defined = definition(json!({"a": {"type": "string"}}));
    cluster.put(DEFINITION, &defined).await;
    let caches = Caches::load(cluster.store.clone()).await.unwrap();
    let resource = caches.of(&served(&caches).unwrap()).unwrap();
    let mut changes = resource.subscribe();
    defined["status"]["storedVersions"] = json!(["v1", "v1"]);
    cluster.put(DEFINITION, &defined).await;
    cluster.put_thing(json!({"a": "1"})).await;
    caches.catch_up().await.unwrap();
    assert_eq!(changes.recv().await.unwrap().object.value()["a"], "1");
    cluster.put(DEFINITION, &definition(json!({"b": {"type": "string"}}))).await;
    caches.catch_up().await.unwrap();
    assert!(changes.recv().await.is_none(), "who watched by the old schema lists again");
}
