//! Pods whose resources, image or labels change while they run.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use skep_tests::node::{TestNode, container, phase};

fn status(pod: Option<&Value>) -> Value {
    pod.map(|p| p["status"]["containerStatuses"][0].clone()).unwrap_or_default()
}

fn resources(cpu: &str, memory: &str) -> Value {
    let list = json!({"cpu": cpu, "memory": memory});
    json!({"requests": list, "limits": list})
}

fn condition<'a>(pod: Option<&'a Value>, kind: &str) -> Option<&'a Value> {
    pod?["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

async fn resize(node: &TestNode, path: &str, resources: Value) -> Result<()> {
    let patch = json!({"spec": {"containers": [{"name": "main", "resources": resources}]}});
    node.api.patch(&format!("{path}/resize"), &patch).await.map(drop)
}

/// The limit of a container's memory, from its cgroup.
fn memory_limit(node: &TestNode, pod: Option<&Value>) -> Result<String> {
    let id = status(pod)["containerID"].as_str().unwrap_or_default().replace("containerd://", "");
    let files = ["memory/{}/memory.limit_in_bytes", "{}/memory.max"];
    let paths = files
        .map(|file| format!("/sys/fs/cgroup/{}", file.replace("{}", &format!("{}/{id}", node.cgroup()))));
    let text = paths.iter().find_map(|path| std::fs::read_to_string(path).ok());
    Ok(text.with_context(|| format!("none of {paths:?}"))?.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_container_gets_other_resources() -> Result<()> {
    let node = TestNode::start("resize").await?;
    let mut main = container("main", "while :; do sleep 1; done");
    main["resources"] = resources("100m", "64Mi");
    let path = node.run_pod("web", json!({"terminationGracePeriodSeconds": 0, "containers": [main]})).await?;
    node.api.wait(&path, "a ready pod", |p| status(p)["ready"] == true).await?;
    let before = node.api.get(&path).await?;
    let started = status(before.as_ref());
    assert_eq!(started["resources"], resources("100m", "64Mi"), "{started}");
    assert_eq!(started["allocatedResources"], json!({"cpu": "100m", "memory": "64Mi"}));
    assert_eq!(memory_limit(&node, before.as_ref())?, (64 << 20).to_string());

    resize(&node, &path, resources("200m", "128Mi")).await?;
    let settled = |p: Option<&Value>, wanted: &Value| {
        status(p)["resources"] == *wanted && condition(p, "PodResizeInProgress").is_none()
    };
    node.api.wait(&path, "the new resources", |p| settled(p, &resources("200m", "128Mi"))).await?;
    let after = node.api.get(&path).await?;
    let changed = status(after.as_ref());
    assert_eq!((&changed["containerID"], &changed["restartCount"]), (&started["containerID"], &json!(0)));
    assert_eq!(memory_limit(&node, after.as_ref())?, (128 << 20).to_string());

    resize(&node, &path, resources("1", "1Ti")).await?;
    node.api.wait(&path, "a condition", |p| condition(p, "PodResizePending").is_some()).await?;
    let pod = node.api.get(&path).await?;
    let pending = condition(pod.as_ref(), "PodResizePending").cloned().unwrap_or_default();
    assert_eq!((&pending["status"], &pending["reason"]), (&json!("True"), &json!("Infeasible")));
    assert_eq!(pending["observedGeneration"], 3);
    assert_eq!(status(pod.as_ref())["allocatedResources"], json!({"cpu": "200m", "memory": "128Mi"}));

    resize(&node, &path, resources("150m", "96Mi")).await?;
    node.api.wait(&path, "less", |p| settled(p, &resources("150m", "96Mi"))).await?;
    assert!(condition(node.api.get(&path).await?.as_ref(), "PodResizePending").is_none());
    let events = node.events("web").await?;
    for reason in ["ResizeStarted: Pod resize started: {", "ResizeCompleted: ", "ResizeInfeasible: "] {
        assert!(events.contains(reason), "{reason} in {events}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resize_waits_for_room_and_outlives_the_agent() -> Result<()> {
    let mut node = TestNode::start("waits").await?;
    let of_cpu = |cpu: &str| {
        let mut main = container("main", "while :; do sleep 1; done");
        main["resources"] = json!({"requests": {"cpu": cpu}});
        json!({"terminationGracePeriodSeconds": 0, "containers": [main]})
    };
    let cores = std::thread::available_parallelism()?.get();
    let (small, large) = ("200m", format!("{}m", cores * 1000 - 100));
    let (web, other) =
        (node.run_pod("web", of_cpu(small)).await?, node.run_pod("other", of_cpu(small)).await?);
    node.api.wait(&web, "a ready pod", |p| status(p)["ready"] == true).await?;
    node.api.wait(&other, "another", |p| status(p)["ready"] == true).await?;
    resize(&node, &web, json!({"requests": {"cpu": large}})).await?;
    let waits =
        |p: Option<&Value>| condition(p, "PodResizePending").is_some_and(|c| c["reason"] == "Deferred");
    node.api.wait(&web, "a condition", waits).await?;
    node.stop_agent().await;
    node.start_agent();
    // It still has what it had: a pod that needs the rest of the node fits.
    let third = node.run_pod("third", of_cpu(&format!("{}m", cores * 1000 - 400))).await?;
    node.api.wait(&third, "a running pod", |p| phase(p) == "Running").await?;
    assert!(waits(node.api.get(&web).await?.as_ref()));
    node.api.delete(&third, 0).await?;
    node.api.delete(&other, 0).await?;
    let given = |p: Option<&Value>| {
        status(p)["allocatedResources"]["cpu"] == large && condition(p, "PodResizePending").is_none()
    };
    node.api.wait(&web, "the resources", given).await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_downward_api_follow_labels_and_another_image_restarts_the_container() -> Result<()> {
    let node = TestNode::start("fields").await?;
    let mut main = container("main", "while :; do cat /fields/labels; echo; sleep 0.1; done");
    main["volumeMounts"] = json!([{"name": "fields", "mountPath": "/fields"}]);
    let items = json!([{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]);
    let spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [main],
        "volumes": [{"name": "fields", "downwardAPI": {"items": items}}]});
    let path = node.run_pod("web", spec).await?;
    node.api.wait(&path, "a ready pod", |p| status(p)["ready"] == true).await?;
    node.api.patch(&path, &json!({"metadata": {"labels": {"color": "blue"}}})).await?;
    let shown = async {
        let log = "/containerLogs/default/web/main?tailLines=2";
        while !node.kubelet_get(log).await?.1.contains("color=\"blue\"") {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), shown).await??;
    let other = json!({"spec": {"containers": [{"name": "main", "image": "localhost/skep/pause:1"}]}});
    node.api.patch(&path, &other).await?;
    node.api.wait(&path, "a restart", |p| status(p)["restartCount"] == 1).await?;
    let events = node.events("web").await?;
    assert!(events.contains("Killing: Container main definition changed, will be restarted"), "{events}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_log_without_a_newline_is_the_message() -> Result<()> {
    let node = TestNode::start("tail").await?;
    let mut main = container("main", "printf DONE; exit 1");
    main["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
    let mut second = container("second", "echo never");
    second["restartPolicy"] = Value::Null;
    let spec = json!({"restartPolicy": "Never", "initContainers": [main, second], "containers": [container("after", "true")]});
    let path = node.run_pod("web", spec).await?;
    node.api.wait(&path, "a failure", |p| phase(p) == "Failed").await?;
    let pod = node.api.get(&path).await?.unwrap_or_default();
    let init = &pod["status"]["initContainerStatuses"];
    assert_eq!(init[0]["state"]["terminated"]["message"], "DONE");
    assert_eq!(init[1]["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!(node.kubelet_get("/containerLogs/default/web/main").await?, (200, "DONE".into()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_containers_of_a_pod_share_the_resources_of_the_pod() -> Result<()> {
    let node = TestNode::start("share").await?;
    let main = container("main", "while :; do sleep 1; done");
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [main], "resources": resources("500m", "64Mi")});
    let path = node.run_pod("web", spec).await?;
    node.api.wait(&path, "a ready pod", |p| status(p)["ready"] == true).await?;
    let pod = node.api.get(&path).await?.unwrap_or_default();
    assert_eq!(pod["status"]["qosClass"], "Guaranteed");
    let own = format!("{}/pod{}", node.cgroup(), pod["metadata"]["uid"].as_str().unwrap_or_default());
    let read = |files: [&str; 2]| {
        let text = files.iter().find_map(|file| std::fs::read_to_string(file).ok());
        text.map(|text| text.trim().to_owned()).with_context(|| format!("none of {files:?}"))
    };
    let v1 = |controller: &str, file: &str| format!("/sys/fs/cgroup/{controller}/{own}/{file}");
    let v2 = |file: &str| format!("/sys/fs/cgroup/{own}/{file}");
    let memory = read([&v1("memory", "memory.limit_in_bytes"), &v2("memory.max")])?;
    assert_eq!(memory, (64 << 20).to_string());
    let quota = read([&v1("cpu", "cpu.cfs_quota_us"), &v2("cpu.max")])?;
    assert_eq!(quota.split(' ').next(), Some("50000"));
    node.api.delete(&path, 0).await?;
    node.api.wait(&path, "the pod's end", |p| p.is_none()).await?;
    let gone = async {
        while std::path::Path::new(&v1("memory", "")).exists() || std::path::Path::new(&v2("")).exists() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), gone).await?;
    Ok(())
}
