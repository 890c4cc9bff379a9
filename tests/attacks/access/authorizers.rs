//! Authorization webhooks: asked in order, believed when they are clear, and never a way around what denies.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use skep_apiserver::Identity;
use tempfile::TempDir;

use super::reviewer::Reviewer;
use super::{World, get, post, send};

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEADLINE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A server with webhooks among its authorizers.
struct WebhookWorld {
    inner: World,
    file: PathBuf,
    kubeconfig: PathBuf,
    _folder: TempDir,
}

fn node() -> Value {
    json!({"type": "Node", "name": "node"})
}

fn rbac() -> Value {
    json!({"type": "RBAC", "name": "rbac"})
}

impl WebhookWorld {
    /// `authorizers` makes the list from the path of the webhook's kubeconfig.
    async fn start(
        reviewer: &Reviewer,
        authorizers: impl FnOnce(&dyn Fn(Value) -> Value) -> Value,
    ) -> Result<WebhookWorld> {
        let folder = tempfile::tempdir()?;
        let (file, kubeconfig) = (folder.path().join("authorization"), folder.path().join("webhook"));
        reviewer.write_kubeconfig(&kubeconfig)?;
        let list = authorizers(&|change| webhook(&kubeconfig, change));
        write(&file, &list)?;
        let source = file.clone();
        let inner = World::start_with(|config| config.access.authorization = Some(source)).await?;
        Ok(WebhookWorld { inner, file, kubeconfig, _folder: folder })
    }

    async fn code(&self, user: &str, path: &str) -> Result<u16> {
        Ok(get(&self.inner.user(user), path).await?.0)
    }

    async fn has_metric(&self, line: &str) -> Result<()> {
        let start = Instant::now();
        loop {
            let (_, text) = get(&self.inner.admin, "/metrics").await?;
            if text.as_str().unwrap_or_default().lines().any(|found| found == line) {
                return Ok(());
            }
            ensure!(start.elapsed() < DEADLINE, "no {line} within {DEADLINE:?}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// A webhook's entry with these changes.
fn webhook(kubeconfig: &std::path::Path, change: Value) -> Value {
    let mut webhook = json!({
        "timeout": "3s", "subjectAccessReviewVersion": "v1", "matchConditionSubjectAccessReviewVersion": "v1",
        "failurePolicy": "Deny", "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": kubeconfig},
    });
    for (name, value) in change.as_object().into_iter().flatten() {
        webhook[name] = value.clone();
    }
    json!({"type": "Webhook", "name": "policy", "webhook": webhook})
}

fn write(file: &std::path::Path, authorizers: &Value) -> Result<()> {
    let text = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration", "authorizers": authorizers,
    });
    let new = file.with_extension("new");
    std::fs::write(&new, text.to_string())?;
    Ok(std::fs::rename(new, file)?)
}

/// Decides by the user's name.
fn by_name(spec: &Value) -> Result<Value, u16> {
    Ok(match spec["user"].as_str().unwrap_or_default() {
        "allowed" => json!({"allowed": true, "reason": "friend"}),
        "denied" => json!({"allowed": false, "denied": true, "reason": "foe"}),
        "both" => json!({"allowed": true, "denied": true}),
        "text" => json!({"allowed": "true"}),
        "null" => Value::Null,
        "broken" => return Err(404),
        _ => json!({"allowed": false}),
    })
}

#[tokio::test]
async fn a_webhook_decides_before_rbac_and_only_when_it_is_clear() -> Result<()> {
    let reviewer = Reviewer::start(by_name).await?;
    let world =
        WebhookWorld::start(&reviewer, |webhook| json!([webhook(Value::Null), node(), rbac()])).await?;
    let read = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]}]);
    for user in ["denied", "both", "text", "null", "broken", "granted"] {
        world.inner.grant(user, read.clone()).await?;
    }
    for (user, wanted) in [
        // Of the webhook.
        ("allowed", 200),
        ("denied", 403),
        // It has no opinion: RBAC decides.
        ("granted", 200),
        ("nobody", 403),
        ("text", 200),
        // It fails, and its policy is to deny: whatever RBAC says.
        ("both", 500),
        ("null", 500),
        ("broken", 500),
    ] {
        assert_eq!(world.code(user, PODS).await?, wanted, "{user}");
    }
    let (_, answer) = get(&world.inner.user("denied"), PODS).await?;
    let message = "pods is forbidden: User \"denied\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\": foe";
    assert_eq!(answer["message"], message);
    let (_, answer) = get(&world.inner.user("broken"), PODS).await?;
    assert!(
        !answer.to_string().contains("127.0.0.1"),
        "the webhook's address is not the user's to know: {answer}"
    );
    // Webhooks are not asked about superusers.
    let before = reviewer.asked().len();
    let denied_admin = world.inner.server.client_of(Identity::new("denied", &["system:masters"]));
    assert_eq!(get(&denied_admin, PODS).await?.0, 200);
    assert_eq!(reviewer.asked().len(), before);
    for (user, wanted) in [
        ("allowed", json!({"allowed": true, "reason": "friend"})),
        ("denied", json!({"allowed": false, "denied": true, "reason": "foe"})),
        ("broken", json!({"allowed": false, "evaluationError": "authorization webhook \"policy\" failed"})),
    ] {
        let spec = json!({"user": user, "resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}});
        let review =
            json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
        assert_eq!(world.inner.create(REVIEWS, review).await?["status"], wanted, "{user}");
    }
    Ok(())
}

#[tokio::test]
async fn a_webhook_gets_what_the_request_is_about() -> Result<()> {
    let reviewer = Reviewer::start(|_| Ok(json!({"allowed": true}))).await?;
    let world = WebhookWorld::start(&reviewer, |webhook| {
        json!([webhook(json!({"subjectAccessReviewVersion": "v1beta1"})), node(), rbac()])
    })
    .await?;
    let identity = Identity {
        uid: "7".to_owned(),
        extra: [("example.org/a".to_owned(), vec!["b".to_owned()])].into(),
        ..Identity::new("jane", &["staff"])
    };
    let client = world.inner.server.client_of(identity);
    get(
        &client,
        "/apis/apps/v1/namespaces/a/deployments?labelSelector=x%20in%20(y,z)&fieldSelector=metadata.name%3Dd",
    )
    .await?;
    get(&client, "/version").await?;
    let user = |mut spec: Value| {
        for (name, value) in [
            ("user", json!("jane")),
            ("uid", json!("7")),
            ("group", json!(["staff", "system:authenticated"])),
            ("extra", json!({"example.org/a": ["b"]})),
        ] {
            spec[name] = value;
        }
        spec
    };
    assert_eq!(
        reviewer.asked(),
        [
            user(json!({"resourceAttributes": {
                "namespace": "a", "verb": "list", "group": "apps", "version": "v1", "resource": "deployments", "name": "d",
                "fieldSelector": {"requirements": [{"key": "metadata.name", "operator": "In", "values": ["d"]}]},
                "labelSelector": {"requirements": [{"key": "x", "operator": "In", "values": ["y", "z"]}]},
            }})),
            user(json!({"nonResourceAttributes": {"path": "/version", "verb": "get"}})),
        ]
    );
    Ok(())
}

#[tokio::test]
async fn a_failure_without_a_denying_policy_leaves_the_others_to_decide() -> Result<()> {
    let reviewer = Reviewer::start(|_| Err(404)).await?;
    let open = json!({"failurePolicy": "NoOpinion"});
    let world = WebhookWorld::start(&reviewer, |webhook| json!([webhook(open), node(), rbac()])).await?;
    world
        .inner
        .grant("granted", json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]))
        .await?;
    assert_eq!(world.code("granted", PODS).await?, 200);
    assert_eq!(world.code("nobody", PODS).await?, 500, "whether the user may is not known");
    world
        .has_metric(
            "apiserver_authorization_webhook_evaluations_fail_open_total{name=\"policy\",result=\"error\"} 2",
        )
        .await
}

