//! One suite for both stores: the embedded store keeps etcd's promises.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::next_events;
use futures::future::join_all;
use skep_store::embedded::EmbeddedStore;
use skep_store::{Event, Expect, Store, StoreError, WatchItem};

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn writes_compare_and_swap(store: &dyn Store) {
    let created = store.put("/cas/a", bytes("1"), Expect::Absent).await.unwrap();
    assert_eq!(created.created, created.modified);
    let again = store.put("/cas/a", bytes("x"), Expect::Absent).await;
    assert!(matches!(again, Err(StoreError::Conflict { actual: Some(ref actual) }) if *actual == created));
    let next = store.put("/cas/a", bytes("2"), Expect::Revision(created.modified)).await.unwrap();
    assert_eq!(next.created, created.created);
    assert!(next.modified > created.modified);
    let stale = store.put("/cas/a", bytes("x"), Expect::Revision(created.modified)).await;
    assert!(matches!(stale, Err(StoreError::Conflict { actual: Some(_) })));
    let stale = store.delete("/cas/a", Expect::Revision(created.modified)).await;
    assert!(matches!(stale, Err(StoreError::Conflict { .. })));
    let (gone, revision) = store.delete("/cas/a", Expect::Revision(next.modified)).await.unwrap();
    assert_eq!((gone.value, revision), (bytes("2"), next.modified + 1));
    assert!(matches!(store.delete("/cas/a", Expect::Any).await, Err(StoreError::NotFound)));
    assert_eq!(store.get("/cas/a", None).await.unwrap().0, None);
}

async fn ranges_page_at_one_revision(store: &dyn Store) {
    for i in 0..10 {
        store.put(&format!("/page/{i}"), bytes("old"), Expect::Any).await.unwrap();
    }
    store.put("/pagf", bytes("not in the prefix"), Expect::Any).await.unwrap();
    let first = store.range("/page/", None, 4, None).await.unwrap();
    assert_eq!((first.entries.len(), first.more), (4, true));
    assert_eq!(store.count("/page/", Some("/page/3"), Some(first.revision)).await.unwrap(), 6);
    store.put("/page/7", bytes("new"), Expect::Any).await.unwrap();
    store.delete("/page/8", Expect::Any).await.unwrap();
    store.put("/page/55", bytes("new"), Expect::Any).await.unwrap();
    let last = first.entries.last().unwrap().key.clone();
    let rest = store.range("/page/", Some(&last), 0, Some(first.revision)).await.unwrap();
    let keys: Vec<&str> = rest.entries.iter().map(|entry| &*entry.key).collect();
    assert_eq!(keys, ["/page/4", "/page/5", "/page/6", "/page/7", "/page/8", "/page/9"]);
    assert!(rest.entries.iter().all(|entry| entry.value == bytes("old")));
    let now = store.range("/page/", None, 0, None).await.unwrap();
    assert_eq!((now.entries.len(), now.more), (10, false));
    let (past, _) = store.get("/page/8", Some(first.revision)).await.unwrap();
    assert_eq!(past.unwrap().value, bytes("old"));
    assert_eq!(store.count("/page/", None, None).await.unwrap(), 10);
    assert_eq!(store.count("/page/", Some("/page/55"), None).await.unwrap(), 3);
    assert_eq!(store.count("/page/", Some("/page/55"), Some(first.revision)).await.unwrap(), 4);
}

async fn watches_start_anywhere_and_miss_nothing(store: &dyn Store) {
    let before = store.revision().await.unwrap();
    let a = store.put("/watch/a", bytes("1"), Expect::Any).await.unwrap();
    let mut watch = store.watch("/watch/", before).await.unwrap();
    store.put("/elsewhere", bytes("1"), Expect::Any).await.unwrap();
    let b = store.put("/watch/a", bytes("2"), Expect::Any).await.unwrap();
    let (_, deleted) = store.delete("/watch/a", Expect::Any).await.unwrap();
    let mut received = Vec::new();
    while received.len() < 3 {
        received.extend(next_events(&mut watch).await);
    }
    let expected = [
        Event::Put { entry: a.clone(), previous: None },
        Event::Put { entry: b.clone(), previous: Some(a) },
        Event::Delete { previous: b, revision: deleted },
    ];
    assert_eq!(received, expected);
}

