//! Images from a registry and from the node's own folder, for containers and as volumes.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use skep_node::images::ProviderSettings;
use skep_tests::image::Image;
use skep_tests::node::{IMAGE, TestNode, container, phase};
use skep_tests::registry::Registry;
use xtask::cluster::containerd::ctr;

fn waiting(pod: Option<&Value>) -> Value {
    pod.map(|p| p["status"]["containerStatuses"][0]["state"]["waiting"].clone()).unwrap_or_default()
}

fn succeeded(pod: Option<&Value>) -> bool {
    phase(pod) == "Succeeded"
}

/// A pod that runs the script once, with the image's files under /files.
fn reader(image: &str, policy: &str, script: &str) -> Value {
    let mut main = container("main", script);
    main["volumeMounts"] = json!([{"name": "files", "mountPath": "/files"}]);
    json!({"restartPolicy": "Never", "containers": [main],
        "volumes": [{"name": "files", "image": {"reference": image, "pullPolicy": policy}}]})
}

async fn log(node: &TestNode, pod: &str) -> Result<String> {
    Ok(node.kubelet_get(&format!("/containerLogs/default/{pod}/main")).await?.1)
}

fn list(node: &TestNode, what: &[&str]) -> Result<String> {
    Ok(String::from_utf8(ctr(&node.containerd.socket(), what)?.stdout)?)
}

