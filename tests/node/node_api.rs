//! The kubelet API of the node itself: its logs, who may ask, its settings and what runs.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use http::Request;
use http_body_util::{BodyExt, Empty};
use serde_json::{Value, json};
use skep_node::{AgentConfig, SystemLogs};
use skep_tests::node::{NODE, TestNode, container, phase};

fn with_logs(config: &mut AgentConfig) {
    config.system_logs = SystemLogs {
        folder: config.root_dir.join("system-logs"),
        query: true,
        journal: Some(config.root_dir.join("journal")),
    };
}

/// A journal with a line of a unit at each of these seconds since 1970.
fn write_journal(folder: &Path, unit: &str, lines: &[(u64, &str)]) -> Result<()> {
    let entry = |(seconds, text): &(u64, &str)| {
        format!(
            "__REALTIME_TIMESTAMP={seconds}000000\n__MONOTONIC_TIMESTAMP={seconds}\n\
             _BOOT_ID=00000000000000000000000000000001\n_MACHINE_ID=00000000000000000000000000000002\n\
             _SYSTEMD_UNIT={unit}.service\nSYSLOG_IDENTIFIER={unit}\nMESSAGE={text}\nPRIORITY=6\n\n"
        )
    };
    std::fs::create_dir_all(folder)?;
    let mut writer = Command::new("/lib/systemd/systemd-journal-remote")
        .arg("-o")
        .arg(folder.join("node.journal"))
        .arg("-")
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("start systemd-journal-remote")?;
    let text: String = lines.iter().map(entry).collect();
    writer.stdin.take().context("stdin")?.write_all(text.as_bytes())?;
    ensure!(writer.wait()?.success(), "systemd-journal-remote failed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_logs_are_its_files_and_its_journal() -> Result<()> {
    let node = TestNode::start_with("nlog", with_logs).await?;
    node.kubelet_is_up().await?;
    let folder = node.root().join("system-logs");
    std::fs::create_dir_all(folder.join("apt"))?;
    std::fs::write(folder.join("apt/history.log"), "Start-Date: today\n")?;
    std::fs::write(folder.join("cron.log"), "cron ran\n")?;
    let lines = [(1_767_225_600, "first"), (1_767_225_660, "second"), (1_767_225_720, "third")];
    write_journal(&node.root().join("journal"), "skep-test", &lines)?;
    let missing = "\nlog not found for none\n";
    let options =
        "\noptions present and query resolved to log files for [cron]\ntry without specifying options\n";
    for (path, status, wanted) in [
        ("/logs/", 200, "<a href=\"apt/\">apt/</a>\n<a href=\"cron.log\">cron.log</a>"),
        ("/logs/apt/history.log", 200, "Start-Date: today\n"),
        ("/logs/../agent.key", 404, "404"),
        ("/logs/?query=/apt/history.log", 200, "Start-Date: today\n"),
        ("/logs/?query=cron", 200, "cron ran\n"),
        ("/logs/?query=none", 200, missing),
        ("/logs/?query=cron&tailLines=1", 200, options),
        ("/logs/?query=skep-test", 200, "first"),
        ("/logs/?query=skep-test.service", 200, "third"),
        ("/logs/?query=skep-test&tailLines=1", 200, "third"),
        ("/logs/?query=skep-test&pattern=^sec", 200, "second"),
        ("/logs/?query=skep-test&sinceTime=2026-01-01T00:01:30Z", 200, "third"),
        ("/logs/?query=skep-test&untilTime=2026-01-01T00:00:30Z", 200, "first"),
        ("/logs/?query=skep-test&boot=1", 406, "boot: Invalid value: 1: must be less than 1"),
        ("/logs/?query=skep-test&boot=x", 400, "boot: Invalid value: \"x\": strconv.Atoi"),
        ("/logs/x?query=skep-test", 406, "path not allowed in query mode"),
    ] {
        let (got, text) = node.kubelet_get(path).await?;
        assert!(got == status && text.contains(wanted), "{path}: {got} {text}");
    }
    let count = |text: &str| text.lines().filter(|line| line.contains("skep-test: ")).count();
    for (query, wanted) in [
        ("", 3),
        ("&tailLines=1", 1),
        ("&tailLines=0", 0),
        ("&pattern=ir", 2),
        ("&sinceTime=2026-01-01T00:00:30Z", 2),
        ("&untilTime=2026-01-01T00:00:30Z", 1),
        ("&sinceTime=2026-01-01T00:00:30Z&untilTime=2026-01-01T00:01:30Z", 1),
    ] {
        let (_, text) = node.kubelet_get(&format!("/logs/?query=skep-test{query}")).await?;
        assert_eq!(count(&text), wanted, "{query}: {text}");
    }
    Ok(())
}

/// A service account with these verbs on parts of nodes, and its token.
async fn account(node: &TestNode, name: &str, rules: &[(&str, &str)]) -> Result<String> {
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let metadata = json!({"name": name});
    let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata});
    node.api.create(accounts, &object).await?;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rules: Vec<Value> = rules
        .iter()
        .map(|(verb, part)| json!({"apiGroups": [""], "resources": [format!("nodes/{part}")], "verbs": [verb]}))
        .collect();
    let group = "rbac.authorization.k8s.io";
    let role = json!({
        "apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": metadata, "rules": rules,
    });
    node.api.create(&format!("{rbac}/clusterroles"), &role).await?;
    let binding = json!({
        "apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": metadata,
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}],
    });
    node.api.create(&format!("{rbac}/clusterrolebindings"), &binding).await?;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let answer = node.api.create(&format!("{accounts}/{name}/token"), &request).await?;
    Ok(answer["status"]["token"].as_str().context("a token")?.to_owned())
}

