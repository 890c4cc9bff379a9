//! Pods run, restart, end and are adopted.

use anyhow::Result;
use serde_json::{Value, json};
use skep_test_servers::free_address;
use skep_tests::node::{NODE, TestNode, container, phase};

fn running(pod: Option<&Value>) -> bool {
    phase(pod) == "Running" && status(pod)["ready"] == true
}

fn status(pod: Option<&Value>) -> Value {
    pod.map(|p| p["status"]["containerStatuses"][0].clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_and_is_deleted_within_its_grace() -> Result<()> {
    let node = TestNode::start("run").await?;
    let spec = json!({"terminationGracePeriodSeconds": 30,
        "containers": [container("main", "trap 'echo bye; exit 3' TERM; echo hello; while :; do sleep 0.1; done")]});
    let path = node.run_pod("web", spec).await?;
    node.api.wait(&path, "a ready pod", |p| phase(p) == "Running" && status(p)["ready"] == true).await?;
    let began = std::time::Instant::now();
    node.api.delete(&path, 30).await?;
    let ended = |p: Option<&Value>| p.is_none();
    node.api.wait(&path, "the pod's end", ended).await?;
    assert!(began.elapsed().as_secs() < 10, "SIGTERM ends it, not the grace: {:?}", began.elapsed());
    let events = node.events("web").await?;
    for reason in ["Pulled", "Created", "Started", "Killing"] {
        assert!(events.contains(reason), "{reason} in {events}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_container_restarts_at_once_and_then_backs_off() -> Result<()> {
    let node = TestNode::start("back").await?;
    let path = node
        .run_pod(
            "crash",
            json!({"restartPolicy": "Always", "containers": [container("main", "echo run; exit 7")]}),
        )
        .await?;
    let waits = |p: Option<&Value>| status(p)["state"]["waiting"]["reason"] == "CrashLoopBackOff";
    node.api.wait(&path, "a back-off", waits).await?;
    let pod = node.api.get(&path).await?.unwrap_or_default();
    assert_eq!(status(Some(&pod))["restartCount"], 1, "the first restart does not wait");
    assert_eq!(status(Some(&pod))["lastState"]["terminated"]["exitCode"], 7);
    let message = status(Some(&pod))["state"]["waiting"]["message"].to_string();
    assert!(
        message.contains("back-off 10s restarting failed container=main pod=crash_default("),
        "{message}"
    );
    assert_eq!(phase(Some(&pod)), "Running");
    assert_eq!(
        node.kubelet_get("/containerLogs/default/crash/main?previous=true").await?,
        (200, "run\n".into())
    );
    node.api.wait(&path, "the second restart", |p| status(p)["restartCount"] == 2).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_ends_keeps_its_result_and_its_log() -> Result<()> {
    let node = TestNode::start("ends").await?;
    let spec = |code: u8| {
        json!({"restartPolicy": "Never", "containers": [
            container("main", &format!("echo out; echo err >&2; echo -n why > /dev/termination-log; exit {code}"))]})
    };
    let (good, bad) = (node.run_pod("good", spec(0)).await?, node.run_pod("bad", spec(2)).await?);
    node.api.wait(&good, "success", |p| phase(p) == "Succeeded").await?;
    node.api.wait(&bad, "failure", |p| phase(p) == "Failed").await?;
    let ended = status(node.api.get(&bad).await?.as_ref())["state"]["terminated"].clone();
    assert_eq!(
        (&ended["exitCode"], &ended["reason"], &ended["message"]),
        (&json!(2), &json!("Error"), &json!("why"))
    );
    let (code, log) = node.kubelet_get("/containerLogs/default/bad/main").await?;
    assert_eq!((code, log.contains("out\n"), log.contains("err\n")), (200, true, true));
    let (code, log) = node.kubelet_get("/containerLogs/default/bad/main?tailLines=1&timestamps=true").await?;
    assert!(code == 200 && log.lines().count() == 1 && log.contains('T'), "{log}");
    let (code, message) = node.kubelet_get("/containerLogs/default/bad/none").await?;
    assert_eq!(code, 404, "{message}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_agent_takes_over_without_disturbing_the_pod() -> Result<()> {
    let mut node = TestNode::start("adopt").await?;
    let path =
        node.run_pod("stay", json!({"containers": [container("main", "while :; do sleep 1; done")]})).await?;
    let gone = node
        .run_pod(
            "gone",
            json!({"terminationGracePeriodSeconds": 1, "containers": [container("main", "sleep 1000")]}),
        )
        .await?;
    node.api.wait(&path, "a ready pod", running).await?;
    node.api.wait(&gone, "another", running).await?;
    let before = node.api.get(&path).await?.unwrap_or_default();
    node.stop_agent().await;
    node.api.delete(&gone, 0).await?;
    node.start_agent();
    let (code, list) = loop {
        // The agent listens after it has observed the runtime; there is no other sign of it.
        if let Ok(answer) = node.kubelet_get("/pods").await
            && answer.1.contains("stay")
        {
            break answer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(code, 200);
    assert!(list.contains("\"Running\""));
    let after = node.api.get(&path).await?.unwrap_or_default();
    assert_eq!(status(Some(&before))["containerID"], status(Some(&after))["containerID"]);
    assert_eq!(status(Some(&after))["restartCount"], 0);
    // The pod that was deleted meanwhile is ended, although its API object is gone.
    while node.kubelet_get("/pods").await?.1.contains("gone") {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_api_server_restarts_go_on_and_the_status_comes_later() -> Result<()> {
    let node = TestNode::start("down").await?;
    let script = "test -e /data/again && exec sleep 1000; touch /data/again; while ! test -e /data/go; do sleep 0.1; done; exit 1";
    let mut main = container("main", script);
    main["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    let folder = tempfile::tempdir()?;
    let volume = json!([{"name": "data", "hostPath": {"path": folder.path()}}]);
    let path = node.run_pod("on", json!({"containers": [main], "volumes": volume})).await?;
    node.api.wait(&path, "a ready pod", running).await?;
    node.api.set_up(false);
    std::fs::write(folder.path().join("go"), "")?;
    let restarted = async {
        while !node.kubelet_get("/pods").await.is_ok_and(|(_, text)| text.contains("\"restartCount\":1")) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), restarted).await?;
    assert_eq!(status(node.api.get(&path).await?.as_ref())["restartCount"], 0);
    node.api.set_up(true);
    node.api.wait(&path, "the late status", |p| status(p)["restartCount"] == 1 && running(p)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_image_shows_as_upstream() -> Result<()> {
    let node = TestNode::start("image").await?;
    let spec = |policy: &str| {
        let image = json!({"name": "main", "image": "127.0.0.1:1/none:1", "imagePullPolicy": policy});
        json!({"containers": [image]})
    };
    let pulled = node.run_pod("pulled", spec("IfNotPresent")).await?;
    let never = node.run_pod("never", spec("Never")).await?;
    let waits =
        |reason: &'static str| move |p: Option<&Value>| status(p)["state"]["waiting"]["reason"] == reason;
    node.api.wait(&never, "ErrImageNeverPull", waits("ErrImageNeverPull")).await?;
    node.api.wait(&pulled, "ErrImagePull", waits("ErrImagePull")).await?;
    node.api.wait(&pulled, "ImagePullBackOff", waits("ImagePullBackOff")).await?;
    assert_eq!(phase(node.api.get(&pulled).await?.as_ref()), "Pending");
    let events = node.events("pulled").await?;
    assert!(events.contains("Pulling: Pulling image \"127.0.0.1:1/none:1\""), "{events}");
    assert!(events.contains("Failed: Failed to pull image"), "{events}");
    assert!(events.contains("BackOff: Back-off pulling image"), "{events}");
    let (code, text) = node.kubelet_get("/containerLogs/default/pulled/main").await?;
    assert!(code == 400 && text.contains("waiting to start: trying and failing to pull image"), "{text}");
    Ok(())
}

/// A pod with every kind of container, volume source and variable; `settings` is its ConfigMap and its Secret.
fn every_source() -> Value {
    let mount = |name: &str| json!({"name": name, "mountPath": format!("/{name}")});
    let mut first = container("first", "echo made > /shared/file");
    first["volumeMounts"] = json!([mount("shared")]);
    let mut side = container("side", "sleep 1000");
    side["restartPolicy"] = json!("Always");
    let mut main = container(
        "main",
        "cat /shared/file /conf/color; echo; cat /all/token; echo; echo $COLOR $NAME $BOTH $CPU; \
        while :; do cat /conf/color; echo; sleep 0.1; done",
    );
    main["volumeMounts"] = json!([mount("shared"), mount("conf"), mount("all")]);
    main["resources"] = json!({"limits": {"cpu": "500m", "memory": "64Mi"}});
    main["env"] = json!([
        {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "BOTH", "value": "$(COLOR)-$(NAME)"},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
    ]);
    main["readinessProbe"] = json!({"exec": {"command": ["test", "-e", "/shared/file"]}, "periodSeconds": 1});
    let volumes = json!([
        {"name": "shared", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "conf", "configMap": {"name": "settings"}},
        {"name": "all", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token"}},
            {"secret": {"name": "settings", "items": [{"key": "key", "path": "deep/key"}]}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        ]}},
    ]);
    json!({"initContainers": [first, side], "containers": [main], "volumes": volumes, "terminationGracePeriodSeconds": 1})
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_sidecars_volumes_and_environment_reach_the_container() -> Result<()> {
    let node = TestNode::start("whole").await?;
    let object = |kind: &str, data: Value| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "settings"}, "data": data});
    let namespace = "/api/v1/namespaces/default";
    let map = |color: &str| object("ConfigMap", json!({"color": color}));
    node.api.create(&format!("{namespace}/configmaps"), &map("red")).await?;
    let secret = object("Secret", json!({"key": "c2VjcmV0"}));
    node.api.create(&format!("{namespace}/secrets"), &secret).await?;
    let path = node.run_pod("whole", every_source()).await?;
    node.api.wait(&path, "a ready pod", running).await?;
    let (_, log) = node.kubelet_get("/containerLogs/default/whole/main").await?;
    let lines: Vec<&str> = log.lines().take(4).collect();
    let ["made", "red", token, "red whole red-whole 500"] = lines[..] else { panic!("{log}") };
    assert_eq!(token.split('.').count(), 3, "a JWT: {token}");
    let pod = node.api.get(&path).await?.unwrap_or_default();
    let init = &pod["status"]["initContainerStatuses"];
    assert_eq!(
        (&init[0]["state"]["terminated"]["reason"], &init[1]["started"]),
        (&json!("Completed"), &json!(true))
    );
    assert_eq!(pod["status"]["qosClass"], "Burstable");
    node.api.replace(&format!("{namespace}/configmaps/settings"), &map("blue")).await?;
    let refreshed = async {
        while !node.kubelet_get("/containerLogs/default/whole/main?tailLines=1").await?.1.contains("blue") {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), refreshed).await??;
    node.api.delete(&path, 1).await?;
    node.api.wait(&path, "the pod's end", |p| p.is_none()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_registers_and_only_the_api_server_may_ask_it() -> Result<()> {
    let node = TestNode::start("reg").await?;
    let path = format!("/api/v1/nodes/{}", NODE);
    // A node without a status has an empty `nodeInfo` already.
    node.api.wait(&path, "a status", |n| n.is_some_and(|n| n["status"]["capacity"].is_object())).await?;
    let object = node.api.get(&path).await?.unwrap_or_default();
    assert_eq!(object["metadata"]["labels"]["kubernetes.io/hostname"], NODE);
    assert_eq!(object["status"]["capacity"]["pods"], "110");
    assert_eq!(object["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], node.address.port());
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}", NODE);
    node.api.wait(&lease, "a lease", |l| l.is_some_and(|l| l["spec"]["renewTime"].is_string())).await?;
    let first = node.api.get(&lease).await?.unwrap_or_default();
    node.api
        .wait(&lease, "a renewal", |l| {
            l.is_some_and(|l| l["spec"]["renewTime"] != first["spec"]["renewTime"])
        })
        .await?;
    let ask = |path: &str| http::Request::get(path).header("host", "x").body(http_body_util::Empty::new());
    assert_eq!(node.kubelet(ask("/healthz")?, true).await?.status(), 200);
    for path in ["/healthz", "/pods"] {
        assert_eq!(node.kubelet(ask(path)?, false).await?.status(), 401);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_and_port_forward_upgrade_through_to_the_runtime() -> Result<()> {
    let node = TestNode::start("exec").await?;
    let path = node
        .run_pod(
            "web",
            json!({"terminationGracePeriodSeconds": 0, "containers": [container("main", "sleep 1000")]}),
        )
        .await?;
    node.api.wait(&path, "a ready pod", running).await?;
    let request = http::Request::post("/exec/default/web/main?command=echo&command=hello&output=1&error=1")
        .header("host", "kubelet")
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .header("x-stream-protocol-version", "v4.channel.k8s.io")
        .body(http_body_util::Empty::new())?;
    let response = node.kubelet(request, true).await?;
    assert_eq!(response.status(), 101);
    assert_eq!(
        response.headers().get("x-stream-protocol-version").map(|v| v.as_bytes()),
        Some(&b"v4.channel.k8s.io"[..])
    );
    let (code, text) = node.kubelet_get("/exec/default/web/none?command=ls&output=1").await?;
    assert_eq!(code, 404, "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v5_websocket_client_ends_its_input_and_gets_the_exit_code() -> Result<()> {
    let node = TestNode::start("ws").await?;
    let path = node
        .run_pod(
            "web",
            json!({"terminationGracePeriodSeconds": 0, "containers": [container("main", "sleep 1000")]}),
        )
        .await?;
    node.api.wait(&path, "a ready pod", running).await?;
    let script = "cat%3B%20echo%20done%20%3E%262%3B%20exit%205";
    let query = format!("command=sh&command=-c&command={script}&input=1&output=1&error=1");
    let got = node.exec_v5(&format!("/exec/default/web/main?{query}"), b"some input").await?;
    assert_eq!(got.get(&1).map(String::as_str), Some("some input"));
    assert_eq!(got.get(&2).map(String::as_str), Some("done\n"));
    let status: Value = serde_json::from_str(got.get(&3).map_or("", String::as_str))?;
    assert_eq!(
        (&status["reason"], &status["details"]["causes"][0]["message"]),
        (&json!("NonZeroExitCode"), &json!("5"))
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_runtime_disturbs_no_pod_and_loses_no_exit() -> Result<()> {
    let mut node = TestNode::start("crun").await?;
    let folder = tempfile::tempdir()?;
    let script = "while ! test -e /data/go; do sleep 0.1; done; exit 4";
    let mut main = container("main", script);
    main["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    let volume = json!([{"name": "data", "hostPath": {"path": folder.path()}}]);
    let spec = json!({"restartPolicy": "Never", "containers": [main], "volumes": volume});
    let path = node.run_pod("on", spec).await?;
    node.api.wait(&path, "a ready pod", running).await?;
    tokio::task::block_in_place(|| node.containerd.restart())?;
    assert!(running(node.api.get(&path).await?.as_ref()));
    std::fs::write(folder.path().join("go"), "")?;
    node.api.wait(&path, "the exit", |p| phase(p) == "Failed").await?;
    assert_eq!(status(node.api.get(&path).await?.as_ref())["state"]["terminated"]["exitCode"], 4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_run_and_probes_over_http_and_tcp_decide() -> Result<()> {
    let node = TestNode::start("probe").await?;
    let folder = tempfile::tempdir()?;
    let port = free_address()?.port();
    let mut main = container(
        "main",
        &format!("mkdir -p /www; echo ok > /www/ready; httpd -f -p 127.0.0.1:{port} -h /www"),
    );
    main["ports"] = json!([{"name": "web", "containerPort": port}]);
    main["startupProbe"] = json!({"tcpSocket": {"port": port}, "periodSeconds": 1});
    main["readinessProbe"] =
        json!({"httpGet": {"path": "/ready", "port": "web"}, "periodSeconds": 1, "failureThreshold": 1});
    main["livenessProbe"] = json!({"httpGet": {"path": "/gone", "port": "web"}, "periodSeconds": 1, "initialDelaySeconds": 4,
        "failureThreshold": 1, "terminationGracePeriodSeconds": 1});
    main["lifecycle"] = json!({"postStart": {"exec": {"command": ["touch", "/data/started"]}},
        "preStop": {"exec": {"command": ["touch", "/data/stopping"]}}});
    main["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    let volume = json!([{"name": "data", "hostPath": {"path": folder.path()}}]);
    let path = node
        .run_pod("web", json!({"containers": [main], "volumes": volume, "terminationGracePeriodSeconds": 1}))
        .await?;
    node.api.wait(&path, "a ready pod", running).await?;
    assert!(folder.path().join("started").exists());
    node.api.wait(&path, "a restart by the liveness probe", |p| status(p)["restartCount"] == 1).await?;
    assert!(folder.path().join("stopping").exists());
    let events = node.events("web").await?;
    assert!(
        events.contains("Unhealthy: Liveness probe failed: HTTP probe failed with statuscode: 404"),
        "{events}"
    );
    assert!(events.contains("Killing: Container main failed liveness probe, will be restarted"), "{events}");
    Ok(())
}
