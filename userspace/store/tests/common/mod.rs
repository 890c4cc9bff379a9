//! Shared by the tests of the stores: a store on a real etcd, and the events of a watch.

use std::future::Future;
use std::time::{Duration, Instant};

use skep_store::etcd::{EtcdOptions, EtcdStore};
use skep_store::{Event, StoreError, Watch, WatchItem};
use skep_test_servers::Etcd;

/// A store on an etcd of its own.
pub(crate) async fn etcd() -> (Etcd, EtcdStore) {
    let etcd = Etcd::start().unwrap();
    let endpoints = [etcd.url()];
    let store = until_ok(|| EtcdStore::connect(&endpoints, EtcdOptions::default())).await;
    (etcd, store)
}

/// Repeats a call until etcd answers. There is no other signal that it is ready.
pub(crate) async fn until_ok<T, F: Future<Output = Result<T, StoreError>>>(ask: impl Fn() -> F) -> T {
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(30), "etcd does not answer: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The next events; skips progress.
pub(crate) async fn next_events(watch: &mut Watch) -> Vec<Event> {
    loop {
        let item = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("in time");
        match item.expect("the watch goes on").expect("no error") {
            WatchItem::Events(events) => return events,
            WatchItem::Progress(_) => {}
        }
    }
}
