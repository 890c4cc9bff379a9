//! The API on a store that lost keys, or power.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use skep_store::embedded::EmbeddedStore;
use skep_store::sealed::{Keyring, SealedStore};
use skep_tests::api_server::TestApiServer;

fn secret(name: &str) -> Secret {
    Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        string_data: Some(BTreeMap::from([("password".to_owned(), "correct horse".to_owned())])),
        ..Secret::default()
    }
}

/// A server without the key of one Secret starts, serves all others, and lets the one be deleted.
#[tokio::test]
async fn a_secret_whose_key_is_lost_stops_nothing_and_can_be_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(EmbeddedStore::open(&folder.path().join("store.redb")).unwrap());
    let sealed = |keys: &str| {
        Arc::new(SealedStore::new(store.clone(), "/registry/secrets/", Keyring::parse(keys).unwrap()))
    };
    let (lost, kept) = (Keyring::new_line().unwrap(), Keyring::new_line().unwrap());
    let server = TestApiServer::start_on(sealed(&lost)).await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(server.client(), "default");
    secrets.create(&PostParams::default(), &secret("lost")).await.unwrap();
    drop(server);

    let server = TestApiServer::start_on(sealed(&kept)).await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(server.client(), "default");
    secrets.create(&PostParams::default(), &secret("sound")).await.unwrap();
    let names = async || -> Vec<String> {
        let all = secrets.list(&ListParams::default()).await.unwrap();
        all.items.into_iter().filter_map(|secret| secret.metadata.name).collect()
    };
    assert!(names().await.contains(&"sound".to_owned()), "a list shows the others");
    let label = Patch::Merge(serde_json::json!({"metadata": {"labels": {"a": "b"}}}));
    let patched = secrets.patch("lost", &PatchParams::default(), &label).await;
    assert!(patched.is_err(), "nothing overwrites what only this server cannot read: {patched:?}");
    assert!(secrets.get("sound").await.unwrap().data.is_some());
    secrets.delete("lost", &DeleteParams::default()).await.unwrap();
    assert!(!names().await.contains(&"lost".to_owned()));
    secrets.create(&PostParams::default(), &secret("lost")).await.unwrap();
    assert!(secrets.get("lost").await.unwrap().data.is_some());
}
