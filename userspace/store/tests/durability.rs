//! The embedded store after a kill of its process, with a full disk, and with a damaged file.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use skep_store::embedded::EmbeddedStore;
use skep_store::{Event, Expect, Range, Store, StoreError, WatchItem};

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

const CHILD: &str = "SKEP_STORE_WRITE_UNTIL_KILLED";

/// Runs as a child process: writers create, update and delete until they are killed, and print each acknowledged write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_until_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let store = EmbeddedStore::open(path.as_ref()).unwrap();
    let start = store.revision().await.unwrap();
    let store = &store;
    join_all((0..16u64).map(|writer| async move {
        for round in start.. {
            let key = format!("/kill/{writer}/{}", round % 7);
            let line = if round % 5 == 4 {
                match store.delete(&key, Expect::Any).await {
                    Ok((_, revision)) => format!("{revision} {key}\n"),
                    Err(StoreError::NotFound) => continue,
                    Err(error) => panic!("{error}"),
                }
            } else {
                let entry = store.put(&key, bytes(&round.to_string()), Expect::Any).await.unwrap();
                format!("{} {key} {round}\n", entry.modified)
            };
            // One write call for each line: a kill truncates at most the last line.
            std::io::stdout().write_all(line.as_bytes()).unwrap();
        }
    }))
    .await;
}

fn spawn_writer(path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "write_until_killed", "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills the writer after that many acknowledged writes. Each revision's key, and its value unless it was a deletion.
fn acknowledged(mut child: Child, kill_after: usize) -> HashMap<u64, (String, Option<String>)> {
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut writes = HashMap::new();
    let mut line = String::new();
    while lines.read_line(&mut line).unwrap() > 0 {
        let mut words = line.split_whitespace();
        // Lines of the test harness do not begin with a number; a line that the kill truncated has no end.
        if let Some(revision) = words.next().and_then(|word| word.parse().ok())
            && let Some(key) = words.next()
            && line.ends_with('\n')
        {
            writes.insert(revision, (key.to_owned(), words.next().map(str::to_owned)));
        }
        if writes.len() >= kill_after {
            child.kill().unwrap();
        }
        line.clear();
    }
    child.wait().unwrap();
    assert!(writes.len() >= kill_after, "the writer ended early, after {} writes", writes.len());
    writes
}

/// After how many acknowledged writes each kill comes: some by default, as many kills as `SKEP_KILLS` says.
fn kills() -> Vec<usize> {
    let kills = std::env::var("SKEP_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(24);
    [1, 137, 700, 1_500].into_iter().chain((0..).map(|n| 1 + n * 61 % 300)).take(kills).collect()
}

#[tokio::test]
async fn a_killed_store_has_every_acknowledged_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let (mut next, mut alive) = (1, HashMap::new());
    for kill_after in kills() {
        let known = acknowledged(spawn_writer(&path), kill_after);
        let store = EmbeddedStore::open(&path).unwrap();
        let current = store.revision().await.unwrap();
        assert!(known.keys().all(|revision| *revision <= current));
        let mut watch = store.watch("/kill/", next - 1).await.unwrap();
        while next <= current {
            let Some(Ok(WatchItem::Events(events))) = watch.next().await else { continue };
            for event in events {
                assert_eq!(event.revision(), next, "revisions have no gaps");
                let value = match &event {
                    Event::Put { entry, .. } => Some(String::from_utf8(entry.value.to_vec()).unwrap()),
                    Event::Delete { .. } => None,
                };
                let found = (event.key().to_string(), value);
                if let Some(acknowledged) = known.get(&next) {
                    assert_eq!(&found, acknowledged, "revision {next} is what was acknowledged");
                }
                match found {
                    (key, Some(value)) => drop(alive.insert(key, value)),
                    (key, None) => drop(alive.remove(&key)),
                }
                next += 1;
            }
        }
        let all = store.range("/kill/", None, 0, None).await.unwrap();
        let found: HashMap<String, String> = all
            .entries
            .iter()
            .map(|e| (e.key.to_string(), String::from_utf8(e.value.to_vec()).unwrap()))
            .collect();
        assert_eq!(found, alive, "objects and history agree");
    }
    EmbeddedStore::open(&path).unwrap().verify().await.unwrap();
}

#[tokio::test]
async fn a_closed_store_opens_again_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    for round in 1..10 {
        let store = EmbeddedStore::open(&path).unwrap();
        let second = EmbeddedStore::open(&path);
        assert!(matches!(second, Err(StoreError::Unavailable(_))), "one process at a time");
        let entry = store.put("/a", bytes("1"), Expect::Any).await.unwrap();
        assert_eq!(entry.modified, round);
    }
}