fn mounts_of(root: &Path) -> Result<usize> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let below = root.join("pods").display().to_string();
    Ok(mounts.lines().filter(|line| line.contains(&below)).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_an_image_are_a_volume_that_nobody_writes_or_executes() -> Result<()> {
    let node = TestNode::start("imagevol").await?;
    let registry = Registry::start().await?;
    let image = registry.push("data:1", &[("data.json", b"first"), ("bin/tool", b"#!/bin/sh\necho ran")])?;
    let script = "cat /files/data.json; echo; echo x 2>/dev/null > /files/data.json || echo read-only; \
                  /files/bin/tool 2>/dev/null || echo not executed; cat /one/file";
    let mut spec = reader(&image, "Always", script);
    let one = json!({"name": "one", "image": {"reference": IMAGE, "pullPolicy": "Never"}});
    spec["volumes"].as_array_mut().context("volumes")?.push(one);
    let mounts = json!([{"name": "files", "mountPath": "/files"}, {"name": "one", "mountPath": "/one/file", "subPath": "etc/group"}]);
    spec["containers"][0]["volumeMounts"] = mounts;
    let path = node.run_pod("reader", spec).await?;
    node.api.wait(&path, "the reader's end", succeeded).await?;
    let read = log(&node, "reader").await?;
    assert!(read.starts_with("first\nread-only\nnot executed\nroot:x:0:"), "{read}");
    assert!(node.events("reader").await?.contains(&format!("Pulling: Pulling image \"{image}\"")));

    node.api.delete(&path, 0).await?;
    node.api.wait(&path, "no reader", |p| p.is_none()).await?;
    let gone = async {
        while mounts_of(node.root())? > 0 || list(&node, &["leases", "list"])?.contains("skep-image-volumes")
        {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), gone).await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn always_asks_the_registry_and_takes_what_the_tag_means_now() -> Result<()> {
    let node = TestNode::start("always").await?;
    let registry = Registry::start().await?;
    let image = registry.push("data:latest", &[("data.json", b"first")])?;
    let mut main = container("main", "cat /data.json /files/data.json");
    main["image"] = json!(image);
    main["imagePullPolicy"] = json!("Always");
    main["volumeMounts"] = json!([{"name": "files", "mountPath": "/files"}]);
    let spec = json!({"restartPolicy": "Never", "containers": [main],
        "volumes": [{"name": "files", "image": {"reference": image, "pullPolicy": "Always"}}]});
    let path = node.run_pod("one", spec.clone()).await?;
    node.api.wait(&path, "the first pod's end", succeeded).await?;
    assert_eq!(log(&node, "one").await?, "firstfirst");
    let asked = registry.manifests_served();
    registry.push("data:latest", &[("data.json", b"second")])?;
    let path = node.run_pod("two", spec).await?;
    node.api.wait(&path, "the second pod's end", succeeded).await?;
    assert_eq!(log(&node, "two").await?, "secondsecond");
    assert!(registry.manifests_served() > asked);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_without_its_image_keeps_the_container_waiting_with_the_reason() -> Result<()> {
    let node = TestNode::start("novol").await?;
    let registry = Registry::start().await?;
    let absent = format!("{}/absent:1", registry.host);
    let never = node.run_pod("never", reader(&absent, "Never", "true")).await?;
    let pulled = node.run_pod("pulled", reader(&absent, "Always", "true")).await?;
    node.api.wait(&never, "ErrImageNeverPull", |p| waiting(p)["reason"] == "ErrImageNeverPull").await?;
    node.api.wait(&pulled, "ImagePullBackOff", |p| waiting(p)["reason"] == "ImagePullBackOff").await?;
    registry.push("absent:1", &[])?;
    node.api.wait(&pulled, "the end, once the image is there", succeeded).await
}

/// A provider whose program writes each image that it is asked about to a log, and answers with these credentials.
fn write_provider(folder: &Path, host: &str, password: &str) -> Result<()> {
    let answer = json!({
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "kind": "CredentialProviderResponse",
        "cacheKeyType": "Registry", "cacheDuration": "1h",
        "auth": {host: {"username": "user", "password": password}},
    });
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig",
        "providers": [{
            "name": "acme", "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "matchImages": ["local*:*"],
            "defaultCacheDuration": "0s", "args": ["get"], "env": [{"name": "LOG", "value": folder.join("asked")}],
        }],
    });
    let port = host.rsplit(':').next().unwrap_or_default();
    let config = config.to_string().replace("local*:*", &format!("local*:{port}"));
    std::fs::create_dir_all(folder)?;
    let program = format!("#!/bin/sh\n(echo \"$1\"; cat; echo) >> \"$LOG\"\ncat <<'END'\n{answer}\nEND\n");
    let temporary = folder.join("acme.new");
    std::fs::write(&temporary, program)?;
    std::fs::set_permissions(&temporary, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    std::fs::rename(temporary, folder.join("acme"))?;
    Ok(std::fs::write(folder.join("config.yaml"), config)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_gives_the_credentials_for_a_pull() -> Result<()> {
    let registry = Registry::start_private("user", "word").await?;
    let first = registry.push("team/first:1", &[])?;
    let second = registry.push("team/second:1", &[])?;
    let mut node = TestNode::start_with("creds", |config| {
        let folder = config.root_dir.join("providers");
        config.credential_providers =
            Some(ProviderSettings { config: folder.join("config.yaml"), programs: folder });
    })
    .await?;
    // Without its configuration the agent does not start.
    let folder = node.root().join("providers");
    node.stop_agent().await;
    write_provider(&folder, &registry.host, "wrong")?;
    node.start_agent();
    let spec = |image: &str| {
        let mut main = container("main", "true");
        main["image"] = json!(image);
        json!({"restartPolicy": "Never", "containers": [main]})
    };
    let refused = node.run_pod("refused", spec(&first)).await?;
    node.api.wait(&refused, "ImagePullBackOff", |p| waiting(p)["reason"] == "ImagePullBackOff").await?;
    node.stop_agent().await;
    write_provider(&folder, &registry.host, "word")?;
    node.start_agent();
    node.api.wait(&refused, "the end", succeeded).await?;
    let asked = std::fs::read_to_string(folder.join("asked"))?;
    let image = format!("{}/team/first", registry.host);
    let kind = "CredentialProviderRequest";
    let request = json!({"apiVersion": "credentialprovider.kubelet.k8s.io/v1", "kind": kind, "image": image});
    let calls: Vec<&str> = asked.lines().collect();
    assert_eq!((calls.len(), calls[0], calls[2]), (4, "get", "get"), "{asked}");
    for call in [calls[1], calls[3]] {
        assert_eq!(serde_json::from_str::<Value>(call)?, request);
    }

    // The answer is for the whole registry, for an hour.
    let path = node.run_pod("second", spec(&second)).await?;
    node.api.wait(&path, "the end", succeeded).await?;
    assert_eq!(std::fs::read_to_string(folder.join("asked"))?, asked);
    // The image is for every pod of the node.
    let mut never = spec(&second);
    never["containers"][0]["imagePullPolicy"] = json!("Never");
    let path = node.run_pod("third", never).await?;
    node.api.wait(&path, "the end", succeeded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_stops_by_the_signal_of_its_image() -> Result<()> {
    let node = TestNode::start("signal").await?;
    let registry = Registry::start().await?;
    let image = Image { name: "usr1:1", command: &["/bin/sh"], files: &[], stop_signal: Some("SIGUSR1") };
    let image = registry.push_image(&image)?;
    let script = "trap 'echo term' TERM; trap 'echo usr1 > /dev/termination-log; exit 3' USR1; \
                  echo ready; while :; do sleep 0.1; done";
    let mut main = container("main", script);
    main["image"] = json!(image);
    let spec = json!({"terminationGracePeriodSeconds": 60, "restartPolicy": "Never", "activeDeadlineSeconds": 1000,
        "containers": [main]});
    let path = node.run_pod("one", spec).await?;
    node.api.wait(&path, "a running pod", |p| phase(p) == "Running").await?;
    let ready = async {
        while log(&node, "one").await? != "ready\n" {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), ready).await??;
    let began = std::time::Instant::now();
    // The pod's deadline ends it, and its status stays.
    node.api.patch(&path, &json!({"spec": {"activeDeadlineSeconds": 1}})).await?;
    let ended = |pod: Option<&Value>| {
        pod.is_some_and(|p| p["status"]["containerStatuses"][0]["state"]["terminated"].is_object())
    };
    node.api.wait(&path, "the end", ended).await?;
    let pod = node.api.get(&path).await?.context("the pod")?;
    let end = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&end["exitCode"], &end["message"]), (&json!(3), &json!("usr1\n")), "{pod}");
    // By SIGTERM alone it would have lived until the grace period's end.
    assert!(began.elapsed() < std::time::Duration::from_secs(55), "{pod}");
    Ok(())
}