async fn compacted_history_is_refused(store: &dyn Store) {
    let old = store.put("/compact/a", bytes("1"), Expect::Any).await.unwrap();
    let new = store.put("/compact/a", bytes("2"), Expect::Any).await.unwrap();
    store.put("/compact/a", bytes("3"), Expect::Any).await.unwrap();
    store.compact(new.modified).await.unwrap();
    let (kept, _) = store.get("/compact/a", Some(new.modified)).await.unwrap();
    assert_eq!(kept.unwrap().value, bytes("2"));
    assert!(matches!(store.get("/compact/a", Some(old.modified)).await, Err(StoreError::Compacted { .. })));
    let late = match store.watch("/compact/", old.modified - 1).await {
        Err(error) => error,
        Ok(mut watch) => loop {
            match watch.next().await.expect("an item") {
                Ok(WatchItem::Progress(_)) => {}
                Ok(WatchItem::Events(events)) => panic!("events from compacted history: {events:?}"),
                Err(error) => break error,
            }
        },
    };
    assert!(matches!(late, StoreError::Compacted { oldest } if oldest >= new.modified), "{late}");
}

async fn future_revisions_are_refused(store: &dyn Store) {
    let now = store.put("/future/a", bytes("1"), Expect::Any).await.unwrap().modified;
    let future = |wanted, current| wanted == now + 5 && current == now;
    let read = store.get("/future/a", Some(now + 5)).await;
    assert!(matches!(read, Err(StoreError::FutureRevision { wanted, current }) if future(wanted, current)));
    let page = store.range("/future/", None, 0, Some(now + 5)).await;
    assert!(matches!(page, Err(StoreError::FutureRevision { wanted, current }) if future(wanted, current)));
    let compacted = store.compact(now + 5).await;
    assert!(
        matches!(compacted, Err(StoreError::FutureRevision { wanted, current }) if future(wanted, current))
    );
}

async fn a_refused_write_takes_no_revision(store: &dyn Store) {
    let created = store.put("/refused/a", bytes("1"), Expect::Absent).await.unwrap();
    let _ = store.put("/refused/a", bytes("2"), Expect::Absent).await.unwrap_err();
    let _ = store.delete("/refused/b", Expect::Any).await.unwrap_err();
    assert_eq!(store.revision().await.unwrap(), created.modified);
}

