//! Pods that reach for the node.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::mount::mount_bind;
use serde_json::{Value, json};
use skep_tests::node::{TestNode, container, phase};
use skep_tests::registry::Registry;

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
    Ok(())
}

/// Waits until something holds that is not in the API.
async fn until(what: &str, holds: impl AsyncFn() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !holds().await {
        anyhow::ensure!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn mode(path: &Path) -> Result<u32> {
    let metadata = std::fs::metadata(path).with_context(|| format!("inspect {}", path.display()))?;
    Ok(metadata.permissions().mode() & 0o7777)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_the_node_cannot_serve_as_its_spec_says_never_runs() -> Result<()> {
    let node = TestNode::start("refuse").await?;
    let rows = [
        (
            "groups",
            json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}}),
            "SupplementalGroupsPolicyNotSupported",
        ),
        (
            "sysctl",
            json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "9000"}]}}),
            "SysctlForbidden",
        ),
    ];
    for (name, mut spec, reason) in rows {
        spec["containers"] = json!([container("main", "sleep 1000")]);
        let path = node.run_pod(name, spec).await?;
        node.api.wait(&path, "the refusal", |p| phase(p) == "Failed").await?;
        let pod = node.api.get(&path).await?.unwrap_or_default();
        assert_eq!(pod["status"]["reason"], reason, "{pod}");
        let started = statuses(Some(&pod)).iter().any(|status| status["containerID"].is_string());
        assert!(!started, "{pod}");
        let events = node.events(name).await?;
        assert!(events.contains(reason), "{events}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_wants_users_of_its_own_waits_for_a_runtime_that_has_them() -> Result<()> {
    let node = TestNode::start("userns").await?;
    let spec =
        json!({"hostUsers": false, "hostNetwork": false, "containers": [container("main", "sleep 1000")]});
    let path = node.run_pod("userns", spec).await?;
    let why = "FailedCreatePodSandBox: Failed to create pod sandbox: can't set `spec.hostUsers: false`, \
               runtime does not support user namespaces";
    until("the event", async || node.events("userns").await.is_ok_and(|events| events.contains(why))).await?;
    let waits = |pod: Option<&Value>| {
        let waiting =
            pod.map(|pod| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone());
        phase(pod) == "Pending" && waiting == Some(json!("ContainerCreating"))
    };
    node.api.wait(&path, "the wait", waits).await?;
    node.api.delete(&path, 30).await?;
    node.api.wait(&path, "no pod", |pod| pod.is_none()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_deletion_ends_containers_whatever_their_grace() -> Result<()> {
    let node = TestNode::start("grace").await?;
    let deaf = container("main", "trap '' TERM; echo ready; while :; do sleep 1; done");
    let spec = json!({"terminationGracePeriodSeconds": i64::MAX, "activeDeadlineSeconds": i64::from(i32::MAX),
        "containers": [deaf]});
    let path = node.run_pod("deaf", spec).await?;
    let (log, since) = ("/containerLogs/default/deaf/main", i64::MAX);
    until("the trap", async || {
        node.kubelet_get(log).await.is_ok_and(|(code, text)| code == 200 && text.contains("ready"))
    })
    .await?;
    let answer = node.kubelet_get(&format!("{log}?sinceSeconds={since}")).await?;
    assert_eq!(answer, (200, "ready\n".to_owned()));
    node.api.delete(&path, 0).await?;
    until("the container's end", async || {
        node.kubelet_get("/pods").await.is_ok_and(|(_, text)| !text.contains("deaf"))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_pod_itself_reads_its_volumes() -> Result<()> {
    let node = TestNode::start("modes").await?;
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"key": "c2VjcmV0"}});
    node.api.create("/api/v1/namespaces/default/secrets", &secret).await?;
    let script =
        "cat /secret/key; echo; touch /data/own; cat /var/token/token | tr . ' ' | wc -w; sleep 1000";
    let mut main = container("main", script);
    main["securityContext"] = json!({"runAsUser": 1000, "runAsGroup": 1000});
    main["volumeMounts"] = json!([{"name": "secret", "mountPath": "/secret"}, {"name": "data", "mountPath": "/data"},
        {"name": "token", "mountPath": "/var/token"}]);
    let volumes = json!([{"name": "secret", "secret": {"secretName": "s"}}, {"name": "data", "emptyDir": {}},
        {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]);
    let path = node.run_pod("modes", json!({"containers": [main], "volumes": volumes})).await?;
    until("the pod's own files", async || {
        node.kubelet_get("/containerLogs/default/modes/main")
            .await
            .is_ok_and(|(_, text)| text == "secret\n3\n")
    })
    .await?;
    let data = data_folder(&node, &path).await?;
    assert!(data.join("own").exists());
    let folder = data.ancestors().nth(3).context("the pod's folder")?;
    for closed in [node.root(), &node.root().join("secrets"), &node.root().join("pods"), folder] {
        assert_eq!(mode(closed)? & 0o077, 0, "{}", closed.display());
    }
    assert_eq!(mode(&folder.join("pod.json"))?, 0o600);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_stays_within_the_limits_of_the_node() -> Result<()> {
    let node = TestNode::start_with("limits", |config| {
        config.limits.seccomp_default = true;
        config.limits.max_pids = Some(30);
    })
    .await?;
    let confined = container("main", "grep Seccomp: /proc/self/status | tr -d '\\t'");
    node.run_pod("confined", json!({"restartPolicy": "Never", "containers": [confined]})).await?;
    let bomb = container("main", "i=0; while [ $i -lt 60 ]; do sleep 1000 & i=$((i+1)); done; echo all");
    let bomb = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [bomb]});
    let bomb = node.run_pod("bomb", bomb).await?;
    let mut filler = container("main", "dd if=/dev/zero of=/data/file bs=1M count=4; sleep 1000");
    filler["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    let volumes = json!([{"name": "data", "emptyDir": {"sizeLimit": "1Mi"}}]);
    let filler = node.run_pod("filler", json!({"containers": [filler], "volumes": volumes})).await?;
    until("the profile", async || {
        let log = node.kubelet_get("/containerLogs/default/confined/main").await;
        log.is_ok_and(|(_, text)| text == "Seccomp:2\n")
    })
    .await?;
    node.api.wait(&bomb, "the bomb's end", |p| phase(p) == "Failed").await?;
    let (_, log) = node.kubelet_get("/containerLogs/default/bomb/main").await?;
    assert!(log.contains("fork") && !log.contains("all"), "{log}");
    let uid = node.api.get(&bomb).await?.unwrap_or_default()["metadata"]["uid"].to_string();
    let cgroup = format!("pod{}", uid.trim_matches('"'));
    node.api.delete(&bomb, 0).await?;
    until("the cgroup's end", async || {
        let found = std::process::Command::new("find").args(["/sys/fs/cgroup", "-name", &cgroup]).output();
        found.is_ok_and(|output| output.stdout.is_empty())
    })
    .await?;
    node.api.wait(&filler, "the eviction", |p| phase(p) == "Failed").await?;
    let pod = node.api.get(&filler).await?.unwrap_or_default();
    assert_eq!(pod["status"]["reason"], "Evicted");
    assert_eq!(pod["status"]["message"], "Usage of EmptyDir volume \"data\" exceeds the limit \"1Mi\". ");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_on_the_node_is_for_pods_with_credentials() -> Result<()> {
    let node = TestNode::start("private").await?;
    let registry = Registry::start_private("user", "word").await?;
    let image = registry.push("private/app:1", &[])?;
    for name in ["first", "second"] {
        node.api.create("/api/v1/namespaces/default/secrets", &registry.secret(name)).await?;
    }
    let spec = |secret: Option<&str>, policy: &str| {
        let mut main = container("main", "exit 0");
        main["image"] = json!(image);
        main["imagePullPolicy"] = json!(policy);
        let secrets: Vec<Value> = secret.iter().map(|name| json!({"name": name})).collect();
        json!({"restartPolicy": "Never", "containers": [main], "imagePullSecrets": secrets})
    };
    let rows = [
        ("owner", Some("first"), "IfNotPresent", "Succeeded"),
        ("again", Some("first"), "Never", "Succeeded"),
        ("thief", None, "IfNotPresent", "ErrImagePull"),
        ("quiet", None, "Never", "ErrImageNeverPull"),
        // Its credentials have not pulled the image yet: the registry is asked.
        ("other", Some("second"), "Never", "ErrImageNeverPull"),
        ("asks", Some("second"), "IfNotPresent", "Succeeded"),
        ("known", Some("second"), "Never", "Succeeded"),
    ];
    for (name, secret, policy, expected) in rows {
        let path = node.run_pod(name, spec(secret, policy)).await?;
        let reached = |p: Option<&Value>| {
            let waiting = statuses(p).iter().any(|s| s["state"]["waiting"]["reason"] == expected);
            phase(p) == expected || waiting
        };
        node.api.wait(&path, &format!("{name}: {expected}"), reached).await?;
    }
    Ok(())
}
