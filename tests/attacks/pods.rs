//! Pods that reach for the node.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::mount::mount_bind;
use serde_json::{Value, json};
use skep_tests::node::{TestNode, container, phase};

fn statuses(pod: Option<&Value>) -> Vec<Value> {
    pod.and_then(|p| p["status"]["containerStatuses"].as_array()).cloned().unwrap_or_default()
}

/// The folder of the emptyDir `data` on the node.
async fn data_folder(node: &TestNode, path: &str) -> Result<PathBuf> {
    let pod = node.api.get(path).await?.context("the pod exists")?;
    let uid = pod["metadata"]["uid"].as_str().context("a uid")?;
    Ok(node.root().join("pods").join(uid).join("volumes/kubernetes.io~empty-dir/data"))
}

/// Exchanges a folder and a link as fast as it can until dropped; the folder ends with its own name.
struct Exchange {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Exchange {
    fn start(folder: PathBuf, link: PathBuf) -> Exchange {
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        let thread = std::thread::spawn(move || {
            let swap = || renameat_with(CWD, &folder, CWD, &link, RenameFlags::EXCHANGE);
            let mut swapped = false;
            while !seen.load(Ordering::Relaxed) || swapped {
                swapped ^= swap().is_ok();
            }
        });
        Exchange { over, thread: Some(thread) }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sub_path_that_turns_into_a_link_never_shows_the_node() -> Result<()> {
    const CONTAINERS: usize = 12;
    let node = TestNode::start("race").await?;
    let mut maker = container("maker", "mkdir /data/x; touch /data/x/own; ln -s / /data/link");
    maker["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    let readers: Vec<Value> = (0..CONTAINERS)
        .map(|number| {
            // The maker's folder has one file, and the node's root has /proc.
            let script = "test -e /seen/proc && exit 7; test -e /seen/own || exit 8; exit 0";
            let mut reader = container(&format!("reader-{number}"), script);
            reader["volumeMounts"] = json!([{"name": "data", "mountPath": "/seen", "subPath": "x"}]);
            reader
        })
        .collect();
    let mut waiter = container("waiter", "while ! test -e /data/go; do sleep 0.1; done");
    waiter["volumeMounts"] = maker["volumeMounts"].clone();
    let spec = json!({"restartPolicy": "Never", "initContainers": [maker, waiter], "containers": readers,
        "volumes": [{"name": "data", "emptyDir": {}}]});
    let path = node.run_pod("race", spec).await?;
    let waits = |p: Option<&Value>| {
        p.is_some_and(|p| p["status"]["initContainerStatuses"][1]["state"]["running"].is_object())
    };
    node.api.wait(&path, "the folder and the link", waits).await?;
    let data = data_folder(&node, &path).await?;
    let exchange = Exchange::start(data.join("x"), data.join("link"));
    std::fs::write(data.join("go"), "")?;
    let tried = |p: Option<&Value>| {
        let all = statuses(p);
        all.len() == CONTAINERS
            && all.iter().all(|s| {
                s["state"]["terminated"].is_object()
                    || s["state"]["waiting"]["reason"] == "CreateContainerConfigError"
            })
    };
    node.api.wait(&path, "a try of each container", tried).await?;
    drop(exchange);
    node.api.wait(&path, "the pod's end", |p| matches!(phase(p), "Succeeded" | "Failed")).await?;
    for status in statuses(node.api.get(&path).await?.as_ref()) {
        assert_eq!(status["state"]["terminated"]["exitCode"], 0, "{status}");
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    assert!(!mounts.contains("volume-subpaths"), "each subPath is unmounted: {mounts}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_mounted_into_a_volume_outlives_the_pod() -> Result<()> {
    let node = TestNode::start("bind").await?;
    let mut main = container("main", "mkdir -p /data/deep/mounted; ln -s / /data/root; sleep 1000");
    main["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    let volumes = json!([{"name": "data", "emptyDir": {}}]);
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [main], "volumes": volumes});
    let path = node.run_pod("bind", spec).await?;
    let data = data_folder(&node, &path).await?;
    // On the same file system as the volume: its device says nothing.
    let kept = tempfile::tempdir_in(node.root())?;
    std::fs::write(kept.path().join("file"), "kept")?;
    let made = async {
        while !data.join("root").is_symlink() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), made).await?;
    mount_bind(kept.path(), data.join("deep/mounted"))?;
    assert!(data.join("deep/mounted/file").exists());
    node.api.delete(&path, 0).await?;
    let gone = async {
        while data.exists() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await?;
    assert_eq!(std::fs::read_to_string(kept.path().join("file"))?, "kept");
    assert!(Path::new("/proc/self").exists());
    Ok(())
}
