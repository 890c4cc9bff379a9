//! The agent against a real containerd: pods run, restart, end and are adopted.

mod common;

use anyhow::Result;
use common::{TestNode, container, phase};
use serde_json::{Value, json};

fn status(pod: Option<&Value>) -> Value {
    pod.map(|p| p["status"]["containerStatuses"][0].clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_and_is_deleted_within_its_grace() -> Result<()> {
    let node = TestNode::start("run").await?;
    let spec = json!({"terminationGracePeriodSeconds": 30,
        "containers": [container("main", "trap 'echo bye; exit 3' TERM; echo hello; while :; do sleep 0.1; done")]});
    let path = node.run_pod("web", spec);
    node.api.wait(&path, "a ready pod", |p| phase(p) == "Running" && status(p)["ready"] == true).await?;
    let began = std::time::Instant::now();
    node.api.delete_pod(&path, 30);
    let ended = |p: Option<&Value>| p.is_none();
    node.api.wait(&path, "the pod's end", ended).await?;
    assert!(began.elapsed().as_secs() < 10, "SIGTERM ends it, not the grace: {:?}", began.elapsed());
    let events = node.events("web").join("\n");
    for reason in ["Pulled", "Created", "Started", "Killing"] {
        assert!(events.contains(reason), "{reason} in {events}");
    }
    Ok(())
}
