//! Admission as users meet it: webhooks, policies, pod security, limits.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::Server;
use crate::webhook::Webhook;

/// What the webhook of the tests says on its paths.
fn answer(path: &str, request: &Value) -> Value {
    let data = &request["object"]["data"];
    match path {
        "deny" if request["operation"] == "DELETE" => {
            let kept = request["oldObject"]["data"]["keep"] == "true";
            json!({"allowed": !kept, "status": {"message": "this one is kept", "code": 403, "reason": "Forbidden"}})
        }
        "deny" => {
            let bad = data["bad"] == "true";
            json!({"allowed": !bad, "status": {"message": "this one is bad"}, "warnings": ["looked at"]})
        }
        // One sees what the other left, if it asked to be called again.
        "first" => {
            let seen = if data["second"].is_string() { "again" } else { "once" };
            patch(&json!([{"op": "add", "path": "/data/first", "value": seen}]))
        }
        "second" => patch(&json!([{"op": "add", "path": "/data/second", "value": "here"}])),
        "pod" => patch(&json!([
            {"op": "add", "path": "/spec/containers/-", "value": {"name": "side", "image": "side:1"}},
            {"op": "add", "path": "/spec/nonsense", "value": 1},
        ])),
        "connect" => {
            let what = format!("{} of {}", request["object"]["kind"], request["name"]);
            json!({"allowed": false, "status": {"message": what}})
        }
        "scale" => {
            let (old, new) =
                (&request["oldObject"]["spec"]["replicas"], &request["object"]["spec"]["replicas"]);
            let more = new.as_i64() > old.as_i64();
            json!({"allowed": !more, "status": {"message": format!("{} from {old} to {new}", request["kind"]["kind"])}})
        }
        "broken" => json!({"allowed": true, "patch": "!", "patchType": "JSONPatch"}),
        _ => json!({"allowed": false}),
    }
}

pub(crate) fn patch(patch: &Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string())})
}

pub(crate) fn rules(resource: &str) -> Value {
    json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": [resource]}])
}

pub(crate) fn hook(name: &str, client: &Value, more: &Value) -> Value {
    let mut hook = json!({
        "name": format!("{name}.example.com"), "clientConfig": client, "rules": rules("configmaps"),
        "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "objectSelector": {"matchLabels": {"hook": name}},
    });
    for (field, value) in more.as_object().unwrap() {
        hook[field] = value.clone();
    }
    hook
}

pub(crate) fn configuration(kind: &str, name: &str, hooks: &[Value]) -> String {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "webhooks": hooks,
    })
    .to_string()
}

pub(crate) fn map(name: &str, label: &str, data: &Value) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"hook": label}},
        "data": data})
    .to_string()
}

pub(crate) const VALIDATING: &str = "ValidatingWebhookConfiguration";
pub(crate) const MUTATING: &str = "MutatingWebhookConfiguration";

#[tokio::test(flavor = "multi_thread")]
async fn validating_webhooks_decide_on_the_requests_that_they_match() {
    let (server, webhook) = (Server::start().await, Webhook::start(answer).await);
    let blocking = move || {
        let closed = json!({"url": "https://127.0.0.1:1/x", "caBundle": ""});
        let condition = json!({"matchConditions": [{"name": "asked",
            "expression": "request.operation == 'CREATE' && has(object.data.ask)"}]});
        let hooks = [
            hook("deny", &webhook.client("deny"), &json!({})),
            hook("asked", &webhook.client("no"), &condition),
            hook("closed", &closed, &json!({})),
            hook("open", &closed, &json!({"failurePolicy": "Ignore"})),
            hook("slow", &webhook.client("sleep"), &json!({"timeoutSeconds": 1})),
        ];
        server.ok("create -f -", &configuration(VALIDATING, "all", &hooks), "created");
        let create = "create -f -";
        let bad = json!({"bad": "true"});
        server.fails(
            create,
            &map("a", "deny", &bad),
            "admission webhook \"deny.example.com\" denied the request: this one is bad",
        );
        server.ok(create, &map("a", "other", &bad), "created");
        let seen = server.ok(create, &map("b", "deny", &json!({"keep": "true"})), "configmap/b created");
        assert!(seen.contains("Warning: looked at"), "{seen}");
        server.fails("create --dry-run=server -f -", &map("c", "deny", &bad), "this one is bad");
        server.fails("patch cm b --type=merge -p {\"data\":{\"bad\":\"true\"}}", "", "this one is bad");
        server.fails(
            "delete cm b",
            "",
            "admission webhook \"deny.example.com\" denied the request: this one is kept",
        );
        server.fails(
            create,
            &map("d", "asked", &json!({"ask": "x"})),
            "admission webhook \"asked.example.com\" denied the request without explanation",
        );
        server.ok(create, &map("d", "asked", &json!({"other": "x"})), "created");
        let error = "expression 'request.operation == 'CREATE' && has(object.data.ask)' resulted in error: \
            no such key: data";
        server.fails(create, &map("d2", "asked", &Value::Null), error);
        server.fails(
            create,
            &map("e", "closed", &json!({})),
            "failed calling webhook \"closed.example.com\": failed to call webhook: Post \
            \"https://127.0.0.1:1/x?timeout=10s\"",
        );
        server.ok(create, &map("e", "open", &json!({})), "created");
        server.fails(create, &map("f", "slow", &json!({})), "context deadline exceeded");
        server.fails(
            create,
            &configuration(VALIDATING, "x", &[hook("x", &closed, &json!({"timeoutSeconds": 60}))]),
            "the timeout value must be between 1 and 30 seconds",
        );
        parts(&server, &webhook);
        refuses_all_but_its_removal(&server, &webhook);
    };
    tokio::task::spawn_blocking(blocking).await.unwrap();
}