/// A cache waits until its watch reaches the store's revision; writes of other keys must advance the watch too.
async fn a_watch_reaches_the_stores_revision_past_other_keys(store: &dyn Store) {
    let mut watch = store.watch("/mine/", store.revision().await.unwrap()).await.unwrap();
    let mine = store.put("/mine/a", bytes("1"), Expect::Any).await.unwrap();
    assert_eq!(next_events(&mut watch).await, [Event::Put { entry: mine, previous: None }]);
    let other = store.put("/other/a", bytes("1"), Expect::Any).await.unwrap().modified;
    let reached = async {
        loop {
            match watch.next().await.unwrap().unwrap() {
                WatchItem::Progress(at) if at >= other => return,
                WatchItem::Progress(_) => {}
                WatchItem::Events(events) => panic!("events of other keys: {events:?}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reached).await.unwrap();
}

async fn large_ranges_are_complete(store: &dyn Store) {
    let value = Bytes::from(vec![b'x'; 6_000]);
    let puts = (0..1_500).map(|i| {
        let (key, value) = (format!("/large/{i:04}"), value.clone());
        async move { store.put(&key, value, Expect::Any).await.unwrap().modified }
    });
    let last = join_all(puts).await.into_iter().max().unwrap();
    let all = store.range("/large/", None, 0, None).await.unwrap();
    assert_eq!((all.entries.len(), all.more), (1_500, false));
    assert!(all.entries.iter().all(|entry| entry.value == value));
    assert!(all.entries.is_sorted_by(|a, b| a.key < b.key));
    let page = store.range("/large/", Some("/large/0099"), 1_200, Some(last)).await.unwrap();
    assert_eq!((page.entries.len(), page.more), (1_200, true));
    let mut watch = store.watch("/large/", last - 1_500).await.unwrap();
    let mut received = 0;
    while received < 1_500 {
        received += next_events(&mut watch).await.len();
    }
}

async fn concurrent_writers_of_one_key_never_overwrite_each_other(store: &dyn Store) {
    store.put("/count/a", bytes("0"), Expect::Any).await.unwrap();
    let count = |_| async move {
        for _ in 0..10 {
            loop {
                let (entry, _) = store.get("/count/a", None).await.unwrap();
                let entry = entry.unwrap();
                let next = std::str::from_utf8(&entry.value).unwrap().parse::<u64>().unwrap() + 1;
                let expect = Expect::Revision(entry.modified);
                match store.put("/count/a", bytes(&next.to_string()), expect).await {
                    Ok(_) => break,
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    join_all((0..8).map(count)).await;
    let (entry, _) = store.get("/count/a", None).await.unwrap();
    assert_eq!(entry.unwrap().value, bytes("80"));
}

/// A watcher that does not read never blocks writers, and misses nothing once it watches again. Returns how often it was
/// dropped.
async fn a_watcher_that_sleeps_catches_up(store: &dyn Store) -> usize {
    const WRITES: usize = 1_500;
    let start = store.revision().await.unwrap();
    let mut watch = store.watch("/sleep/", start).await.unwrap();
    let mut written = Vec::new();
    for i in 0..WRITES {
        let entry = store.put(&format!("/sleep/{}", i % 10), bytes(&i.to_string()), Expect::Any).await;
        written.push(entry.unwrap().modified);
    }
    let (mut received, mut dropped) = (Vec::new(), 0);
    while received.len() < WRITES {
        match watch.next().await {
            Some(Ok(WatchItem::Events(events))) => received.extend(events.iter().map(Event::revision)),
            Some(Ok(WatchItem::Progress(_))) => {}
            Some(Err(StoreError::Lagged)) => {
                dropped += 1;
                let last = received.last().copied().unwrap_or(start);
                watch = store.watch("/sleep/", last).await.unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(received, written);
    dropped
}

async fn suite(store: &dyn Store) {
    writes_compare_and_swap(store).await;
    ranges_page_at_one_revision(store).await;
    watches_start_anywhere_and_miss_nothing(store).await;
    compacted_history_is_refused(store).await;
    future_revisions_are_refused(store).await;
    a_refused_write_takes_no_revision(store).await;
    a_watch_reaches_the_stores_revision_past_other_keys(store).await;
    large_ranges_are_complete(store).await;
    concurrent_writers_of_one_key_never_overwrite_each_other(store).await;
}

#[tokio::test]
async fn the_embedded_store_keeps_etcds_promises() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&folder.path().join("store.redb")).unwrap();
    suite(&store).await;
    assert!(a_watcher_that_sleeps_catches_up(&store).await > 0, "each write was one item");
}

#[tokio::test]
async fn etcd_keeps_its_promises() {
    let (_etcd, store) = common::etcd().await;
    suite(&store).await;
    // etcd may send many events in one item; then the watcher is not dropped.
    a_watcher_that_sleeps_catches_up(&store).await;
}

#[tokio::test]
async fn an_etcd_that_stopped_is_unavailable_until_it_runs_again() {
    let (mut etcd, store) = common::etcd().await;
    let created = store.put("/away/a", bytes("1"), Expect::Any).await.unwrap();
    let mut watch = store.watch("/away/", created.modified - 1).await.unwrap();
    assert_eq!(next_events(&mut watch).await.len(), 1);
    etcd.stop();
    let ended = loop {
        match watch.next().await.unwrap() {
            Ok(WatchItem::Progress(_)) => {}
            Ok(WatchItem::Events(events)) => panic!("nothing was written: {events:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(ended, StoreError::Unavailable(_)), "{ended}");
    assert!(matches!(store.get("/away/a", None).await, Err(StoreError::Unavailable(_))));
    etcd.run().unwrap();
    common::until_ok(|| store.get("/away/a", None)).await;
    assert_eq!(store.get("/away/a", None).await.unwrap().0, Some(created.clone()));
    let mut watch = store.watch("/away/", created.modified).await.unwrap();
    let next = store.put("/away/a", bytes("2"), Expect::Revision(created.modified)).await.unwrap();
    assert_eq!(next_events(&mut watch).await, [Event::Put { entry: next, previous: Some(created) }]);
}
