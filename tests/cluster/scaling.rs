//! What nodes and pods use, and autoscalers that follow it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::cluster::kubectl::text;

use crate::fixture::{NODES, Space, shared};

/// A Deployment of one pod that uses as much of a core as it gets, and requests a hundredth.
const BUSY: &str = r#"{"apiVersion": "apps/v1", "kind": "Deployment",
    "metadata": {"name": "busy", "namespace": "NAMESPACE"}, "spec": {"replicas": 1,
    "selector": {"matchLabels": {"app": "busy"}}, "template": {"metadata": {"labels": {"app": "busy"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [
            {"name": "main", "image": "localhost/skep/example:1", "command": ["sh", "-c", "while :; do :; done"],
                "resources": {"requests": {"cpu": "10m"}, "limits": {"cpu": "100m"}}},
            {"name": "helper", "image": "localhost/skep/example:1", "command": ["sh", "-c", "while :; do sleep 1; done"],
                "resources": {"requests": {"cpu": "10m"}}}]}}}}"#;

/// Waits for a line of `kubectl top` that begins so, and returns its words.
fn top(space: &Space<'_>, args: &[&str], first: &str) -> Result<Vec<String>> {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        // Metrics of a new pod, and of a node with a new agent, are there a moment after its start.
        let shown = space.run(&[&["top"], args].concat());
        let lines = shown.as_deref().unwrap_or_default().lines();
        let words = lines.map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let is_known = |words: &Vec<String>| !words.iter().any(|word| word == "<unknown>");
        let mut known = words.filter(is_known);
        if let Some(words) = known.find(|words| words.first().is_some_and(|w| w.starts_with(first))) {
            return Ok(words);
        }
        ensure!(std::time::Instant::now() < deadline, "top {args:?} shows {shown:?}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// The number of `123m` or `45Mi`.
fn number(words: &[String], at: usize) -> Result<u64> {
    let word = words.get(at).with_context(|| format!("{words:?} has no column {at}"))?;
    word.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().with_context(|| format!("{words:?}"))
}

#[test]
fn kubectl_top_shows_what_nodes_pods_and_containers_use() -> Result<()> {
    let shared = shared()?;
    let space = Space::new(&shared.cluster.kubectl, "top")?;
    space.apply(BUSY)?;
    space.wait_ready("app=busy", 1)?;
    let pod = top(&space, &["pods"], "busy-")?;
    ensure!((10..=150).contains(&number(&pod, 1)?), "a busy pod uses {pod:?}");
    let containers = space.run(&["top", "pods", "--containers", "--selector=app=busy", "--no-headers"])?;
    let of = |name: &str| containers.lines().find(|line| line.split_whitespace().nth(1) == Some(name));
    let (main, helper) = (of("main").context("main")?, of("helper").context("helper")?);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    ensure!(number(&words(main), 2)? > number(&words(helper), 2)?, "{containers}");
    ensure!(space.run(&["top", "pods", "--selector=app=none"]).is_ok());

    for index in 1..=NODES {
        // CPU and memory, each with its share of what is allocatable.
        let node = top(&space, &["nodes"], &format!("node-{index}"))?;
        ensure!(number(&node, 1)? > 0 && number(&node, 3)? > 0, "{node:?}");
    }

    let raw = space.run(&[
        "get",
        "--raw",
        "/apis/metrics.k8s.io/v1beta1/namespaces/top/pods?labelSelector=app%3Dbusy",
    ])?;
    let list: Value = serde_json::from_str(&raw)?;
    let item = &list["items"][0];
    ensure!(list["kind"] == "PodMetricsList" && text(item, "/metadata/labels/app") == "busy", "{raw}");
    ensure!(
        text(item, "/window").ends_with('s')
            && text(item, "/containers/0/usage/cpu").ends_with(['n', 'u', 'm'])
    );
    let table = space.run(&["get", "pods.metrics.k8s.io"])?;
    ensure!(table.starts_with("NAME") && table.contains("WINDOW"), "{table}");
    let service = space.get(&["apiservice", "v1beta1.metrics.k8s.io"])?;
    ensure!(service["spec"]["groupPriorityMinimum"] == 100, "{service}");
    let missing =
        space.refused(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1/namespaces/top/pods/none"])?;
    ensure!(missing.contains("not found"), "{missing}");
    Ok(())
}

#[test]
fn an_autoscaler_grows_a_busy_deployment() -> Result<()> {
    let shared = shared()?;
    let space = Space::new(&shared.cluster.kubectl, "autoscaling")?;
    space.apply(BUSY)?;
    space.run(&["autoscale", "deployment", "busy", "--min=1", "--max=3", "--cpu-percent=50"])?;
    space.wait_ready("app=busy", 3)?;
    let args = ["horizontalpodautoscalers", "--namespace", "autoscaling"];
    let object = space.kubectl.wait(&args, Duration::from_secs(60), |all| {
        let object = all.iter().next()?.clone();
        (object["status"]["currentReplicas"] == 3).then_some(object)
    })?;
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let reason = |of: &str| {
        let found = conditions.iter().find(|condition| condition["type"] == of);
        found.map(|condition| text(condition, "/reason").to_owned()).unwrap_or_default()
    };
    ensure!(reason("ScalingActive") == "ValidMetricFound", "{object}");
    let current = object.pointer("/status/currentMetrics/0/resource/current/averageUtilization");
    ensure!(current.and_then(Value::as_u64) > Some(50), "{object}");
    let shown = space.run(&["get", "hpa", "busy", "--no-headers"])?;
    ensure!(shown.contains("Deployment/busy") && shown.contains("%/50%"), "{shown}");
    let events = space.run(&["get", "events", "--field-selector=reason=SuccessfulRescale"])?;
    let why = "reason: cpu resource utilization (percentage of request) above target";
    ensure!(events.contains("New size: 3") && events.contains(why), "{events}");
    Ok(())
}

#[test]
fn an_autoscaler_scales_custom_resources_and_says_what_is_missing() -> Result<()> {
    let shared = shared()?;
    let space = Space::new(&shared.cluster.kubectl, "custom-scale")?;
    let definition = r#"{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "fleets.scale.example.com"}, "spec": {"group": "scale.example.com", "scope": "Namespaced",
        "names": {"plural": "fleets", "singular": "fleet", "kind": "Fleet"}, "versions": [{"name": "v1",
            "served": true, "storage": true, "subresources": {"scale": {"specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}}"#;
    space.apply(definition)?;
    space.kubectl.run(&[
        "wait",
        "--for=condition=Established",
        "crd/fleets.scale.example.com",
        "--timeout=30s",
    ])?;
    let fleet = r#"{"apiVersion": "scale.example.com/v1", "kind": "Fleet", "metadata": {"name": "f", "namespace": "NAMESPACE"},
        "spec": {"replicas": 1}, "status": {"replicas": 1, "selector": "app=f"}}"#;
    space.apply(fleet)?;
    let autoscaler = |name: &str, kind: &str, target: &str| {
        format!(
            r#"{{"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {{"name": "{name}", "namespace": "NAMESPACE"}},
            "spec": {{"scaleTargetRef": {{"apiVersion": "scale.example.com/v1", "kind": "{kind}", "name": "{target}"}},
            "minReplicas": 3, "maxReplicas": 5}}}}"#
        )
    };
    space.apply(&autoscaler("fleet", "Fleet", "f"))?;
    space.apply(&autoscaler("lost", "Fleet", "none"))?;
    space.apply(&autoscaler("unknown", "Nothing", "none"))?;
    space.kubectl.wait(&["fleets", "--namespace", "custom-scale"], Duration::from_secs(60), |all| {
        all.iter().any(|fleet| fleet["spec"]["replicas"] == 3).then_some(())
    })?;
    for (name, wanted) in [
        ("lost", r#"fleets.scale.example.com "none" not found"#),
        ("unknown", r#"no matches for kind "Nothing" in group "scale.example.com""#),
    ] {
        let args = [
            "horizontalpodautoscalers",
            "--namespace",
            "custom-scale",
            "--field-selector",
            &format!("metadata.name={name}"),
        ];
        let message = space.kubectl.wait(&args, Duration::from_secs(60), |all| {
            let conditions = all.iter().next()?.pointer("/status/conditions")?.as_array()?.clone();
            let able = conditions.into_iter().find(|condition| condition["type"] == "AbleToScale")?;
            (able["reason"] == "FailedGetScale").then(|| text(&able, "/message").to_owned())
        })?;
        let prefix = "the HPA controller was unable to get the target's current scale: ";
        ensure!(message == format!("{prefix}{wanted}"), "{message}");
    }
    space.kubectl.run(&["delete", "crd", "fleets.scale.example.com"])?;
    Ok(())
}
