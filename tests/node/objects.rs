//! Volumes follow the ConfigMaps that they show.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use skep_tests::node::{TestNode, container, phase};

const MAPS: usize = 6;
const NAMESPACE: &str = "/api/v1/namespaces/default";
const LIMIT: Duration = Duration::from_secs(20);

fn map(at: usize, round: usize) -> Value {
    let metadata = json!({"name": format!("m{at}")});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"round": round.to_string()}})
}

/// Starts a pod that shows all maps; returns its files.
async fn start(node: &TestNode, name: &str) -> Result<Vec<PathBuf>> {
    let volume =
        |at| json!({"name": format!("m{at}"), "configMap": {"name": format!("m{at}"), "optional": true}});
    let volumes: Vec<Value> = (0..MAPS).map(volume).collect();
    let main = container("main", "sleep 1000");
    let path = node.run_pod(name, json!({"containers": [main], "volumes": volumes})).await?;
    node.api.wait(&path, "a running pod", |pod| phase(pod) == "Running").await?;
    let pod = node.api.get(&path).await?.unwrap_or_default();
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let folder = node.root().join("pods").join(uid).join("volumes/kubernetes.io~configmap");
    Ok((0..MAPS).map(|at| folder.join(format!("m{at}")).join("round")).collect())
}

async fn wait_for(files: &[PathBuf], wanted: Option<usize>) -> Result<()> {
    let wanted = wanted.map(|round| round.to_string());
    let deadline = Instant::now() + LIMIT;
    for file in files {
        while std::fs::read_to_string(file).ok() != wanted {
            ensure!(Instant::now() < deadline, "{file:?} did not become {wanted:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(())
}

/// A change may come while a refresh of the volumes has read its object already, and by the read of another pod.
#[tokio::test(flavor = "multi_thread")]
async fn every_change_reaches_the_volumes_of_every_pod_however_close_changes_are() -> Result<()> {
    let node = TestNode::start("follow").await?;
    for at in 0..MAPS {
        node.api.create(&format!("{NAMESPACE}/configmaps"), &map(at, 0)).await?;
    }
    let mut files = start(&node, "first").await?;
    files.extend(start(&node, "second").await?);
    wait_for(&files, Some(0)).await?;
    for round in 1..=20 {
        // The volume that a refresh reads first changes last.
        for at in (0..MAPS).rev() {
            node.api.replace(&format!("{NAMESPACE}/configmaps/m{at}"), &map(at, round)).await?;
        }
        wait_for(&files, Some(round)).await?;
    }
    for at in (0..MAPS).rev() {
        node.api.delete(&format!("{NAMESPACE}/configmaps/m{at}"), 0).await?;
    }
    wait_for(&files, None).await
}