#[tokio::test]
async fn match_conditions_leave_requests_out_and_their_errors_are_failures() -> Result<()> {
    let reviewer = Reviewer::start(|_| Ok(json!({"allowed": false, "denied": true}))).await?;
    let conditions = json!({"matchConditions": [
        {"expression": "has(request.resourceAttributes)"},
        {"expression": "request.resourceAttributes.namespace == 'default'"},
        {"expression": "request.extra['example.org/a'][0] == 'b' || 'staff' in request.groups"},
    ]});
    let world =
        WebhookWorld::start(&reviewer, |webhook| json!([webhook(conditions), node(), rbac()])).await?;
    let all = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    world.inner.grant("jane", all).await?;
    let staff = world.inner.server.client_of(Identity::new("jane", &["staff"]));
    assert_eq!(get(&staff, "/version").await?.0, 200, "no resource");
    assert_eq!(get(&staff, "/api/v1/namespaces/other/pods").await?.0, 200, "another namespace");
    assert!(reviewer.asked().is_empty());
    assert_eq!(get(&staff, PODS).await?.0, 403);
    assert_eq!(reviewer.asked().len(), 1);
    // The third condition has no value for her, and the policy is to deny.
    assert_eq!(world.code("jane", PODS).await?, 500);
    assert_eq!(reviewer.asked().len(), 1);
    world
        .has_metric(
            "apiserver_authorization_match_condition_exclusions_total{type=\"Webhook\",name=\"policy\"} 2",
        )
        .await?;
    world.has_metric("apiserver_authorization_match_condition_evaluation_errors_total{type=\"Webhook\",name=\"policy\"} 1").await
}

