//! Sealed values: plain for callers, unreadable on disk, and resealed when a key is rotated.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use skep_store::embedded::EmbeddedStore;
use skep_store::sealed::{Keyring, Resealed, SealedStore, holds_sealed};
use skep_store::{Entry, Event, Expect, Store, StoreError, WatchItem};

const PREFIX: &str = "/secrets/";
const PLAIN: &[u8] = b"correct horse battery staple";

async fn open(path: &Path, keys: &str) -> (Arc<EmbeddedStore>, SealedStore) {
    let store = Arc::new(EmbeddedStore::open(path).unwrap());
    let keyring = Keyring::parse(keys).unwrap();
    (store.clone(), SealedStore::new(store, PREFIX, keyring))
}

fn plain() -> Bytes {
    Bytes::from_static(PLAIN)
}

/// Whether any file in the store's folder has the plain value; the log is one of them.
fn is_on_disk(path: &Path) -> bool {
    let files = std::fs::read_dir(path.parent().unwrap()).unwrap();
    let mut files = files.map(|file| std::fs::read(file.unwrap().path()).unwrap());
    files.any(|bytes| bytes.windows(PLAIN.len()).any(|window| window == PLAIN))
}

#[tokio::test]
async fn every_read_returns_the_plain_value_and_the_disk_never_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let (raw, store) = open(&path, &Keyring::new_line().unwrap()).await;
    let mut watch = store.watch("/", 0).await.unwrap();
    let put = store.put("/secrets/a", plain(), Expect::Absent).await.unwrap();
    assert_eq!(put.value, plain());
    assert_eq!(store.get("/secrets/a", None).await.unwrap().0.unwrap(), put);
    assert_eq!(store.range("/", None, 0, None).await.unwrap().entries, std::slice::from_ref(&put));
    let refused = store.put("/secrets/a", plain(), Expect::Absent).await;
    assert!(matches!(refused, Err(StoreError::Conflict { actual: Some(actual) }) if actual == put));
    let again = store.put("/secrets/a", plain(), Expect::Revision(put.modified)).await.unwrap();
    let (deleted, _) = store.delete("/secrets/a", Expect::Any).await.unwrap();
    assert_eq!(deleted, again);
    let mut events = Vec::new();
    while events.len() < 3 {
        if let WatchItem::Events(some) = watch.next().await.unwrap().unwrap() {
            events.extend(some);
        }
    }
    assert_eq!(events[0], Event::Put { entry: put.clone(), previous: None });
    assert_eq!(events[1], Event::Put { entry: again.clone(), previous: Some(put) });
    assert!(matches!(&events[2], Event::Delete { previous, .. } if *previous == again));
    store.put("/other", plain(), Expect::Any).await.unwrap();
    assert_eq!(raw.get("/other", None).await.unwrap().0.unwrap().value, plain());
    store.delete("/other", Expect::Any).await.unwrap();
    drop((watch, store, raw));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let (raw, store) = open(&path, &Keyring::new_line().unwrap()).await;
    store.put("/secrets/a", plain(), Expect::Absent).await.unwrap();
    assert!(!is_on_disk(&path), "the plain value is in the file");
    raw.put("/plain", plain(), Expect::Any).await.unwrap();
    assert!(is_on_disk(&path), "this test finds plain values");
}

#[tokio::test]
async fn after_resealing_with_a_new_key_the_old_one_is_not_needed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let (old, new) = (Keyring::new_line().unwrap(), Keyring::new_line().unwrap());
    let (raw, store) = open(&path, &old).await;
    // A value from before there were keys.
    raw.put("/secrets/early", plain(), Expect::Absent).await.unwrap();
    assert!(!holds_sealed(&*raw, PREFIX).await.unwrap());
    assert_eq!(store.get("/secrets/early", None).await.unwrap().0.unwrap().value, plain());
    for name in ["a", "b"] {
        store.put(&format!("/secrets/{name}"), plain(), Expect::Absent).await.unwrap();
    }
    assert!(holds_sealed(&*raw, PREFIX).await.unwrap());
    drop((raw, store));
    let (raw, store) = open(&path, &new).await;
    let left = Resealed { written: 1, unreadable: 2 };
    assert_eq!(store.reseal().await.unwrap(), left, "values without their key are kept");
    drop((raw, store));
    let (raw, store) = open(&path, &format!("{new}{old}")).await;
    assert_eq!(store.reseal().await.unwrap(), Resealed { written: 2, unreadable: 0 });
    assert_eq!(store.reseal().await.unwrap(), Resealed::default());
    drop((raw, store));
    let (_raw, store) = open(&path, &new).await;
    let all = store.range(PREFIX, None, 0, None).await.unwrap();
    assert!(all.entries.len() == 3 && all.entries.iter().all(|entry| entry.value == plain()));
}

fn unreadable(entry: &Entry) -> &str {
    entry.unreadable().expect("an unreadable entry")
}

/// One value has a key that this server lacks, one was altered; lists and watches of all others go on.
#[tokio::test]
async fn a_value_that_does_not_open_ends_no_list_and_no_watch_and_can_be_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let (old, new) = (Keyring::new_line().unwrap(), Keyring::new_line().unwrap());
    let (raw, store) = open(&path, &old).await;
    for name in ["lost", "overwritten"] {
        store.put(&format!("/secrets/{name}"), plain(), Expect::Absent).await.unwrap();
    }
    drop((raw, store));
    let (raw, store) = open(&path, &new).await;
    store.put("/secrets/altered", plain(), Expect::Absent).await.unwrap();
    let mut altered = raw.get("/secrets/altered", None).await.unwrap().0.unwrap().value.to_vec();
    *altered.last_mut().unwrap() ^= 1;
    raw.put("/secrets/altered", altered.into(), Expect::Any).await.unwrap();
    store.put("/secrets/sound", plain(), Expect::Absent).await.unwrap();

    let all = store.range(PREFIX, None, 0, None).await.unwrap().entries;
    assert_eq!(all.len(), 4);
    assert!(unreadable(&all[0]).contains("altered"), "{:?}", all[0]);
    let id = old.split(' ').next().unwrap();
    assert!(unreadable(&all[1]).contains(id), "{:?}", all[1]);
    assert!(all[3].value == plain() && all[3].unreadable().is_none());
    let lost = store.get("/secrets/lost", None).await.unwrap().0.unwrap();
    assert_eq!(lost, all[1]);

    let mut watch = store.watch(PREFIX, 0).await.unwrap();
    let refused = store.put("/secrets/lost", plain(), Expect::Absent).await;
    assert!(matches!(refused, Err(StoreError::Conflict { actual: Some(actual) }) if actual == lost));
    let (deleted, _) = store.delete("/secrets/lost", Expect::Revision(lost.modified)).await.unwrap();
    assert_eq!(deleted, lost);
    store.put("/secrets/overwritten", plain(), Expect::Any).await.unwrap();
    let mut events = Vec::new();
    while events.len() < 7 {
        if let WatchItem::Events(some) = watch.next().await.unwrap().unwrap() {
            events.extend(some);
        }
    }
    assert!(matches!(&events[5], Event::Delete { previous, .. } if *previous == lost));
    let Event::Put { entry, previous: Some(previous) } = &events[6] else { panic!("{:?}", events[6]) };
    assert!(entry.value == plain() && previous.unreadable().is_some());
}
