//! A node that runs short.

use anyhow::Result;
use serde_json::json;
use skep_node::eviction::signals;
use skep_tests::node::{NODE, TestNode, container, phase};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_runs_short_evicts_pods_and_takes_no_new_ones_without_requests() -> Result<()> {
    let node = TestNode::start_with("short", |config| {
        // No machine has as much.
        config.eviction.thresholds = signals::parse("memory.available<1Pi").into_iter().collect();
    })
    .await?;
    let has_pressure = |n: Option<&serde_json::Value>| {
        let conditions = n.and_then(|n| n["status"]["conditions"].as_array()).into_iter().flatten();
        conditions.filter(|c| c["type"] == "MemoryPressure").any(|c| c["status"] == "True")
    };
    node.api.wait(&format!("/api/v1/nodes/{NODE}"), "memory pressure", has_pressure).await?;
    let mut main = container("main", "while :; do sleep 1; done");
    let plain = node.run_pod("plain", json!({"containers": [main]})).await?;
    node.api.wait(&plain, "a rejection", |p| phase(p) == "Failed").await?;
    let pod = node.api.get(&plain).await?.unwrap_or_default();
    assert_eq!(
        (&pod["status"]["reason"], &pod["status"]["message"]),
        (&json!("Evicted"), &json!("Pod was rejected: The node had condition: [MemoryPressure]. "))
    );
    main["resources"] = json!({"requests": {"memory": "1Mi"}});
    let claims = node.run_pod("claims", json!({"containers": [main]})).await?;
    node.api.wait(&claims, "an eviction", |p| phase(p) == "Failed").await?;
    let pod = node.api.get(&claims).await?.unwrap_or_default();
    let status = &pod["status"];
    let message = status["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("The node was low on resource: memory. Threshold quantity: "), "{status}");
    assert_eq!(status["reason"], "Evicted");
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    let disruption = conditions.find(|c| c["type"] == "DisruptionTarget").cloned().unwrap_or_default();
    assert_eq!(
        (&disruption["status"], &disruption["reason"]),
        (&json!("True"), &json!("TerminationByKubelet"))
    );
    Ok(())
}