/// As a backup made without the log.
#[tokio::test]
async fn a_copy_of_the_tables_alone_has_every_object_and_no_history() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("store.redb"), folder.path().join("copy.redb"));
    let store = EmbeddedStore::open(&path).unwrap();
    for i in 0..20 {
        store.put(&format!("/a/{}", i % 7), bytes(&format!("value {i}")), Expect::Any).await.unwrap();
    }
    let expected = store.range("/", None, 0, None).await.unwrap();
    drop(store);
    fs::copy(&path, &copy).unwrap();
    let store = EmbeddedStore::open(&copy).unwrap();
    assert_eq!(store.range("/", None, 0, None).await.unwrap(), expected);
    let past = store.get("/a/0", Some(19)).await;
    assert!(matches!(past, Err(StoreError::Compacted { oldest: 20 })), "{past:?}");
    assert!(matches!(store.watch("/", 19).await, Err(StoreError::Compacted { oldest: 20 })));
    store.put("/a/0", bytes("goes on"), Expect::Any).await.unwrap();
    assert_eq!(store.get("/a/0", Some(20)).await.unwrap().0.as_ref(), expected.entries.first());
    store.verify().await.unwrap();
}

/// A file system so small that it fills up; unmounted on drop.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> SmallDisk {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .status()
            .unwrap();
        assert!(mounted.success(), "mounting a tmpfs failed (needs root)");
        SmallDisk(folder)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

async fn fill(store: &EmbeddedStore) -> (Vec<u64>, StoreError) {
    let mut written = Vec::new();
    let value = Bytes::from(vec![7; 20_000]);
    for i in 0..10_000 {
        match store.put(&format!("/fill/{i}"), value.clone(), Expect::Any).await {
            Ok(entry) => written.push(entry.modified),
            Err(error) => return (written, error),
        }
    }
    panic!("the disk never filled up");
}

async fn all(store: &EmbeddedStore) -> Range {
    store.range("/fill/", None, 0, None).await.unwrap()
}

#[tokio::test]
async fn a_full_disk_refuses_writes_serves_reads_and_recovers() {
    let disk = SmallDisk::mount("24m");
    fs::write(disk.path("ballast"), vec![1; 8 << 20]).unwrap();
    let store = EmbeddedStore::open(&disk.path("store.redb")).unwrap();
    let mut watch = store.watch("/late/", 0).await.unwrap();
    let (written, error) = fill(&store).await;
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    for _ in 0..5 {
        let refused = store.put("/fill/more", Bytes::from(vec![7; 200_000]), Expect::Any).await;
        assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
        assert_eq!(all(&store).await.entries.len(), written.len());
        assert_eq!(store.revision().await.unwrap(), written.len() as u64);
        let (past, _) = store.get("/fill/1", Some(1)).await.unwrap();
        assert_eq!(past, None);
    }
    fs::remove_file(disk.path("ballast")).unwrap();
    let next = store.put("/late/a", bytes("there is room"), Expect::Absent).await.unwrap();
    assert_eq!(next.modified, written.len() as u64 + 1, "no write was half done");
    let received = async {
        loop {
            if let WatchItem::Events(events) = watch.next().await.unwrap().unwrap() {
                return events;
            }
        }
    };
    let events = tokio::time::timeout(Duration::from_secs(10), received).await.unwrap();
    assert_eq!(events, [Event::Put { entry: next, previous: None }]);
    store.verify().await.unwrap();
}

#[tokio::test]
async fn a_store_on_a_full_disk_opens_for_reading() {
    let disk = SmallDisk::mount("8m");
    let path = disk.path("store.redb");
    let (written, _) = fill(&EmbeddedStore::open(&path).unwrap()).await;
    let mut ballast = File::create(disk.path("ballast")).unwrap();
    while ballast.write_all(&[1; 4096]).is_ok() {}
    let store = EmbeddedStore::open(&path).unwrap();
    assert_eq!(all(&store).await.entries.len(), written.len());
}