/// A webhook that refuses everything cannot refuse the removal of its own configuration.
fn refuses_all_but_its_removal(server: &Server, webhook: &Webhook) {
    let all = json!({"objectSelector": {}, "rules": rules("*/*")});
    let wall = configuration(VALIDATING, "wall", &[hook("wall", &webhook.client("no"), &all)]);
    server.ok("create -f -", &wall, "created");
    server.fails("create configmap y", "", "wall.example.com");
    server.ok("delete validatingwebhookconfiguration wall", "", "deleted");
    server.ok("create configmap y", "", "created");
}

/// Subresources whose objects are of a kind of their own.
fn parts(server: &Server, webhook: &Webhook) {
    let on = |operation: &str, resource: &str| {
        let rule = json!({"operations": [operation], "apiGroups": ["*"], "apiVersions": ["v1"], "resources": [resource]});
        json!({"objectSelector": {}, "rules": [rule]})
    };
    let hooks = [
        hook("connect", &webhook.client("connect"), &on("CONNECT", "pods/attach")),
        hook("scale", &webhook.client("scale"), &on("UPDATE", "deployments/scale")),
    ];
    server.ok("create -f -", &configuration(VALIDATING, "parts", &hooks), "created");
    server.ok("create serviceaccount default", "", "created");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "c:1"}]}});
    server.ok("create -f -", &pod.to_string(), "created");
    server.fails(
        "create --raw /api/v1/namespaces/default/pods/p/attach?stdout=true -f -",
        "",
        "denied the request: \"PodAttachOptions\" of \"p\"",
    );
    server.ok("create deployment web --image=web:1 --replicas=2", "", "created");
    server.fails("scale deployment web --replicas=9", "", "denied the request: \"Scale\" from 2 to 9");
    server.ok("scale deployment web --replicas=1", "", "scaled");
}

#[tokio::test(flavor = "multi_thread")]
async fn mutating_webhooks_see_what_the_others_did() {
    let (server, webhook) = (Server::start().await, Webhook::start(answer).await);
    let blocking = move || {
        let label = json!({"objectSelector": {"matchLabels": {"hook": "m"}}});
        let mut again = label.clone();
        again["reinvocationPolicy"] = "IfNeeded".into();
        let pods = json!({"objectSelector": {}, "rules": rules("pods")});
        let hooks = [
            hook("first", &webhook.client("first"), &again),
            hook("second", &webhook.client("second"), &label),
            hook("broken", &webhook.client("broken"), &json!({})),
            hook("pod", &webhook.client("pod"), &pods),
        ];
        server.ok("create -f -", &configuration(MUTATING, "all", &hooks), "created");
        server.ok(
            "get mutatingwebhookconfiguration all -o jsonpath={.webhooks[1].reinvocationPolicy}",
            "",
            "Never",
        );
        server.ok("create -f -", &map("a", "m", &json!({"x": "y"})), "created");
        server.ok("get cm a -o jsonpath={.data.first}-{.data.second}", "", "again-here");
        server.fails(
            "create -f -",
            &map("b", "broken", &json!({})),
            "failed calling webhook \"broken.example.com\"",
        );
        server.ok("create serviceaccount default", "", "created");
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "image": "c:1"}]}});
        server.ok("create -f -", &pod.to_string(), "created");
        // Defaults and plugins came after it, and what is no field went.
        let fields = "-o \
            jsonpath={.spec.containers[1].imagePullPolicy}-{.spec.containers[1].volumeMounts[0].readOnly}-{.spec.nonsense}";
        server.ok(&format!("get pod p {fields}"), "", "IfNotPresent-true-");
    };
    tokio::task::spawn_blocking(blocking).await.unwrap();
}

fn policy(name: &str, spec: &Value) -> String {
    let mut policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
        "spec": {"matchConstraints": {"resourceRules": rules("configmaps"), "objectSelector": {"matchLabels": {"hook": name}}}},
    });
    for (field, value) in spec.as_object().unwrap() {
        policy["spec"][field] = value.clone();
    }
    policy.to_string()
}