#[tokio::test]
async fn answers_are_kept_as_long_as_the_configuration_says() -> Result<()> {
    for (change, wanted) in [
        (json!({}), [1, 1]),
        (json!({"cacheAuthorizedRequests": false}), [3, 1]),
        (json!({"cacheUnauthorizedRequests": false}), [1, 3]),
        (json!({"authorizedTTL": "1ns", "unauthorizedTTL": "1ns"}), [3, 3]),
    ] {
        let reviewer = Reviewer::start(by_name).await?;
        let world =
            WebhookWorld::start(&reviewer, |webhook| json!([webhook(change.clone()), node(), rbac()]))
                .await?;
        for _ in 0..3 {
            assert_eq!(world.code("allowed", PODS).await?, 200);
            assert_eq!(world.code("denied", PODS).await?, 403);
        }
        let asked = reviewer.asked();
        let count = |user: &str| asked.iter().filter(|spec| spec["user"] == user).count();
        assert_eq!([count("allowed"), count("denied")], wanted, "{change}");
        // A question that is too long is not kept: names are the requester's.
        let long = format!("{PODS}/{}", "a".repeat(10_000));
        for _ in 0..2 {
            world.code("allowed", &long).await?;
        }
        assert_eq!(reviewer.asked().len(), asked.len() + 2);
    }
    Ok(())
}

#[tokio::test]
async fn a_changed_file_is_used_and_a_bad_one_changes_nothing() -> Result<()> {
    let reviewer = Reviewer::start(by_name).await?;
    let world =
        WebhookWorld::start(&reviewer, |webhook| json!([webhook(Value::Null), node(), rbac()])).await?;
    assert_eq!(world.code("allowed", PODS).await?, 200);
    let reloads = |status: &str, count: u32| {
        format!(
            "apiserver_authorization_config_controller_automatic_reloads_total{{status=\"{status}\"}} {count}"
        )
    };
    let always = webhook(&world.kubeconfig, Value::Null);
    for (count, bad) in [
        json!([{"type": "Nobody", "name": "x"}]),
        // Without RBAC, which there was at the start.
        json!([always, node()]),
        json!([webhook(&PathBuf::from("/no-such-file"), Value::Null), node(), rbac()]),
    ]
    .into_iter()
    .enumerate()
    {
        write(&world.file, &bad)?;
        world.has_metric(&reloads("failure", u32::try_from(count)? + 1)).await?;
        assert_eq!(world.code("allowed", PODS).await?, 200, "{bad}");
    }
    write(&world.file, &json!([node(), rbac()]))?;
    world.has_metric(&reloads("success", 1)).await?;
    assert_eq!(world.code("allowed", PODS).await?, 403);
    Ok(())
}

/// Other questions than those about the request itself have the same answers.
#[tokio::test(flavor = "multi_thread")]
async fn impersonation_grants_and_policies_ask_the_webhook_too() -> Result<()> {
    let reviewer = Reviewer::start(|spec| {
        let verb = spec["resourceAttributes"]["verb"].as_str().unwrap_or_default();
        let denied = verb.starts_with("impersonate") || matches!(verb, "escalate" | "inspect");
        Ok(if denied { json!({"denied": true, "allowed": false}) } else { json!({"allowed": false}) })
    })
    .await?;
    let world =
        WebhookWorld::start(&reviewer, |webhook| json!([webhook(Value::Null), node(), rbac()])).await?;
    world.inner.grant("jane", json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}])).await?;
    let jane = world.inner.user("jane");
    let (code, _) = send(&jane, http::Method::GET, PODS, &[("impersonate-user", "joe")], None).await?;
    assert_eq!(code, 403);
    // She holds all rights to resources, but not to paths; the verb that would do is denied.
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "more"},
        "rules": [{"nonResourceURLs": ["*"], "verbs": ["*"]}],
    });
    let (code, answer) = post(&jane, "/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await?;
    assert_eq!(code, 403, "{answer}");
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "inspected"},
        "spec": {
            "matchConstraints": {"resourceRules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]},
            ]},
            "validations": [{"expression": "authorizer.group('').resource('configmaps').check('inspect').allowed()"}],
        },
    });
    world.inner.create("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies", policy).await?;
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "inspected"}, "spec": {"policyName": "inspected", "validationActions": ["Deny"]},
    });
    world
        .inner
        .create("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings", binding)
        .await?;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    let (code, answer) = post(&jane, "/api/v1/namespaces/default/configmaps", map).await?;
    assert_eq!(code, 422, "{answer}");
    let verbs: Vec<Value> =
        reviewer.asked().iter().map(|spec| spec["resourceAttributes"]["verb"].clone()).collect();
    for verb in ["impersonate", "escalate", "inspect"] {
        assert!(verbs.contains(&json!(verb)), "{verb}: {verbs:?}");
    }
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "default"}});
    let (_, answer) = post(&jane, "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review).await?;
    let status = &answer["status"];
    assert_eq!(status["incomplete"], true);
    assert_eq!(status["evaluationError"], "webhook authorizer does not support user rule resolution");
    Ok(())
}
