//! One suite, both stores: what etcd promises, the embedded store promises too.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use skep_store::embedded::EmbeddedStore;
use skep_store::etcd::EtcdStore;
use skep_store::{Event, Expect, Store, StoreError, Watch, WatchItem};

/// An etcd of this test's own, ended on drop.
struct Etcd {
    child: Child,
    url: String,
    _data: tempfile::TempDir,
}

impl Etcd {
    async fn start() -> (Etcd, EtcdStore) {
        let data = tempfile::tempdir().unwrap();
        let (client, peer) = (free_port(), free_port());
        let url = format!("http://127.0.0.1:{client}");
        let peer = format!("http://127.0.0.1:{peer}");
        let child = Command::new("etcd")
            .args(["--data-dir", data.path().to_str().unwrap(), "--listen-client-urls", &url])
            .args(["--advertise-client-urls", &url, "--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("default={peer}")])
            .args(["--experimental-watch-progress-notify-interval", "1s"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd (package etcd-server)");
        let etcd = Etcd { child, url, _data: data };
        let start = Instant::now();
        loop {
            match EtcdStore::connect(std::slice::from_ref(&etcd.url), None).await {
                Ok(store) => return (etcd, store),
                Err(error) => {
                    assert!(start.elapsed() < Duration::from_secs(20), "etcd did not start: {error}")
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// The next events, progress passed over.
async fn events(watch: &mut Watch) -> Vec<Event> {
    loop {
        let item =
            tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("an event in time");
        match item.expect("the watch goes on").expect("no error") {
            WatchItem::Events(events) => return events,
            WatchItem::Progress(_) => {}
        }
    }
}

async fn writes_compare_and_swap(store: &dyn Store) {
    let made = store.put("/cas/a", bytes("1"), Expect::Absent).await.unwrap();
    assert_eq!(made.created, made.modified);
    let again = store.put("/cas/a", bytes("x"), Expect::Absent).await;
    assert!(matches!(again, Err(StoreError::Conflict { actual: Some(ref actual) }) if *actual == made));
    let next = store.put("/cas/a", bytes("2"), Expect::Revision(made.modified)).await.unwrap();
    assert_eq!(next.created, made.created);
    assert!(next.modified > made.modified);
    let stale = store.put("/cas/a", bytes("x"), Expect::Revision(made.modified)).await;
    assert!(matches!(stale, Err(StoreError::Conflict { actual: Some(_) })));
    let stale = store.delete("/cas/a", Expect::Revision(made.modified)).await;
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
    assert_eq!((first.entries.len(), first.more, first.remaining), (4, true, 6));
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
}

async fn watches_start_anywhere_and_miss_nothing(store: &dyn Store) {
    let before = store.revision().await.unwrap();
    let a = store.put("/watch/a", bytes("1"), Expect::Any).await.unwrap();
    let mut watch = store.watch("/watch/", before).await.unwrap();
    store.put("/elsewhere", bytes("1"), Expect::Any).await.unwrap();
    let b = store.put("/watch/a", bytes("2"), Expect::Any).await.unwrap();
    let (_, deleted) = store.delete("/watch/a", Expect::Any).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(events(&mut watch).await);
    }
    let expected = [
        Event::Put { entry: a.clone(), previous: None },
        Event::Put { entry: b.clone(), previous: Some(a) },
        Event::Delete { previous: b, revision: deleted },
    ];
    assert_eq!(seen, expected);
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
    assert!(matches!(late, StoreError::Compacted { .. }), "{late}");
}

async fn suite(store: &dyn Store) {
    writes_compare_and_swap(store).await;
    ranges_page_at_one_revision(store).await;
    watches_start_anywhere_and_miss_nothing(store).await;
    compacted_history_is_refused(store).await;
}

#[tokio::test]
async fn the_embedded_store_keeps_etcds_promises() {
    let folder = tempfile::tempdir().unwrap();
    suite(&EmbeddedStore::open(&folder.path().join("store.redb")).unwrap()).await;
}

#[tokio::test]
async fn etcd_keeps_them_too() {
    let (_etcd, store) = Etcd::start().await;
    suite(&store).await;
}

/// Run as a child: writes for ever, and prints every acknowledged revision.
#[tokio::test]
async fn write_until_killed() {
    let Some(path) = std::env::var_os("SKEP_STORE_WRITE_UNTIL_KILLED") else { return };
    let store = EmbeddedStore::open(path.as_ref()).unwrap();
    let start = store.revision().await.unwrap();
    for i in start.. {
        let entry = store.put(&format!("/kill/{i}"), bytes(&i.to_string()), Expect::Absent).await.unwrap();
        println!("acknowledged {}", entry.modified);
    }
}

#[tokio::test]
async fn a_killed_store_has_every_acknowledged_write() {
    use std::io::{BufRead, BufReader};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    for round in 1..4u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "write_until_killed", "--nocapture"])
            .env("SKEP_STORE_WRITE_UNTIL_KILLED", &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut acknowledged = 0;
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        for line in lines {
            let Some((_, revision)) = line.split_once("acknowledged ") else { continue };
            // The kill may cut the last line short, never make a number greater.
            acknowledged = acknowledged.max(revision.parse().unwrap_or(0));
            if acknowledged >= round * 150 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(acknowledged >= round * 150);
        let store = EmbeddedStore::open(&path).unwrap();
        let current = store.revision().await.unwrap();
        assert!(current >= acknowledged, "acknowledged {acknowledged}, found {current}");
        let all = store.range("/kill/", None, 0, None).await.unwrap();
        let mut revisions: Vec<u64> = all.entries.iter().map(|entry| entry.modified).collect();
        revisions.sort_unstable();
        assert_eq!(revisions, (1..=current).collect::<Vec<_>>());
    }
}