async fn ask(node: &TestNode, token: &str, path: &str) -> Result<(u16, String)> {
    let request = Request::get(path)
        .header("host", "kubelet")
        .header("authorization", format!("Bearer {token}"))
        .body(Empty::new())?;
    let response = node.kubelet(request, false).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_reaches_what_its_user_may_reach() -> Result<()> {
    let node = TestNode::start("fine").await?;
    node.kubelet_is_up().await?;
    let scraper = account(&node, "scraper", &[("get", "metrics"), ("get", "healthz")]).await?;
    let proxy = account(&node, "proxy", &[("get", "proxy")]).await?;
    let fine = account(&node, "fine", &[("get", "configz"), ("get", "pods")]).await?;
    let runner = account(&node, "runner", &[("create", "proxy")]).await?;
    let exec = "/exec/default/none/main?command=id&output=1";
    for (who, token, path, wanted) in [
        ("scraper", &scraper, "/metrics", 200),
        ("scraper", &scraper, "/metrics/resource", 200),
        ("scraper", &scraper, "/healthz", 200),
        ("scraper", &scraper, "/configz", 403),
        ("scraper", &scraper, "/pods", 403),
        ("scraper", &scraper, "/stats/summary", 403),
        ("fine", &fine, "/configz", 200),
        ("fine", &fine, "/pods", 200),
        ("fine", &fine, "/runningpods/", 200),
        ("fine", &fine, "/healthz", 403),
        ("fine", &fine, "/logs/", 403),
        ("proxy", &proxy, "/configz", 200),
        ("proxy", &proxy, "/healthz", 200),
        ("proxy", &proxy, "/metrics", 403),
        ("proxy", &proxy, exec, 403),
        // There is no such pod.
        ("runner", &runner, exec, 404),
        ("runner", &runner, "/configz", 403),
    ] {
        let (status, text) = ask(&node, token, path).await?;
        assert_eq!(status, wanted, "{who} {path}: {text}");
    }
    let (_, refusal) = ask(&node, &scraper, "/configz").await?;
    let user = "system:serviceaccount:default:scraper";
    let wanted =
        format!("Forbidden (user={user}, verb=get, resource=nodes, subresource(s)=[configz proxy])\n");
    assert_eq!(refusal, wanted);
    assert_eq!(ask(&node, "nonsense", "/metrics").await?, (401, "Unauthorized".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_shows_its_settings_and_what_runs_and_a_checkpoint_fails_as_the_runtime_says() -> Result<()>
{
    let node = TestNode::start("conf").await?;
    node.kubelet_is_up().await?;
    let json_of = |text: &str| serde_json::from_str::<Value>(text).with_context(|| text.to_owned());
    let (status, text) = node.kubelet_get("/configz").await?;
    let config = json_of(&text)?["kubeletconfig"].clone();
    assert_eq!(
        (status, &config["maxPods"], &config["kind"]),
        (200, &json!(110), &json!("KubeletConfiguration"))
    );
    let path = node.run_pod("web", json!({"containers": [container("main", "sleep 1000")]})).await?;
    node.api.wait(&path, "a running pod", |pod| phase(pod) == "Running").await?;
    let pods = json_of(&node.kubelet_get("/runningpods/").await?.1)?;
    let pod = &pods["items"][0];
    assert_eq!(
        (&pod["metadata"]["name"], &pod["spec"]["containers"][0]["name"]),
        (&json!("web"), &json!("main"))
    );
    let post = |path: &str| Request::post(path).header("host", "kubelet").body(Empty::new());
    let text = async |path: &str| {
        let response = node.kubelet(post(path)?, true).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    // containerd 1.6 has no such call.
    let (status, why) = text("/checkpoint/default/web/main").await?;
    let start = "checkpointing of default/web/main failed (";
    assert!(
        status == 500 && why.starts_with(start) && why.contains("CheckpointContainer not implemented"),
        "{status} {why}"
    );
    assert_eq!(
        text("/checkpoint/default/web/none").await?,
        (404, "container none does not exist".to_owned())
    );
    assert_eq!(text("/checkpoint/default/none/main").await?.0, 404);
    ensure!(node.api.get(&format!("/api/v1/nodes/{NODE}")).await?.is_some());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_without_streams_and_results_of_probes_are_counted() -> Result<()> {
    let node = TestNode::start("runs").await?;
    node.kubelet_is_up().await?;
    let mut main = container("main", "touch /tmp/up; sleep 1000");
    main["readinessProbe"] = json!({"exec": {"command": ["cat", "/tmp/up"]}, "periodSeconds": 1});
    main["livenessProbe"] =
        json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1000});
    let path = node.run_pod("web", json!({"containers": [main]})).await?;
    let is_ready =
        |pod: Option<&Value>| pod.is_some_and(|pod| pod["status"]["containerStatuses"][0]["ready"] == true);
    node.api.wait(&path, "a ready pod", is_ready).await?;
    let pod = node.api.get(&path).await?.unwrap_or_default();
    let run = async |method: &str, container: &str, command: &str| {
        let path = format!("/run/default/web/{container}?cmd={command}");
        let request = Request::builder().method(method).uri(path).header("host", "kubelet");
        let response = node.kubelet(request.body(Empty::new())?, true).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    assert_eq!(run("POST", "main", "echo+a%20b").await?, (200, "a b\n".to_owned()));
    let (status, why) = run("POST", "main", "ls+/none").await?;
    ensure!(status == 500 && why.starts_with("command 'ls /none' exited with 1: "), "{status} {why}");
    assert_eq!(run("POST", "none", "id").await?.0, 404);
    assert_eq!(run("GET", "main", "id").await?.0, 405);
    let uid = pod["metadata"]["uid"].as_str().context("a uid")?;
    let labels = r#"container="main",namespace="default",pod="web""#;
    let wanted = [("Liveness", "failed"), ("Readiness", "successful")].map(|(kind, result)| {
        format!("prober_probe_total{{{labels},pod_uid=\"{uid}\",probe_type=\"{kind}\",result=\"{result}\"}}")
    });
    let (_, metrics) = node.kubelet_get("/metrics/probes").await?;
    for sample in wanted {
        ensure!(metrics.contains(&sample), "no {sample} in\n{metrics}");
    }
    Ok(())
}
