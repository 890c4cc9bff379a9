//! The audit log of a running server follows its policy.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams, WatchParams};
use serde_json::{Value, json};

use crate::harness::{Server, refusal};

const POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, users: ['system:kube-controller-manager']}
- {level: None, userGroups: ['system:serviceaccounts:kube-system']}
- {level: Metadata, verbs: [watch], resources: [{group: '', resources: [configmaps]}]}
- {level: RequestResponse, namespaces: [default]}
";
const SECRET: &str = "correct-horse-battery-staple";

fn flags(folder: &Path, policy: &str) -> Vec<String> {
    let file = folder.join("policy.yaml");
    std::fs::write(&file, policy).unwrap();
    vec![
        format!("--audit-policy-file={}", file.display()),
        format!("--audit-log-path={}", folder.join("audit.log").display()),
    ]
}

fn events(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("audit.log")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits for an event; another thread writes it.
async fn find(folder: &Path, verb: &str, resource: &str, stage: &str) -> Value {
    let start = Instant::now();
    loop {
        let found = events(folder).into_iter().find(|event| {
            event["verb"] == verb && event["objectRef"]["resource"] == resource && event["stage"] == stage
        });
        if let Some(event) = found {
            return event;
        }
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "no {verb} {resource} {stage}: {:#?}",
            events(folder)
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_recorded_by_policy_and_secrets_never() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let server = Server::start(&folder.join("data"), &flags(folder, POLICY)).await;
    let client = server.client().await;
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let secrets: Api<Secret> = Api::namespaced(client, "default");
    let config = serde_json::from_value(json!({"metadata": {"name": "c"}, "data": {"a": "b"}})).unwrap();
    let secret =
        serde_json::from_value(json!({"metadata": {"name": "s"}, "stringData": {"p": SECRET}})).unwrap();
    configs.create(&PostParams::default(), &config).await.unwrap();
    secrets.create(&PostParams::default(), &secret).await.unwrap();
    secrets.list(&ListParams::default()).await.unwrap();
    let mut watch = configs.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    watch.next().await.unwrap().unwrap();
    configs.delete("missing", &DeleteParams::default()).await.unwrap_err();

    let created = find(folder, "create", "configmaps", "ResponseComplete").await;
    assert_eq!(created["level"], "RequestResponse");
    assert_eq!(created["user"]["username"], "kubernetes-admin");
    assert_eq!(created["requestObject"]["data"]["a"], "b");
    assert_eq!(created["responseObject"]["metadata"]["name"], "c");
    assert!(created["responseObject"]["metadata"].get("managedFields").is_none());
    assert_eq!(created["responseStatus"]["code"], 201);
    assert_eq!(
        created["objectRef"],
        json!({"resource": "configmaps", "namespace": "default", "apiVersion": "v1", "name": "c"})
    );
    assert_eq!(created["sourceIPs"], json!(["127.0.0.1"]));
    let sealed = find(folder, "create", "secrets", "ResponseComplete").await;
    assert_eq!((&sealed["level"], &sealed["objectRef"]["name"]), (&json!("Metadata"), &json!("s")));
    assert!(sealed.get("requestObject").is_none() && sealed.get("responseObject").is_none());
    find(folder, "list", "secrets", "ResponseComplete").await;
    let failed = find(folder, "delete", "configmaps", "ResponseComplete").await;
    assert_eq!(failed["responseStatus"]["reason"], "NotFound");

    let began = find(folder, "watch", "configmaps", "ResponseStarted").await;
    let complete =
        |event: &Value| event["auditID"] == began["auditID"] && event["stage"] == "ResponseComplete";
    assert!(!events(folder).iter().any(complete), "the watch is still open");
    drop(watch);
    find(folder, "watch", "configmaps", "ResponseComplete").await;
    assert!(events(folder).iter().any(complete));

    let text = std::fs::read_to_string(folder.join("audit.log")).unwrap();
    assert!(!text.contains(SECRET) && !text.contains("Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5LXN0YXBsZQ"));
    assert!(!text.contains("RequestReceived\"") && !text.contains("kube-controller-manager"));
}

#[test]
fn an_invalid_policy_is_reported_with_its_file_and_field() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let wrong = POLICY.replace("users: ['system:kube-controller-manager']", "nonResourceURLs: [healthz]");
    let output = refusal(&folder.join("data"), &flags(folder, &wrong));
    assert!(output.contains("policy.yaml: rules[0].nonResourceURLs[0]"), "{output}");
    let output = refusal(&folder.join("data"), &flags(folder, POLICY)[..1]);
    assert!(output.contains("--audit-log-path"), "{output}");
}
