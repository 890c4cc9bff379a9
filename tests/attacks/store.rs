//! The API on a store that lost keys, or power.

#[expect(dead_code, reason = "the store's own tests use all of it")]
#[path = "../../userspace/store/tests/common/mod.rs"]
mod common;
#[path = "../../userspace/store/tests/common/power.rs"]
mod power;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use skep_store::Store;
use skep_store::embedded::EmbeddedStore;
use skep_store::sealed::{Keyring, SealedStore};
use skep_tests::api_server::TestApiServer;
use skep_tests::linear::{Call, Operation, Value, is_linearizable};

use power::UnreliableDisk;

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

const KEYS: u64 = 3;
const CLIENTS: u64 = 4;

/// The time of calls, and values of writes: both only grow.
#[derive(Default)]
struct Counters {
    time: AtomicU64,
    value: AtomicU64,
}

fn next(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::SeqCst)
}

fn config_map(key: u64, value: Value) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta { name: Some(format!("key-{key}")), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([("value".to_owned(), value.to_string())])),
        ..ConfigMap::default()
    }
}

fn value_of(object: &ConfigMap) -> Value {
    object.data.as_ref().unwrap()["value"].parse().unwrap()
}

/// What a client read last: the value and its version.
type Seen = Option<(Value, String)>;

#[derive(Clone, Copy)]
enum Kind {
    Read,
    Create,
    /// Replaces what was read last.
    Swap,
    Delete,
}

/// One call, and whether an answer came; without one, the call as if it had succeeded.
async fn call(objects: &Api<ConfigMap>, kind: Kind, key: u64, value: Value, seen: &mut Seen) -> (Call, bool) {
    let name = format!("key-{key}");
    let is = |error: &kube::Error, code| matches!(error, kube::Error::Api(status) if status.code == code);
    match (kind, seen.clone()) {
        (Kind::Delete, _) => match objects.delete(&name, &DeleteParams::default()).await {
            Ok(_) => (Call::Deleted, true),
            Err(error) if is(&error, 404) => (Call::DeleteRefused, true),
            Err(_) => (Call::Deleted, false),
        },
        (Kind::Create, _) => match objects.create(&PostParams::default(), &config_map(key, value)).await {
            Ok(_) => (Call::Created(value), true),
            Err(error) if is(&error, 409) => (Call::CreateRefused, true),
            Err(_) => (Call::Created(value), false),
        },
        (Kind::Swap, Some((old, version))) => {
            let mut new = config_map(key, value);
            new.metadata.resource_version = Some(version);
            match objects.replace(&name, &PostParams::default(), &new).await {
                Ok(_) => (Call::Swapped { old, new: value }, true),
                Err(error) if is(&error, 409) || is(&error, 404) => (Call::SwapRefused { old }, true),
                Err(_) => (Call::Swapped { old, new: value }, false),
            }
        }
        _ => match objects.get_opt(&name).await {
            Ok(found) => {
                *seen = found.map(|found| (value_of(&found), found.metadata.resource_version.unwrap()));
                (Call::Read(seen.as_ref().map(|(value, _)| *value)), true)
            }
            Err(_) => (Call::Read(None), false),
        },
    }
}

type History = Vec<(u64, Operation)>;

/// Calls until one gets no answer, or until there were enough.
async fn client(objects: &Api<ConfigMap>, counters: &Counters, calls: usize) -> History {
    let mut history = History::new();
    for _ in 0..calls {
        let (turn, mut seen) = (next(&counters.value), None);
        let key = turn / 8 % KEYS;
        let kinds = match turn % 8 {
            0 => [Kind::Delete, Kind::Read],
            1 | 2 => [Kind::Create, Kind::Read],
            _ => [Kind::Read, Kind::Swap],
        };
        for kind in kinds {
            let (value, began) = (next(&counters.value), next(&counters.time));
            let (call, answered) = call(objects, kind, key, value, &mut seen).await;
            let ended = answered.then(|| next(&counters.time));
            // A read without an answer says nothing.
            if answered || !matches!(call, Call::Read(_)) {
                history.push((key, Operation { call, began, ended }));
            }
            if !answered {
                return history;
            }
        }
    }
    history
}

