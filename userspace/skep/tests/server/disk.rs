//! A disk that fills up under a running server, and a damaged store: the errors, and what keeps working.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Error, ResourceExt as _};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Server, refusal, store_files};

const TIMEOUT: Duration = Duration::from_secs(60);

/// A file system of its own, so small that it fills up; unmounted on drop.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(size: &str) -> SmallDisk {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path()).status();
        assert!(mount.unwrap().success(), "mount a tmpfs (needs root)");
        SmallDisk(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

fn large(name: &str) -> ConfigMap {
    let data = json!({"value": "x".repeat(100_000)});
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"of": "test"}}, "data": data}))
        .unwrap()
}

fn names(objects: &[ConfigMap]) -> Vec<String> {
    let mut names: Vec<String> = objects.iter().map(ConfigMap::name_any).collect();
    names.sort();
    names
}

async fn stored(objects: &Api<ConfigMap>) -> Vec<String> {
    names(&objects.list(&ListParams::default().labels("of=test")).await.unwrap().items)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_only_writes_and_recovers() {
    let disk = SmallDisk::mount("48m");
    let (ballast, data) = (disk.0.path().join("ballast"), disk.0.path().join("data"));
    fs::write(&ballast, vec![1; 16 << 20]).unwrap();
    let server = Server::start(&data, &[]).await;
    let objects: Api<ConfigMap> = Api::default_namespaced(server.client().await);
    let start = objects.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let params = WatchParams::default().labels("of=test").timeout(290);
    let mut watch = objects.watch(&params, &start).await.unwrap().boxed();
    let mut acknowledged = Vec::new();
    let refused = loop {
        let name = format!("c{:04}", acknowledged.len());
        match objects.create(&PostParams::default(), &large(&name)).await {
            Ok(_) => acknowledged.push(name),
            Err(Error::Api(status)) => break status,
            Err(error) => panic!("no answer of the API: {error}"),
        }
        assert!(acknowledged.len() < 10_000, "the disk never filled up");
    };
    assert_eq!(refused.code, 507, "{refused:?}");
    assert!(refused.message.contains("disk is full; free some space"), "{refused:?}");
    // Reads and watches keep working: they have exactly the acknowledged objects.
    assert_eq!(stored(&objects).await, acknowledged);
    assert_eq!(objects.get(&acknowledged[0]).await.unwrap().data.unwrap()["value"].len(), 100_000);
    assert_eq!(added(&mut watch, acknowledged.len()).await, acknowledged);
    fs::remove_file(&ballast).unwrap();
    let limit = Instant::now() + TIMEOUT;
    let last = large("there-is-room");
    while let Err(error) = objects.create(&PostParams::default(), &last).await {
        assert!(Instant::now() < limit, "the store did not recover: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(added(&mut watch, 1).await, ["there-is-room"]);
    acknowledged.push("there-is-room".to_owned());
    drop(watch);
    server.kill();
    let server = Server::start(&data, &[]).await;
    assert_eq!(stored(&Api::default_namespaced(server.client().await)).await, acknowledged);
}

/// The names of the next `count` added objects.
async fn added(
    watch: &mut (impl futures::Stream<Item = kube::Result<WatchEvent<ConfigMap>>> + Unpin),
    count: usize,
) -> Vec<String> {
    let mut names = Vec::new();
    while names.len() < count {
        match tokio::time::timeout(TIMEOUT, watch.try_next()).await.expect("an event").unwrap() {
            Some(WatchEvent::Added(object)) => names.push(object.name_any()),
            Some(WatchEvent::Bookmark(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    names
}

/// Changes every occurrence of a text in the store's files; returns their new contents.
fn alter(folder: &Path, text: &str) -> Vec<Vec<u8>> {
    let mut altered = 0;
    let mut alter_file = |path: &Path| {
        let mut file = fs::read(path).unwrap();
        let offsets: Vec<usize> =
            (0..file.len()).filter(|at| file[*at..].starts_with(text.as_bytes())).collect();
        altered += offsets.len();
        offsets.into_iter().for_each(|at| file[at] ^= 0x10);
        fs::write(path, &file).unwrap();
        file
    };
    let files = store_files(folder).iter().map(|path| alter_file(path)).collect();
    assert!(altered > 0);
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_reported_with_a_remedy_and_left_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]).await;
    let objects: Api<ConfigMap> = Api::default_namespaced(server.client().await);
    let mut kept = large("a");
    kept.data = Some([("value".to_owned(), "what-was-written".to_owned())].into());
    objects.create(&PostParams::default(), &kept).await.unwrap();
    server.kill();
    let altered = alter(folder.path(), "what-was-written");
    let output = refusal(folder.path(), &[]);
    assert!(
        output.contains("store.redb") && output.contains("damaged") && output.contains("restore a backup"),
        "{output}"
    );
    let after: Vec<Vec<u8>> =
        store_files(folder.path()).into_iter().map(|path| fs::read(path).unwrap()).collect();
    let lengths = |files: &[Vec<u8>]| files.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(lengths(&after), lengths(&altered), "the files were not repaired");
    let found = |file: &Vec<u8>| file.windows(16).any(|window| window == b"what-was-written");
    assert!(!after.iter().any(found), "the text was not restored");
}
