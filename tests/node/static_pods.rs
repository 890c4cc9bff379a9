//! Static pods: files that become pods, with or without an API server.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use skep_node::AgentConfig;
use skep_tests::node::{NODE, TestNode, container, phase};

const MIRROR: &str = "/api/v1/namespaces/default/pods/web-node-under-test";
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

fn with_manifests(config: &mut AgentConfig) {
    config.static_pods = Some(config.root_dir.join("manifests"));
}

fn folder(node: &TestNode) -> PathBuf {
    node.root().join("manifests")
}

/// Replaces the file at once, as a tool that installs manifests does.
fn write(node: &TestNode, file: &str, pod: &Value) -> Result<()> {
    let hidden = folder(node).join(format!(".{file}"));
    std::fs::write(&hidden, serde_json::to_vec(pod)?)?;
    Ok(std::fs::rename(hidden, folder(node).join(file))?)
}

fn pod(script: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"hostNetwork": true, "terminationGracePeriodSeconds": 1, "containers": [container("main", script)]},
    })
}

fn container_id(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["containerID"]
}

/// The pod as the node has it; waits until `test` holds.
async fn on_node(node: &TestNode, what: &str, test: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        let list: Value = serde_json::from_str(&node.kubelet_get("/pods").await?.1)?;
        let pods = list["items"].as_array().context("items")?.clone();
        if test(&pods) {
            return Ok(pods);
        }
        ensure!(Instant::now() < deadline, "{what} did not come: {pods:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn runs(pods: &[Value]) -> bool {
    matches!(pods, [pod] if pod["status"]["phase"] == "Running" && container_id(pod).is_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_a_pod_with_a_mirror_that_controls_nothing() -> Result<()> {
    let node = TestNode::start_with("static", with_manifests).await?;
    std::fs::create_dir_all(folder(&node))?;
    write(&node, "web.yaml", &pod("exec sleep 1000"))?;
    let running = |mirror: Option<&Value>| phase(mirror) == "Running";
    node.api.wait(MIRROR, "a running mirror", running).await?;
    let mirror = node.api.get(MIRROR).await?.context("the mirror")?;
    let annotations = &mirror["metadata"]["annotations"];
    let hash = &annotations["kubernetes.io/config.hash"];
    assert_eq!(&annotations["kubernetes.io/config.mirror"], hash);
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert_eq!(mirror["metadata"]["ownerReferences"][0]["kind"], "Node");
    assert_eq!(mirror["spec"]["nodeName"], NODE);
    let pods = on_node(&node, "the pod", runs).await?;
    assert_eq!((pods[0]["metadata"]["uid"] == *hash, container_id(&pods[0])), (true, container_id(&mirror)));

    // A user's deletion of the mirror brings another one of the same pod.
    node.api.delete(MIRROR, 30).await?;
    let another = |pod: Option<&Value>| {
        pod.is_some_and(|pod| pod["metadata"]["uid"] != mirror["metadata"]["uid"]) && running(pod)
    };
    node.api.wait(MIRROR, "another mirror", another).await?;
    let second = node.api.get(MIRROR).await?.context("the mirror")?;
    assert_eq!(container_id(&second), container_id(&mirror));

    // Another content is another pod of the same name.
    write(&node, "web.yaml", &pod("exec sleep 2000"))?;
    let changed = |pod: Option<&Value>| {
        running(pod)
            && pod.is_some_and(|pod| {
                &pod["metadata"]["annotations"]["kubernetes.io/config.hash"] != hash
                    && container_id(pod) != container_id(&mirror)
            })
    };
    node.api.wait(MIRROR, "the changed pod", changed).await?;
    on_node(&node, "one pod", runs).await?;

    // What is wrong with a file is an event of the node, and its pod goes on.
    std::fs::write(folder(&node).join("web.yaml"), "kind: Nonsense")?;
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while !node.events(NODE).await?.contains("web.yaml: couldn't parse as pod: it is a  Nonsense") {
        ensure!(Instant::now() < deadline, "no event: {}", node.events(NODE).await?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(changed(node.api.get(MIRROR).await?.as_ref()));

    std::fs::remove_file(folder(&node).join("web.yaml"))?;
    node.api.wait(MIRROR, "no mirror", |pod| pod.is_none()).await?;
    on_node(&node, "no pod", <[Value]>::is_empty).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn static_pods_need_no_api_server_and_survive_the_agent() -> Result<()> {
    let mut node = TestNode::start_with("alone", with_manifests).await?;
    node.api.wait(&format!("/api/v1/nodes/{NODE}"), "the node", |node| node.is_some()).await?;
    node.stop_agent().await;
    node.api.set_up(false);
    std::fs::create_dir_all(folder(&node))?;
    write(&node, "web.json", &pod("exec sleep 1000"))?;
    node.start_agent();
    let first = on_node_after_start(&node).await?;

    // The next agent adopts it.
    node.stop_agent().await;
    node.start_agent();
    let second = on_node_after_start(&node).await?;
    assert_eq!(container_id(&second), container_id(&first));

    // A change while there is no agent is another pod, and nothing of the old one stays.
    node.stop_agent().await;
    write(&node, "web.json", &pod("exec sleep 2000"))?;
    node.start_agent();
    let is_new = |pods: &[Value]| runs(pods) && container_id(&pods[0]) != container_id(&first);
    node.kubelet_is_up().await?;
    on_node(&node, "the changed pod", is_new).await?;

    node.api.set_up(true);
    node.api.wait(MIRROR, "the mirror", |mirror| phase(mirror) == "Running").await?;
    Ok(())
}

async fn on_node_after_start(node: &TestNode) -> Result<Value> {
    node.kubelet_is_up().await?;
    let pods = on_node(node, "the pod", runs).await?;
    Ok(pods[0].clone())
}
