//! Admission policies that change objects, see other versions of them, and ask about rights.

use serde_json::{Value, json};

use crate::admission::{MUTATING, VALIDATING, configuration, hook, map, patch, rules};
use crate::harness::Server;
use crate::webhook::Webhook;

const CREATE: &str = "create -f -";

/// A policy for ConfigMaps with its name as their label `hook`, and a binding for it.
fn policy(server: &Server, kind: &str, name: &str, spec: &Value, binding: &Value) {
    let mut policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name},
        "spec": {"matchConstraints": {"resourceRules": rules("configmaps"), "objectSelector": {"matchLabels": {"hook": name}}}},
    });
    let mut bound = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}Binding"), "metadata": {"name": name},
        "spec": {"policyName": name},
    });
    if kind.starts_with("Mutating") {
        policy["spec"]["reinvocationPolicy"] = "Never".into();
    } else {
        bound["spec"]["validationActions"] = json!(["Deny"]);
    }
    for (object, more) in [(&mut policy, spec), (&mut bound, binding)] {
        for (field, value) in more.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        server.ok(CREATE, &object.to_string(), "created");
    }
}

fn mutating(server: &Server, name: &str, mutations: &[Value], more: &Value) {
    let mut spec = json!({"mutations": mutations});
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    policy(server, "MutatingAdmissionPolicy", name, &spec, &json!({}));
}

fn validating(server: &Server, name: &str, expression: &str, more: &Value) {
    let mut spec = json!({"validations": [{"expression": expression}]});
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    policy(server, "ValidatingAdmissionPolicy", name, &spec, &json!({}));
}

fn applies(expression: &str) -> Value {
    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
}

fn patches(expression: &str) -> Value {
    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
}

