//! Backups of both stores under load, restored into new ones.

mod common;

use std::collections::HashMap;
use std::io::Cursor;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::future::join_all;
use skep_store::backup::{self, AtRevision, BackupError, Decoder, File, Pages, Summary};
use skep_store::embedded::EmbeddedStore;
use skep_store::{Event, Expect, Revision, Store, StoreError};

fn key_file() -> File {
    File { name: "pki/ca.key".to_owned(), bytes: vec![7; 1_000] }
}

async fn archive(pages: &dyn Pages) -> (Vec<u8>, Summary) {
    let mut out = Vec::new();
    let summary = backup::write(pages, 1_700_000_000, &[key_file()], &mut out).await.unwrap();
    assert_eq!(backup::verify(Cursor::new(&out)).unwrap(), summary);
    (out, summary)
}

/// Each acknowledged write: its revision, key, and value unless it was a deletion.
type Writes = Vec<(Revision, String, Option<String>)>;

/// Creates, updates and deletes until `stop`.
async fn write_until(store: &dyn Store, writer: u64, stop: &AtomicBool) -> Writes {
    let mut writes = Vec::new();
    for round in 0.. {
        let key = format!("/registry/{writer}/{}", round % 40);
        if round % 5 == 4 {
            match store.delete(&key, Expect::Any).await {
                Ok((_, revision)) => writes.push((revision, key, None)),
                Err(StoreError::NotFound) => {}
                Err(error) => panic!("{error}"),
            }
        } else {
            let value = format!("{round} {}", "x".repeat(300));
            let put = store.put(&key, Bytes::from(value.clone()), Expect::Any).await.unwrap();
            writes.push((put.modified, key, Some(value)));
        }
        if stop.load(Ordering::Relaxed) {
            return writes;
        }
    }
    writes
}

/// The state after the writes up to a revision.
fn state(writes: &[Writes], until: Revision) -> HashMap<String, (Revision, String)> {
    let mut all: Writes = writes.concat();
    all.retain(|(revision, ..)| *revision <= until);
    all.sort();
    let mut state = HashMap::new();
    for (revision, key, value) in all {
        match value {
            Some(value) => drop(state.insert(key, (revision, value))),
            None => drop(state.remove(&key)),
        }
    }
    state
}

async fn found(store: &dyn Store) -> HashMap<String, (Revision, String)> {
    let entries = store.range("/registry/", None, 0, None).await.unwrap().entries;
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    entries.iter().map(|entry| (entry.key.to_string(), (entry.modified, text(&entry.value)))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_has_every_write_acknowledged_up_to_its_revision() {
    let folder = tempfile::tempdir().unwrap();
    // Small checkpoints: several happen during the backup.
    let store = EmbeddedStore::open_with(&folder.path().join("store.redb"), 100_000).unwrap();
    let stop = AtomicBool::new(false);
    let backups = async {
        let mut archives = Vec::new();
        for _ in 0..5 {
            archives.push(archive(&store.pin().unwrap()).await);
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        stop.store(true, Ordering::Relaxed);
        archives
    };
    let writers = join_all((0..8).map(|writer| write_until(&store, writer, &stop)));
    let (archives, writes) = futures::join!(backups, writers);
    for (n, (archive, summary)) in archives.iter().enumerate() {
        let path = folder.path().join(format!("restored-{n}.redb"));
        let bump = 1_000_000;
        let backup = Decoder::new(Cursor::new(archive)).unwrap();
        let fill = backup::restore_embedded(backup, &path, bump).unwrap();
        assert_eq!((fill.entries, fill.revision), (summary.entries, summary.manifest.revision + bump));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let restored = EmbeddedStore::open(&path).unwrap();
        assert_eq!(found(&restored).await, state(&writes, summary.manifest.revision));
        // Watchers of the old store start again, and new revisions follow all old ones.
        let old = restored.watch("/", summary.manifest.revision).await;
        assert!(matches!(old, Err(StoreError::Compacted { oldest }) if oldest == fill.revision));
        let mut watch = restored.watch("/", fill.revision).await.unwrap();
        let put = restored.put("/registry/new", Bytes::from_static(b"1"), Expect::Absent).await.unwrap();
        let event = Event::Put { entry: put.clone(), previous: None };
        assert_eq!(common::next_events(&mut watch).await, [event]);
        assert_eq!(put.modified, fill.revision + 1);
        drop(restored);
        let restored = EmbeddedStore::open(&path).unwrap();
        assert_eq!(restored.get("/registry/new", None).await.unwrap().0, Some(put.clone()));
        restored.verify().await.unwrap();
    }
}

#[tokio::test]
async fn an_altered_or_cut_backup_is_refused_before_anything_is_restored() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&folder.path().join("store.redb")).unwrap();
    for n in 0..20 {
        store.put(&format!("/registry/{n}"), Bytes::from(format!("value {n}")), Expect::Any).await.unwrap();
    }
    let (whole, _) = archive(&store.pin().unwrap()).await;
    let refused = |bytes: &[u8]| backup::verify(Cursor::new(bytes)).unwrap_err();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        refused(&flipped);
        refused(&whole[..at]);
    }
    refused(&[&whole[..], b"x"].concat());
    // A part that was left out.
    let parts: Vec<usize> = (0..whole.len() - 9).filter(|at| &whole[*at..*at + 9] == b"/registry").collect();
    let without = [&whole[..parts[3] - 25], &whole[parts[4] - 25..]].concat();
    assert!(matches!(refused(&without), BackupError::WrongDigest), "{}", refused(&without));
}

#[tokio::test]
async fn a_backup_moves_between_the_stores() {
    let (_etcd, etcd) = common::etcd().await;
    let stop = AtomicBool::new(false);
    let backup = async {
        for _ in 0..20 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let made = archive(&AtRevision::now(&etcd).await.unwrap()).await;
        stop.store(true, Ordering::Relaxed);
        made
    };
    let writers = join_all((0..4).map(|writer| write_until(&etcd, writer, &stop)));
    let ((made, summary), writes) = futures::join!(backup, writers);
    let expected = state(&writes, summary.manifest.revision);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    backup::restore_embedded(Decoder::new(Cursor::new(&made)).unwrap(), &path, 1_000).unwrap();
    let embedded = Arc::new(EmbeddedStore::open(&path).unwrap());
    assert_eq!(found(&*embedded).await, expected);

    let (made, summary) = archive(&embedded.pin().unwrap()).await;
    let used = backup::restore_etcd(Decoder::new(Cursor::new(&made)).unwrap(), &etcd, 0).await;
    assert!(matches!(used, Err(BackupError::Store(StoreError::Unavailable(_)))), "etcd is not empty");
    let (_new, new) = common::etcd().await;
    let bump = 700;
    let fill = backup::restore_etcd(Decoder::new(Cursor::new(&made)).unwrap(), &new, bump).await.unwrap();
    assert!(fill.revision >= summary.manifest.revision + bump);
    let values = |all: HashMap<String, (Revision, String)>| -> HashMap<String, String> {
        all.into_iter().map(|(key, (_, value))| (key, value)).collect()
    };
    assert_eq!(values(found(&new).await), values(expected));
}
