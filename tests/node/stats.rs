//! What the agent says that its pods use.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use skep_tests::node::{NODE, TestNode, container, phase};

/// A pod with a container that uses as much CPU as it gets, and one that sleeps.
async fn busy_node() -> Result<TestNode> {
    let node = TestNode::start("stats").await?;
    let mut busy = container("busy", "trap 'exit 0' TERM; while :; do :; done");
    busy["resources"] = json!({"limits": {"cpu": "500m", "memory": "64Mi"}});
    let idle = container("idle", "trap 'exit 0' TERM; while :; do sleep 1; done");
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [busy, idle]});
    let path = node.run_pod("load", spec).await?;
    node.api.wait(&path, "a running pod", |pod| phase(pod) == "Running").await?;
    Ok(node)
}

async fn summary(node: &TestNode, query: &str) -> Result<Value> {
    let (code, text) = node.kubelet_get(&format!("/stats/summary{query}")).await?;
    anyhow::ensure!(code == 200, "{code} {text}");
    Ok(serde_json::from_str(&text)?)
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let mut items = list.as_array().into_iter().flatten();
    items.find(|item| item["name"] == name).unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_measured_over_a_window() -> Result<()> {
    let node = busy_node().await?;
    // The first question takes two samples.
    let first = summary(&node, "?only_cpu_and_memory=true").await?;
    let pod = &first["pods"][0];
    assert_eq!((&pod["podRef"]["name"], &pod["podRef"]["namespace"]), (&json!("load"), &json!("default")));
    let (busy, idle) = (named(&pod["containers"], "busy"), named(&pod["containers"], "idle"));
    let rate = |of: &Value| of["cpu"]["usageNanoCores"].as_u64().context("a rate");
    let (used, rested) = (rate(busy)?, rate(idle)?);
    // The test machine gives it a part of a core only; never more than its limit of 0.5 cores by much.
    assert!((20_000_000..700_000_000).contains(&used), "{used} billionths of a core");
    assert!(rested < used / 2, "{rested} of an idle container, {used} of a busy one");
    let window = busy["cpu"]["windowSeconds"].as_f64().context("a window")?;
    assert!((0.5..=60.0).contains(&window), "{window} s");
    let memory = |of: &Value| of["memory"]["workingSetBytes"].as_u64().unwrap_or(0);
    assert!((1 << 12..64 << 20).contains(&memory(busy)), "{} bytes", memory(busy));
    assert_eq!(pod["memory"]["workingSetBytes"], json!(memory(busy) + memory(idle)));
    let available = busy["memory"]["availableBytes"].as_u64();
    assert_eq!(available, Some((64 << 20) - memory(busy)), "the limit bounds it");
    let of_node = &first["node"];
    assert_eq!(of_node["nodeName"], NODE);
    assert!(rate(of_node)? >= used / 2, "the node uses what its pods use");
    assert!(of_node["memory"]["workingSetBytes"].as_u64() > Some(memory(busy)));

    let whole = summary(&node, "").await?;
    for place in ["/node/fs/capacityBytes", "/node/runtime/imageFs/availableBytes", "/node/rlimit/maxpid"] {
        assert!(whole.pointer(place).and_then(Value::as_u64) > Some(0), "{place}");
    }
    let busy = named(&whole["pods"][0]["containers"], "busy");
    assert!(busy["rootfs"]["usedBytes"].is_u64() && busy["logs"]["usedBytes"].is_u64(), "{busy}");
    let counter = |of: &Value| of["cpu"]["usageCoreNanoSeconds"].as_u64();
    let before = counter(named(&first["pods"][0]["containers"], "busy"));
    assert!(counter(busy) >= before && before > Some(0));
    Ok(())
}

/// The names of the families, and the lines of one container.
fn families(text: &str) -> BTreeSet<&str> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn scrapers_find_upstreams_names() -> Result<()> {
    let node = busy_node().await?;
    let (code, text) = node.kubelet_get("/metrics/resource").await?;
    assert_eq!(code, 200);
    let line = text.lines().find(|line| {
        line.starts_with(
            r#"container_cpu_usage_seconds_total{container="busy",namespace="default",pod="load"} "#,
        )
    });
    let words: Vec<&str> = line.context("a line of the container")?.split(' ').collect();
    let [_, value, at] = words.as_slice() else { anyhow::bail!("{words:?}") };
    assert!(value.parse::<f64>()? > 0.0 && at.parse::<i64>()? > 1_700_000_000_000, "{words:?}");
    for name in [
        "node_cpu_usage_seconds_total",
        "node_memory_working_set_bytes",
        "pod_cpu_usage_seconds_total",
        "pod_memory_working_set_bytes",
        "container_memory_working_set_bytes",
        "container_start_time_seconds",
        "resource_scrape_error",
    ] {
        assert!(families(&text).contains(name), "{name}");
    }
    assert!(text.contains("\nresource_scrape_error 0\n"));

    let (code, text) = node.kubelet_get("/metrics/cadvisor").await?;
    assert_eq!(code, 200);
    for name in ["container_memory_usage_bytes", "container_processes", "container_spec_memory_limit_bytes"] {
        let mut lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{container=\"busy\"")));
        let line = lines.next().with_context(|| format!("{name} of the container"))?;
        assert!(line.contains(r#"namespace="default",pod="load""#), "{line}");
        let value: f64 = line.split(' ').nth(1).context("a value")?.parse()?;
        assert!(value > 0.0, "{line}");
    }
    let total = r#"container_cpu_usage_seconds_total{cpu="total",container="busy","#;
    assert!(text.lines().any(|line| line.starts_with(total)), "the series of all CPUs");
    assert!(families(&text).contains("machine_memory_bytes"));
    Ok(())
}