/// The offsets of `marker` in the file.
fn offsets(path: &Path, marker: &[u8]) -> Vec<u64> {
    let file = fs::read(path).unwrap();
    (0..file.len().saturating_sub(marker.len()))
        .filter(|at| file[*at..].starts_with(marker))
        .map(|at| at as u64)
        .collect()
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[tokio::test]
async fn a_file_altered_while_closed_is_an_error_and_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = EmbeddedStore::open(&path).unwrap();
    for i in 0..50 {
        store.put(&format!("/a/{i}"), bytes(&format!("value-{i}-end")), Expect::Any).await.unwrap();
    }
    drop(store);
    let found = offsets(&path, b"value-31-end");
    assert!(!found.is_empty());
    found.iter().for_each(|at| flip(&path, *at));
    let altered = fs::read(&path).unwrap();
    let opened = EmbeddedStore::open(&path);
    assert!(matches!(opened, Err(StoreError::Corrupt(_))), "{:?}", opened.err());
    drop(opened);
    assert_eq!(offsets(&path, b"value-31-end").len(), 0, "nothing was repaired");
    assert_eq!(fs::read(&path).unwrap().len(), altered.len());
}

/// For every flipped byte the store reports damage, or every record is unchanged.
#[tokio::test]
async fn no_flipped_byte_changes_a_record_silently() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good.redb"), folder.path().join("bad.redb"));
    let store = EmbeddedStore::open(&good).unwrap();
    for i in 0..200 {
        store.put(&format!("/a/{}", i % 150), bytes(&format!("value {i}")), Expect::Any).await.unwrap();
    }
    let expected = store.range("/", None, 0, None).await.unwrap();
    drop(store);
    let length = fs::metadata(&good).unwrap().len();
    let mut reported = 0;
    // A step that is coprime to the page size hits headers, branches, leaves and free pages.
    for at in (0..length).step_by((length as usize / 150) | 1) {
        fs::copy(&good, &bad).unwrap();
        flip(&bad, at);
        match EmbeddedStore::open(&bad) {
            Err(StoreError::Corrupt(_) | StoreError::Unavailable(_)) => reported += 1,
            Err(error) => panic!("byte {at}: {error}"),
            Ok(store) => {
                let found = store.range("/", None, 0, None).await.unwrap();
                assert_eq!(found, expected, "byte {at}");
                store.verify().await.unwrap();
            }
        }
    }
    assert!(reported > 0);
}

#[tokio::test]
async fn a_record_damaged_in_an_open_store_fails_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = EmbeddedStore::open(&path).unwrap();
    // More than the page cache, so that the first record is read from the file again.
    let filler = Bytes::from(vec![b'x'; 64 << 10]);
    store.put("/a/hit", Bytes::from([b"find me".as_slice(), &filler].concat()), Expect::Any).await.unwrap();
    join_all((0..600).map(|i| {
        let (store, filler) = (&store, filler.clone());
        async move { store.put(&format!("/b/{i}"), filler, Expect::Any).await.unwrap() }
    }))
    .await;
    // Wait for a checkpoint that has it.
    let mut found = offsets(&path, b"find me");
    while found.is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        found = offsets(&path, b"find me");
    }
    store.put("/b/0", bytes("after the checkpoint"), Expect::Any).await.unwrap();
    found.iter().for_each(|at| flip(&path, *at));
    assert_eq!(store.range("/b/", None, 0, None).await.unwrap().entries.len(), 600);
    let read = store.get("/a/hit", None).await.map(|_| "read");
    assert!(matches!(read, Err(StoreError::Corrupt(ref why)) if why.contains("/a/hit")), "{read:?}");
    let over = store.put("/a/hit", bytes("new"), Expect::Any).await.map(|_| "written");
    assert!(matches!(over, Err(StoreError::Corrupt(_))), "{over:?}");
    assert!(matches!(store.verify().await, Err(StoreError::Corrupt(_))));
    store.put("/b/1", bytes("others can still be written"), Expect::Any).await.unwrap();
}