/// Runs what blocks beside the server.
async fn beside(run: impl FnOnce(&Server) + Send + 'static) {
    let server = Server::start().await;
    tokio::task::spawn_blocking(move || run(&server)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_change_what_is_written() {
    beside(|server| {
        merged_and_patched(server);
        failing(server);
        of_pods(server);
    })
    .await;
}

fn merged_and_patched(server: &Server) {
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "variables": [{"name": "team", "expression": "params.data.team + '-' + namespaceObject.metadata.name"}],
        "matchConditions": [{"name": "asks", "expression": "!has(object.data.team)"}],
        "mutations": [
            applies("Object{data: {'team': variables.team}, metadata: Object.metadata{annotations: {'by': \
                request.userInfo.username}}}"),
            patches("[JSONPatch{op: 'test', path: '/data/team', value: variables.team}, JSONPatch{op: \
                'add', path: '/metadata/annotations/' + jsonpatch.escapeKey('a.b/c'), value: \
                object.data.team}]"),
            // It does not apply, and so nothing of it does.
            patches("[JSONPatch{op: 'add', path: '/data/never', value: 'x'}, JSONPatch{op: 'test', path: \
                '/data/team', value: 'other'}]"),
        ],
    });
    let params = json!({"paramRef": {"name": "params", "parameterNotFoundAction": "Deny"}});
    policy(server, "MutatingAdmissionPolicy", "change", &spec, &params);
    server.fails(
        CREATE,
        &map("a", "change", &json!({"x": "y"})),
        "policy 'change' with binding 'change' denied request: failed to configure binding: no \
        params found for policy binding with `Deny` parameterNotFoundAction",
    );
    server.ok(CREATE, &map("params", "", &json!({"team": "red"})), "created");
    server.ok(CREATE, &map("a", "change", &json!({"x": "y"})), "created");
    let fields = "-o jsonpath={.data}-{.metadata.annotations}";
    let wanted = r#"{"team":"red-default","x":"y"}-{"a.b/c":"red-default","by":"admin"}"#;
    server.ok(&format!("get cm a {fields}"), "", wanted);
    server.ok(CREATE, &map("b", "change", &json!({"team": "own"})), "created");
    server.ok(&format!("get cm b {fields}"), "", r#"{"team":"own"}-"#);
    // An update is changed too, and a dry run shows it.
    let gone = "patch cm a --type=json -p \
        [{\"op\":\"remove\",\"path\":\"/data/team\"},{\"op\":\"remove\",\"path\":\"/metadata/annotations\"}]";
    server.ok(&format!("{gone} --dry-run=server {fields}"), "", wanted);
    server.ok(gone, "", "no change");
    server.ok("get mutatingadmissionpolicy change", "", "change   3           v1/ConfigMap");
    server.ok("delete mutatingadmissionpolicy change", "", "deleted");
    server.ok(CREATE, &map("c", "change", &json!({"x": "y"})), "created");
    server.ok(&format!("get cm c {fields}"), "", r#"{"x":"y"}-"#);
}

fn failing(server: &Server) {
    let broken = [applies("Object{data: {'a': object.data.nothing}}"), applies("Object{data: {'b': 'c'}}")];
    mutating(server, "fail", &broken, &json!({}));
    server.fails(
        CREATE,
        &map("f", "fail", &json!({"x": "y"})),
        "policy 'fail' with binding 'fail' denied request: expression 'Object{data: {'a': \
            object.data.nothing}}' resulted in error: no such key: nothing",
    );
    mutating(server, "ignore", &broken, &json!({"failurePolicy": "Ignore"}));
    server.ok(CREATE, &map("g", "ignore", &json!({"x": "y"})), "created");
    server.ok("get cm g -o jsonpath={.data}", "", r#"{"b":"c","x":"y"}"#);
    mutating(server, "names", &[applies("Object{data: Object.other{a: 'b'}}")], &json!({}));
    server.fails(
        CREATE,
        &map("h", "names", &json!({})),
        "type mismatch: unexpected type name \"Object.other\", expected \"Object.data\"",
    );
    mutating(server, "unknown", &[applies("Object{nonsense: 1}")], &json!({}));
    server.fails(
        CREATE,
        &map("h", "unknown", &json!({})),
        "error applying patch: failed to convert patch object to typed object: .nonsense: \
        field not declared in schema",
    );
    mutating(server, "strict", &[patches("[JSONPatch{op: 'add', path: '/nonsense', value: 1}]")], &json!({}));
    server.fails(
        CREATE,
        &map("h", "strict", &json!({})),
        "strict decoding error: unknown field \"nonsense\"",
    );
    mutating(server, "missing", &[patches("[JSONPatch{op: 'remove', path: '/data/nothing'}]")], &json!({}));
    server.fails(CREATE, &map("h", "missing", &json!({"x": "y"})), "denied request: JSON Patch: ");
    let long = applies(
        "Object{data: {'a': '%s'.format([object.data.all(a, object.data.all(b, \
            object.data.all(c, object.data.all(d, a + b + c + d != ''))))])}}",
    );
    mutating(server, "long", &[long], &json!({}));
    let many: serde_json::Map<String, Value> = (0..60).map(|n| (format!("k{n}"), json!("v"))).collect();
    server.fails(CREATE, &map("h", "long", &Value::Object(many)), "actual cost limit exceeded");
    let wrong = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy", "metadata": {"name": "wrong"},
        "spec": {"matchConstraints": {"resourceRules": rules("configmaps")}, "reinvocationPolicy": "Never",
            "mutations": [applies("'text'")]},
    });
    server.fails(
        CREATE,
        &wrong.to_string(),
        "spec.mutations[0].applyConfiguration.expression: Invalid value: \"'text'\": must \
        evaluate to Object but got string",
    );
}

/// As upstream's example: a sidecar for every pod, once.
fn of_pods(server: &Server) {
    server.ok("create serviceaccount default", "", "created");
    let spec = json!({
        "matchConstraints": {"resourceRules": [{"operations": ["CREATE"], "apiGroups": [""],
            "apiVersions": ["v1"], "resources": ["pods"]}]},
        "matchConditions": [{"name": "without", "expression": "!object.spec.containers.exists(c, c.name == 'side')"}],
        "mutations": [applies("Object{spec: Object.spec{containers: [Object.spec.containers{name: 'side', image: \
            'side:1', env: [Object.spec.containers.env{name: 'A', value: 'b'}]}]}}")],
    });
    policy(server, "MutatingAdmissionPolicy", "side", &spec, &json!({}));
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "c:1"}]}});
    server.ok(CREATE, &pod.to_string(), "created");
    // Defaults and plugins ran after the policy.
    let side = ".spec.containers[?(@.name==\"side\")]";
    let fields = format!(
        "{{.spec.containers[*].name}}-{{{side}.imagePullPolicy}}-{{{side}.volumeMounts[0].readOnly}}"
    );
    let shown = server.ok(&format!("get pod p -o jsonpath={fields}"), "", "-IfNotPresent-true");
    assert!(shown.contains("c side") || shown.contains("side c"), "{shown}");
    let atomic =
        applies("Object{spec: Object.spec{containers: [Object.spec.containers{name: 'c', args: ['x']}]}}");
    let pods = json!({"matchConstraints": {"resourceRules": rules("pods"),
        "objectSelector": {"matchLabels": {"hook": "atomic"}}}});
    mutating(server, "atomic", &[atomic], &pods);
    let labelled =
        pod.to_string().replace("\"name\":\"p\"", "\"name\":\"q\",\"labels\":{\"hook\":\"atomic\"}");
    server.fails(
        CREATE,
        &labelled,
        "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps \
        or structs: .spec.containers[0].args",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_and_webhooks_see_what_the_others_did() {
    let answer = |_: &str, _: &Value| patch(&json!([{"op": "add", "path": "/data/hook", "value": "here"}]));
    let (server, webhook) = (Server::start().await, Webhook::start(answer).await);
    let blocking = move || {
        let label = json!({"matchConstraints": {"resourceRules": rules("configmaps"),
            "objectSelector": {"matchLabels": {"hook": "m"}}}});
        let notes = |field: &str| {
            applies(&format!("Object{{data: {{'{field}': has(object.data.hook) ? 'again' : 'once'}}}}"))
        };
        let mut again = label.clone();
        again["reinvocationPolicy"] = "IfNeeded".into();
        mutating(&server, "first", &[notes("first")], &again);
        mutating(&server, "second", &[notes("second")], &label);
        let selected = json!({"objectSelector": {"matchLabels": {"hook": "m"}}});
        let hooks = [hook("m", &webhook.client("add"), &selected)];
        server.ok(CREATE, &configuration(MUTATING, "all", &hooks), "created");
        server.ok(CREATE, &map("a", "m", &json!({"x": "y"})), "created");
        server.ok("get cm a -o jsonpath={.data.first}-{.data.second}-{.data.hook}", "", "again-once-here");
    };
    tokio::task::spawn_blocking(blocking).await.unwrap();
}

const DEFINITION: &str = r#"{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
"metadata": {"name": "bees.example.com"},
"spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "bees", "singular": "bee",
    "kind": "Bee", "listKind": "BeeList"},
