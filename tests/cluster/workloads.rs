//! Workloads through kubectl, as a user runs them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;
use xtask::cluster::kubectl::{Watch, text};

use crate::fixture::{Space, shared};

/// Types of the events that a watch has shown for each pod, until it is silent for `timeout`.
fn seen(watch: &Watch, timeout: Duration) -> Vec<(String, String)> {
    let mut events = Vec::new();
    while let Some(event) = watch.next(Instant::now() + timeout) {
        let kind = text(&event, "/type").to_owned();
        events.push((kind, text(&event, "/object/metadata/name").to_owned()));
    }
    events
}

fn count(events: &[(String, String)], kind: &str) -> usize {
    events.iter().filter(|(of, _)| of == kind).count()
}

#[test]
fn a_deployment_is_created_scaled_changed_rolled_back_and_deleted() -> Result<()> {
    let shared = shared()?;
    let space = Space::new(&shared.cluster.kubectl, "workloads")?;
    let watch = space.kubectl.watch(&["pods", "--namespace=workloads"])?;
    space.deploy("web", 4)?;
    ensure!(space.ready_pods("app=web")?.len() == 4);
    let events = seen(&watch, Duration::from_secs(1));
    ensure!(count(&events, "ADDED") == 4, "the watch showed {events:?}");

    space.run(&["scale", "deployment/web", "--replicas=2"])?;
    space.wait_ready("app=web", 2)?;
    let events = seen(&watch, Duration::from_secs(1));
    ensure!(count(&events, "DELETED") == 2, "the watch showed {events:?}");

    space.run(&["set", "env", "deployment/web", "GREETING=hello"])?;
    space.rolled_out("web")?;
    space.wait_ready("app=web", 2)?;
    ensure!(space.exec("web", "cat /www/index.html")?.contains("hello"));
    let history = space.run(&["rollout", "history", "deployment/web"])?;
    ensure!(history.lines().filter(|line| line.starts_with(['1', '2'])).count() == 2, "{history}");

    space.run(&["rollout", "undo", "deployment/web"])?;
    space.rolled_out("web")?;
    space.wait_ready("app=web", 2)?;
    ensure!(!space.exec("web", "cat /www/index.html")?.contains("hello"));

    space.run(&["delete", "deployment", "web"])?;
    space.wait_ready("app=web", 0)?;
    let sets = space.get(&["replicasets"])?;
    ensure!(sets["items"].as_array().is_some_and(Vec::is_empty), "left: {sets}");
    Ok(())
}

#[test]
fn kubectl_shows_edits_and_explains() -> Result<()> {
    let shared = shared()?;
    let space = Space::new(&shared.cluster.kubectl, "verbs")?;
    space.deploy("web", 1)?;
    let wide = space.run(&["get", "pods", "--output=wide"])?;
    for column in ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"] {
        ensure!(wide.contains(column), "no column {column} in\n{wide}");
    }
    let described = space.run(&["describe", "pods", "--selector=app=web"])?;
    for part in ["Scheduled", "Pulled", "Created", "Started", "Successfully assigned verbs/web-"] {
        ensure!(described.contains(part), "no {part:?} in\n{described}");
    }
    space.run(&["label", "deployment/web", "tier=front"])?;
    space.run(&["annotate", "deployment/web", "note=a note"])?;
    space.run(&["patch", "deployment/web", "--patch", r#"{"spec":{"minReadySeconds":1}}"#])?;
    let merge = r#"{"spec":{"revisionHistoryLimit":3}}"#;
    space.run(&["patch", "deployment/web", "--type=merge", "--patch", merge])?;
    let json = r#"[{"op":"replace","path":"/spec/progressDeadlineSeconds","value":120}]"#;
    space.run(&["patch", "deployment/web", "--type=json", "--patch", json])?;
    let web = space.get(&["deployment", "web"])?;
    ensure!(
        text(&web, "/metadata/labels/tier") == "front"
            && text(&web, "/metadata/annotations/note") == "a note"
    );
    for (field, value) in
        [("minReadySeconds", 1), ("revisionHistoryLimit", 3), ("progressDeadlineSeconds", 120)]
    {
        ensure!(web["spec"][field] == value, "spec.{field} is {}", web["spec"][field]);
    }
    ensure!(space.run(&["explain", "deployment.spec.replicas"])?.contains("integer"));
    let resources = space.run(&["api-resources"])?;
    for resource in ["pods", "deployments", "networkpolicies", "endpointslices", "leases"] {
        ensure!(resources.contains(resource), "no {resource} in\n{resources}");
    }
    Ok(())
}

#[test]
fn logs_of_a_container_and_of_its_predecessor_can_be_read() -> Result<()> {
    let shared = shared()?;
    let space = Space::new(&shared.cluster.kubectl, "logs")?;
    let pod = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "talker", "namespace": "NAMESPACE"}, "spec": {
        "containers": [{"name": "c", "image": "localhost/skep/example:1", "command": ["sh", "-c"],
            "args": ["echo one; echo two >&2; test -e /seen/1 && sleep 1000; touch /seen/1; exit 3"],
            "volumeMounts": [{"name": "seen", "mountPath": "/seen"}]}],
        "volumes": [{"name": "seen", "emptyDir": {}}], "terminationGracePeriodSeconds": 0}}"#;
    space.apply(pod)?;
    let args = ["pods", "--namespace=logs"];
    let code = space.kubectl.wait(&args, Duration::from_secs(60), |pods| {
        let status = pods.iter().next()?.pointer("/status/containerStatuses/0")?.clone();
        (status["restartCount"] == 1 && status["ready"] == true)
            .then(|| status.pointer("/lastState/terminated/exitCode").cloned())
    })?;
    ensure!(code == Some(Value::from(3)), "the first container ended with {code:?}");
    for previous in ["--previous=true", "--previous=false"] {
        let log = space.run(&["logs", "talker", previous])?;
        ensure!(log.contains("one") && log.contains("two"), "{previous}: {log:?}");
    }
    ensure!(space.run(&["logs", "talker", "--tail=1"])?.lines().count() == 1);
    Ok(())
}

#[test]
fn an_image_that_is_not_there_is_named_and_harms_nobody() -> Result<()> {
    let shared = shared()?;
    let space = Space::new(&shared.cluster.kubectl, "images")?;
    space.run(&["create", "deployment", "bad", "--image=localhost/skep/none:7"])?;
    let args = ["pods", "--namespace=images"];
    let reason = space.kubectl.wait(&args, Duration::from_secs(60), |pods| {
        let waiting = pods.iter().next()?.pointer("/status/containerStatuses/0/state/waiting")?.clone();
        ["ErrImagePull", "ImagePullBackOff"].contains(&text(&waiting, "/reason")).then_some(waiting)
    })?;
    ensure!(text(&reason, "/message").contains("localhost/skep/none:7"), "{reason}");
    space.run(&["set", "image", "deployment/bad", &format!("none={}", xtask::image::EXAMPLE)])?;
    space.rolled_out("bad")
}
