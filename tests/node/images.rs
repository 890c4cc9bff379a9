//! Images from a registry and from the node's own folder, for containers and as volumes.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
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