fn binding(name: &str, actions: &Value, params: &Value) -> String {
    let mut binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": actions},
    });
    if params.is_object() {
        binding["spec"]["paramRef"] = params.clone();
    }
    binding.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_deny_and_warn_and_never_hang() {
    let server = Server::start().await;
    let blocking = move || {
        let create = "create -f -";
        let most = json!({
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "variables": [{"name": "count", "expression": "size(object.data)"}],
            "validations": [{"expression": "variables.count <= int(params.data.most)",
                "messageExpression": "'at most ' + params.data.most + ' in ' + namespaceObject.metadata.name", "reason": "Forbidden"}],
        });
        server.ok(create, &policy("most", &most), "created");
        let params = json!({"name": "params", "parameterNotFoundAction": "Deny"});
        server.ok(create, &binding("most", &json!(["Deny"]), &params), "created");
        let one = json!({"a": "1"});
        server.fails(
            create,
            &map("a", "most", &one),
            "failed to configure binding: no params found for policy binding with `Deny` \
            parameterNotFoundAction",
        );
        server.ok(create, &map("params", "", &json!({"most": "1"})), "created");
        server.ok(create, &map("a", "most", &one), "created");
        server.fails(
            create,
            &map("b", "most", &json!({"a": "1", "b": "2"})),
            "configmaps \"b\" is forbidden: ValidatingAdmissionPolicy 'most' with binding 'most' \
            denied request: at most 1 in default",
        );
        let warn = json!({"validations": [{"expression": "!has(object.data.odd)", "message": "odd"}]});
        server.ok(create, &policy("warn", &warn), "created");
        server.ok(create, &binding("warn", &json!(["Warn"]), &json!(null)), "created");
        let told = server.ok(create, &map("c", "warn", &json!({"odd": "x"})), "created");
        assert!(
            told.contains("Validation failed for ValidatingAdmissionPolicy 'warn' with binding 'warn': odd"),
            "{told}"
        );
        let heavy = json!({"validations": [{"expression": "object.data.all(a, object.data.all(b, object.data.all(c, object.data.all(d, \
            object.data.all(e, a != '' || b == c || d == e || object.data[a] == \
            object.data[b])))))"}]});
        server.ok(create, &policy("heavy", &heavy), "created");
        server.ok(create, &binding("heavy", &json!(["Deny"]), &json!(null)), "created");
        let many: serde_json::Map<String, Value> = (0..60).map(|n| (format!("k{n}"), json!("v"))).collect();
        let start = Instant::now();
        server.fails(create, &map("d", "heavy", &Value::Object(many)), "actual cost limit exceeded");
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
        let bad = json!({"validations": [{"expression": "object.data."}]});
        server.fails(
            create,
            &policy("bad", &bad),
            "spec.validations[0].expression: Invalid value: \"object.data.\": compilation failed",
        );
    };
    tokio::task::spawn_blocking(blocking).await.unwrap();
}

/// A pod whose container has these fields too.
fn pod(namespace: &str, more: &Value) -> String {
    let mut container = json!({"name": "c", "image": "c:1"});
    for (field, value) in more.as_object().unwrap() {
        container[field] = value.clone();
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": namespace},
        "spec": {"containers": [container]}})
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_checked_against_standards_and_limits() {
    let server = Server::start().await;
    let blocking = move || {
        server.ok("create namespace strict", "", "created");
        server.ok("create serviceaccount default -n strict", "", "created");
        let privileged = json!({"securityContext": {"privileged": true}});
        server.ok("create -f -", &pod("strict", &privileged), "created");
        let raised = server.ok(
            "label namespace strict pod-security.kubernetes.io/enforce=baseline \
            pod-security.kubernetes.io/warn=restricted",
            "",
            "labeled",
        );
        assert!(
            raised.contains(
                "existing pods in namespace \"strict\" violate the new PodSecurity enforce level \
            \"baseline:latest\""
            ),
            "{raised}"
        );
        assert!(raised.contains("p: privileged"), "{raised}");
        server.ok("delete pod p -n strict", "", "deleted");
        server.fails(
            "create -f -",
            &pod("strict", &privileged),
            "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": privileged \
            (container \"c\" must not set securityContext.privileged=true)",
        );
        server.fails(
            "label namespace strict --overwrite pod-security.kubernetes.io/enforce=much",
            "",
            "must be one of privileged, baseline, restricted",
        );
        let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l",
            "namespace": "strict"}, "spec": {"limits": [{"type": "Container", "max": {"cpu": "1"},
            "defaultRequest": {"cpu": "100m"}}]}});
        server.ok("create -f -", &range.to_string(), "created");
        let told = server.ok("create -f -", &pod("strict", &json!({})), "created");
        assert!(
            told.contains(
                "would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false"
            ),
            "{told}"
        );
        let resources = ".spec.containers[0].resources";
        let fields = format!("{{{resources}.requests.cpu}}-{{{resources}.limits.cpu}}-{{.status.qosClass}}");
        server.ok(&format!("get pod p -n strict -o jsonpath={fields}"), "", "100m-1-Burstable");
        let much = json!({"resources": {"limits": {"cpu": "2"}}});
        server.fails(
            "create -f -",
            &pod("strict", &much),
            "maximum cpu usage per Container is 1, but limit is 2",
        );
    };
    tokio::task::spawn_blocking(blocking).await.unwrap();
}
