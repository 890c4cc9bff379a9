//! The embedded store when the power goes at any moment.

#[path = "common/power.rs"]
mod power;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use skep_store::embedded::EmbeddedStore;
use skep_store::{Entry, Event, Expect, Result, Revision, Store, StoreError, WatchItem};

use power::UnreliableDisk;

const PATH: &str = "/disk/store.redb";
const WRITERS: u64 = 6;
/// A checkpoint each few dozen writes, so that the power also goes during checkpoints.
const CHECKPOINT_BYTES: usize = 30_000;

fn open(disk: &UnreliableDisk) -> Result<EmbeddedStore> {
    EmbeddedStore::open_on(Arc::new(disk.clone()), Path::new(PATH), CHECKPOINT_BYTES)
}

/// An acknowledged write: its key, and its value unless it was a deletion.
type Write = (String, Option<Bytes>);

/// Creates, updates and deletes until the power goes; the acknowledged writes.
async fn write_until_dark(store: &EmbeddedStore, writer: u64, round: u64) -> BTreeMap<Revision, Write> {
    let mut writes = BTreeMap::new();
    for n in 0.. {
        let key = format!("/{writer}/{}", n % 7);
        let value = Bytes::from(format!("{round} {n} ").repeat(1 + (n % 40) as usize));
        let done = if n % 5 == 4 {
            store.delete(&key, Expect::Any).await.map(|(_, revision)| (revision, None))
        } else {
            store.put(&key, value.clone(), Expect::Any).await.map(|put| (put.modified, Some(value)))
        };
        match done {
            Ok((revision, value)) => drop(writes.insert(revision, (key, value))),
            Err(StoreError::NotFound) => {}
            Err(StoreError::Unavailable(_) | StoreError::Closed) => return writes,
            Err(error) => panic!("{error}"),
        }
    }
    writes
}

async fn entries(store: &EmbeddedStore) -> Vec<Entry> {
    store.range("/", None, 0, None).await.unwrap().entries
}

/// The events after a revision, up to the present.
async fn events_after(store: &EmbeddedStore, after: Revision) -> Vec<Event> {
    let (mut watch, mut events) = (store.watch("/", after).await.unwrap(), Vec::new());
    while after + (events.len() as Revision) < store.revision().await.unwrap() {
        if let WatchItem::Events(some) = watch.next().await.unwrap().unwrap() {
            events.extend(some);
        }
    }
    events
}

/// Every acknowledged write is there, history has no gap, and the entries are what history makes of the old ones.
async fn check(
    store: &EmbeddedStore,
    before: (Vec<Entry>, Revision),
    writes: &BTreeMap<Revision, Write>,
    what: &str,
) {
    let events = events_after(store, before.1).await;
    let mut state: BTreeMap<Arc<str>, Entry> =
        before.0.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    for (revision, event) in (before.1 + 1..).zip(&events) {
        assert_eq!(event.revision(), revision, "{what}: revisions have no gaps");
        let value = match event {
            Event::Put { entry, .. } => {
                state.insert(entry.key.clone(), entry.clone());
                Some(entry.value.clone())
            }
            Event::Delete { previous, .. } => {
                state.remove(&previous.key);
                None
            }
        };
        if let Some(acknowledged) = writes.get(&revision) {
            assert_eq!(&(event.key().to_string(), value), acknowledged, "{what}: revision {revision}");
        }
    }
    if let Some((last, _)) = writes.last_key_value() {
        assert!(*last <= before.1 + events.len() as Revision, "{what}: revision {last} is lost");
    }
    assert_eq!(entries(store).await, state.into_values().collect::<Vec<_>>(), "{what}");
    store.verify().await.unwrap();
}

/// The number of repetitions: a few by default, many with `SKEP_POWER_CUTS`.
fn repetitions() -> u64 {
    std::env::var("SKEP_POWER_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(120)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_power_cut_loses_an_acknowledged_write_or_refuses_the_next_start() {
    let mut acknowledged = 0;
    let mut disk = UnreliableDisk::new(1);
    let mut random = 7u64;
    for round in 0..repetitions() {
        if round % 25 == 0 {
            // A new store: the first start is cut as well.
            disk = UnreliableDisk::new(round + 1);
        }
        let store = open(&disk).unwrap_or_else(|error| panic!("round {round}: {error}"));
        let before = (entries(&store).await, store.revision().await.unwrap());
        drop(store);
        // Also during the start, the shut-down of which the last line was one.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        disk.cut_power_after((random >> 33) % 400);
        let writes = match open(&disk) {
            Ok(store) => {
                let writers = (0..WRITERS).map(|writer| write_until_dark(&store, writer, round));
                join_all(writers).await.into_iter().flatten().collect()
            }
            Err(StoreError::Unavailable(_)) => BTreeMap::new(),
            Err(error) => panic!("round {round}: {error}"),
        };
        acknowledged += writes.len();
        disk.restart();
        let store = open(&disk).unwrap_or_else(|error| panic!("round {round}: {error}"));
        check(&store, before, &writes, &format!("round {round}")).await;
    }
    assert!(acknowledged as u64 > repetitions() * 10, "{acknowledged} writes were acknowledged");
}