async fn run_clients(store: Arc<dyn Store>, counters: &Counters, calls: usize) -> History {
    let server = TestApiServer::start_on(store).await.unwrap();
    let objects: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let clients = (0..CLIENTS).map(|_| client(&objects, counters, calls));
    join_all(clients).await.into_iter().flatten().collect()
}

fn assert_linearizable(history: &History) {
    for key in 0..KEYS {
        let of_key = history.iter().filter(|(other, _)| *other == key).map(|(_, operation)| *operation);
        let of_key: Vec<Operation> = of_key.collect();
        let writes = of_key.iter().filter(|operation| matches!(operation.call, Call::Swapped { .. }));
        assert!(writes.count() > 3, "key {key} has too few writes: {of_key:?}");
        assert!(is_linearizable(of_key.clone()), "no order explains key {key}: {of_key:#?}");
    }
}

/// Creates, compare-and-swap writes, deletes and reads of several clients have one order, also over power cuts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_the_api_are_linearizable_over_power_cuts() {
    let (disk, counters) = (UnreliableDisk::new(5), Counters::default());
    let open = || {
        let path = Path::new("/disk/store.redb");
        Arc::new(EmbeddedStore::open_on(Arc::new(disk.clone()), path, 50_000).unwrap())
    };
    let mut history = History::new();
    for round in 0..6 {
        let store = open();
        let cut = async {
            // The first objects of the server are written before.
            while counters.value.load(Ordering::SeqCst) < round * 1_000 + 500 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            disk.cut_power_after(100);
        };
        let (calls, ()) = futures::join!(run_clients(store, &counters, 1_000), cut);
        history.extend(calls);
        disk.restart();
        counters.value.fetch_max((round + 1) * 1_000, Ordering::SeqCst);
    }
    history.extend(run_clients(open(), &counters, 50).await);
    assert_linearizable(&history);
}

/// The same on etcd, which is killed and started again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_the_api_are_linearizable_on_etcd() {
    let ((mut etcd, store), counters) = (common::etcd().await, Counters::default());
    let store = Arc::new(store);
    let killed = async {
        while counters.value.load(Ordering::SeqCst) < 1_000 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        etcd.stop();
    };
    let (mut history, ()) = futures::join!(run_clients(store.clone(), &counters, 1_000), killed);
    etcd.run().unwrap();
    common::until_ok(|| store.revision()).await;
    history.extend(run_clients(store, &counters, 100).await);
    assert_linearizable(&history);
}

#[test]
fn a_history_with_a_stale_read_or_a_lost_write_is_not_linearizable() {
    let at = |call, began, ended| Operation { call, began, ended: Some(ended) };
    let written = [at(Call::Created(1), 0, 1), at(Call::Swapped { old: 1, new: 2 }, 2, 5)];
    let with = |more: &[Operation]| is_linearizable([&written[..], more].concat());
    assert!(with(&[at(Call::Read(Some(1)), 3, 4), at(Call::Read(Some(2)), 3, 4)]));
    assert!(!with(&[at(Call::Read(Some(1)), 6, 7)]), "stale");
    assert!(!with(&[at(Call::Read(Some(2)), 3, 4), at(Call::Read(Some(1)), 5, 6)]), "back in time");
    assert!(!with(&[at(Call::Swapped { old: 1, new: 3 }, 6, 7)]), "two writers of one version");
    assert!(!with(&[at(Call::Read(None), 6, 7)]), "lost");
    let unknown = Operation { call: Call::Deleted, began: 3, ended: None };
    assert!(with(&[unknown, at(Call::Read(None), 6, 7)]) && with(&[unknown, at(Call::Read(Some(2)), 6, 7)]));
}