"versions": [
  {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
      "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"},
      "seen": {"type": "string"}}}}}}},
  {"name": "v2", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object",
      "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"},
      "seen": {"type": "string"}}}}}}}
]}}"#;

/// Rules and a selector for bees of a version.
fn matching(version: &str, label: &str, resource: &str, policy: &str) -> Value {
    json!({
        "resourceRules": [{"operations": ["CREATE"], "apiGroups": ["example.com"],
            "apiVersions": [version], "resources": [resource]}],
        "matchPolicy": policy, "objectSelector": {"matchLabels": {"hook": label}},
    })
}

fn bee(name: &str, label: &str, size: u32) -> String {
    json!({"apiVersion": "example.com/v2", "kind": "Bee", "metadata": {"name": name,
        "labels": {"hook": label}}, "spec": {"size": size}})
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_for_another_version_is_a_rule_for_the_same_objects() {
    let answer = |path: &str, request: &Value| {
        let [object, kind, asked] = [
            &request["object"]["apiVersion"],
            &request["kind"]["version"],
            &request["requestKind"]["version"],
        ];
        let told = format!("{object} {kind} {asked}");
        match path {
            "note" => patch(&json!([{"op": "add", "path": "/spec/seen", "value": told}])),
            _ => json!({"allowed": false, "status": {"message": told}}),
        }
    };
    let (server, webhook) = (Server::start().await, Webhook::start(answer).await);
    let blocking = move || {
        server.ok(CREATE, DEFINITION, "created");
        server.ok("wait --for=condition=Established crd/bees.example.com --timeout=30s", "", "condition met");
        let large = "object.spec.size < 9 && object.apiVersion == 'example.com/v1' && request.kind.version \
            == 'v1' && request.requestKind.version == 'v2'";
        for policy in ["Equivalent", "Exact"] {
            let name = policy.to_lowercase();
            validating(
                &server,
                &name,
                large,
                &json!({"matchConstraints": matching("v1", &name, "bees", policy)}),
            );
        }
        server.ok(CREATE, &bee("a", "equivalent", 8), "created");
        server.fails(
            CREATE,
            &bee("b", "equivalent", 9),
            "ValidatingAdmissionPolicy 'equivalent' with binding 'equivalent' denied request",
        );
        server.ok(CREATE, &bee("b", "exact", 9), "created");
        let seen = applies("Object{spec: Object.spec{seen: object.apiVersion}}");
        mutating(
            &server,
            "seen",
            &[seen],
            &json!({"matchConstraints": matching("v1", "seen", "bees", "Equivalent")}),
        );
        server.ok(CREATE, &bee("c", "seen", 1), "created");
        server.ok(
            "get bees.v2.example.com c -o jsonpath={.apiVersion}-{.spec.seen}",
            "",
            "example.com/v2-example.com/v1",
        );
        webhooks_match_versions(&server, &webhook);
        events(&server);
    };
    tokio::task::spawn_blocking(blocking).await.unwrap();
}

fn webhooks_match_versions(server: &Server, webhook: &Webhook) {
    let rules = |version: &str, label: &str, policy: &str| {
        let mut matched = matching(version, label, "bees", policy);
        matched["rules"] = matched["resourceRules"].take();
        matched.as_object_mut().unwrap().remove("resourceRules");
        matched
    };
    let hooks = [
        hook("deny", &webhook.client("deny"), &rules("v1", "deny", "Equivalent")),
        hook("exact", &webhook.client("deny"), &rules("v1", "strict", "Exact")),
    ];
    server.ok(CREATE, &configuration(VALIDATING, "versions", &hooks), "created");
    server.fails(CREATE, &bee("d", "deny", 1), "denied the request: \"example.com/v1\" \"v1\" \"v2\"");
    server.ok(CREATE, &bee("d", "strict", 1), "created");
    let hooks = [hook("note", &webhook.client("note"), &rules("v1", "note", "Equivalent"))];
    server.ok(CREATE, &configuration(MUTATING, "versions", &hooks), "created");
    server.ok(CREATE, &bee("e", "note", 1), "created");
    server.ok(
        "get bees.v2.example.com e -o jsonpath={.apiVersion}-{.spec.seen}",
        "",
        "example.com/v2-\"example.com/v1\" \"v1\" \"v2\"",
    );
}

/// Events of both groups are the same objects under other names.
fn events(server: &Server) {
    let on = json!({
        "resourceRules": [{"operations": ["CREATE"], "apiGroups": ["events.k8s.io"], "apiVersions": ["v1"],
            "resources": ["events"]}],
        "matchPolicy": "Equivalent",
    });
    validating(
        server,
        "noted",
        "object.note != 'bad' && object.regarding.name == 'p'",
        &json!({"matchConstraints": on}),
    );
    let event = |name: &str, message: &str| {
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name},
            "involvedObject": {"name": "p", "namespace": "default"}, "message": message, "reason": "r",
            "type": "Normal"})
        .to_string()
    };
    server.ok(CREATE, &event("a", "good"), "created");
    server.fails(CREATE, &event("b", "bad"), "failed expression: object.note != 'bad'");
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_ask_what_a_user_may_do() {
    beside(|server| {
        server.ok("create role maker --verb=create --resource=configmaps", "", "created");
        server.ok("create rolebinding maker --role=maker --user=alice", "", "created");
        server.ok("create role reader --verb=get --resource=secrets", "", "created");
        server.ok("create rolebinding reader --role=reader --serviceaccount=default:robot", "", "created");
        let secrets = "group('').resource('secrets').namespace('default').check('get').allowed()";
        validating(server, "sender", &format!("authorizer.{secrets}"), &json!({}));
        validating(server, "robot", &format!("authorizer.serviceAccount('default', 'robot').{secrets}"), &json!({}));
        validating(server, "resource", "authorizer.requestResource.check('delete').allowed()", &json!({}));
        validating(server, "path", "authorizer.path('/metrics').check('get').allowed()", &json!({}));
        validating(server, "skipped", "false", &json!({"matchConditions": [{"name": "others",
            "expression": "!authorizer.group('').resource('configmaps').check('deletecollection').allowed()"}]}));
        let by = |name: &str, label: &str| map(name, label, &json!({}));
        for label in ["sender", "resource", "path", "skipped"] {
            server.fails("create --as=alice -f -", &by("a", label), &format!("ValidatingAdmissionPolicy '{label}'"));
            server.ok(CREATE, &by(label, label), "created");
        }
        server.ok("create --as=alice -f -", &by("robot", "robot"), "created");
        let wrong = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "wrong"},
            "spec": {"matchConstraints": {"resourceRules": rules("configmaps")},
                "validations": [{"expression": "authorizer.resource('pods').check('get').allowed()"}]},
        });
        server.fails(CREATE, &wrong.to_string(), "found no matching overload for 'resource' applied to \
            'kubernetes.authorization.Authorizer.(string)'");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_tells_what_does_not_fit_the_kinds_of_a_policy() {
    beside(|server| {
        let on = json!({"resourceRules": [{"operations": ["*"], "apiGroups": ["apps"],
            "apiVersions": ["v1"], "resources": ["deployments"]}]});
        let on = json!({"matchConstraints": on});
        validating(server, "typed", "object.spec.replicas > '1'", &on);
        validating(server, "right", "object.spec.replicas > 1", &on);
        for name in ["typed", "right"] {
            let observed = format!("wait validatingadmissionpolicy/{name} --for=jsonpath={{.status.observedGeneration}}=1 \
                --timeout=30s");
            server.ok(&observed, "", "condition met");
        }
        let warnings = "-o \
            jsonpath={.status.typeChecking.expressionWarnings[*].fieldRef}-{.status.typeChecking.expressionWarnings[0].warning}";
        let told = server.ok(&format!("get validatingadmissionpolicy typed {warnings}"), "",
            "spec.validations[0].expression-apps/v1, Kind=Deployment: ERROR: <input>:1:22: found \
            no matching overload for '_>_'");
        assert!(told.contains("applied to '(int, string)'"), "{told}");
        server.ok("get validatingadmissionpolicy right -o jsonpath={.status.typeChecking}", "", "{}");
        // A new generation is checked again.
        let patch = json!([{"op": "replace", "path": "/spec/validations/0/expression",
            "value": "object.spec.nothing==1"}]);
        server.ok(&format!("patch validatingadmissionpolicy right --type=json -p {patch}"), "", "patched");
        server.ok("wait validatingadmissionpolicy/right --for=jsonpath={.status.observedGeneration}=2 \
            --timeout=30s", "", "condition met");
        server.ok(&format!("get validatingadmissionpolicy right {warnings}"), "", "undefined field 'nothing'");
    })
    .await;
}
