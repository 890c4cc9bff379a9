//! Pods that the node does not take: they fail with the kubelet's reason, and nothing of them runs.

use anyhow::Result;
use serde_json::{Value, json};
use skep_tests::node::{TestNode, container, phase};

const SLEEP: &str = "sleep 1000";

fn of_port(port: u16) -> Value {
    let mut main = container("main", SLEEP);
    main["ports"] = json!([{"hostPort": port, "containerPort": port}]);
    json!({"terminationGracePeriodSeconds": 0, "containers": [main]})
}

fn of_cpu(cpu: &str) -> Value {
    let mut main = container("main", SLEEP);
    main["resources"] = json!({"requests": {"cpu": cpu}});
    json!({"terminationGracePeriodSeconds": 0, "containers": [main]})
}

async fn rejected(node: &TestNode, name: &str, spec: Value, reason: &str, message: &str) -> Result<()> {
    let path = node.run_pod(name, spec).await?;
    node.api.wait(&path, "a rejection", |p| phase(p) == "Failed").await?;
    let pod = node.api.get(&path).await?.unwrap_or_default();
    let status = &pod["status"];
    assert_eq!(status["reason"], reason, "{status}");
    let text = status["message"].as_str().unwrap_or_default();
    assert!(text.starts_with("Pod was rejected: ") && text.contains(message), "{text}");
    assert_eq!(status["observedGeneration"], pod["metadata"]["generation"]);
    assert!(status["containerStatuses"][0]["containerID"].is_null(), "{status}");
    let events = node.events(name).await?;
    assert!(events.contains(&format!("{reason}: ")), "{events}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_do_not_fit_fail_until_others_make_room() -> Result<()> {
    let node = TestNode::start("admit").await?;
    let first = node.run_pod("first", of_port(31_999)).await?;
    node.api.wait(&first, "a running pod", |p| phase(p) == "Running").await?;
    let ports = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    rejected(&node, "second", of_port(31_999), "NodePorts", ports).await?;
    rejected(
        &node,
        "large",
        of_cpu("1000"),
        "OutOfcpu",
        "Node didn't have enough resource: cpu, requested: 1000000, used: ",
    )
    .await?;
    let mut spec = of_cpu("1m");
    spec["nodeSelector"] = json!({"disk": "tape"});
    rejected(&node, "else", spec, "NodeAffinity", "node(s) didn't match Pod's node affinity/selector")
        .await?;
    // A label that somebody has added since the node registered.
    let path = format!("/api/v1/nodes/{}", skep_tests::node::NODE);
    node.api.wait(&path, "a node", |n| n.is_some()).await?;
    node.api.patch(&path, &json!({"metadata": {"labels": {"disk": "tape"}}})).await?;
    let mut spec = of_cpu("1m");
    spec["nodeSelector"] = json!({"disk": "tape"});
    let selected = node.run_pod("selected", spec).await?;
    node.api.wait(&selected, "a running pod", |p| phase(p) == "Running").await?;
    // Not at once: then the node would still have to end it.
    node.api.delete(&first, 1).await?;
    node.api.wait(&first, "the first pod's end", |p| p.is_none()).await?;
    let third = node.run_pod("third", of_port(31_999)).await?;
    node.api.wait(&third, "a running pod", |p| phase(p) == "Running").await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_agent_does_not_give_away_what_pods_have() -> Result<()> {
    let mut node = TestNode::start("keep").await?;
    let first = node.run_pod("first", of_port(31_998)).await?;
    node.api.wait(&first, "a running pod", |p| phase(p) == "Running").await?;
    node.stop_agent().await;
    let second = node.run_pod("a-second", of_port(31_998)).await?;
    node.start_agent();
    node.api.wait(&second, "a rejection", |p| phase(p) == "Failed").await?;
    assert_eq!(phase(node.api.get(&first).await?.as_ref()), "Running");
    Ok(())
}
