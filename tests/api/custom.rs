//! kubectl on a kind that a definition made.

use crate::harness::Server;

pub(crate) const DEFINITION: &str = r#"apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.stable.example.com}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, kind: CronTab, shortNames: [ct], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}
    selectableFields: [{jsonPath: .spec.color}]
    additionalPrinterColumns:
    - {name: Schedule, type: string, jsonPath: .spec.cron, description: when it runs}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    - {name: Ready, type: string, jsonPath: '.status.conditions[?(@.type=="Ready")].status'}
    - {name: Color, type: string, jsonPath: .spec.color, priority: 1}
    schema:
      openAPIV3Schema:
        type: object
        description: A job that runs again and again.
        properties:
          spec:
            type: object
            required: [cron]
            x-kubernetes-validations:
            - {rule: 'self.replicas <= self.maximum', message: too many replicas}
            properties:
              cron: {type: string, pattern: '^(\S+ ){4}\S+$', description: Five fields as cron has them.}
              replicas: {type: integer, minimum: 0, default: 1}
              maximum: {type: integer, default: 10}
              color: {type: string, enum: [red, blue]}
              id: {type: string, x-kubernetes-validations: [{rule: self == oldSelf, message: id is immutable}]}
              ports:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items: {type: object, required: [name], properties: {name: {type: string}, port: {type: integer}}}
          status:
            type: object
            properties:
              replicas: {type: integer}
              selector: {type: string}
              conditions:
                type: array
                items: {type: object, properties: {type: {type: string}, status: {type: string}}}
"#;

const INSTANCE: &str = "apiVersion: stable.example.com/v1
kind: CronTab
metadata: {name: nightly, labels: {app: web}}
spec: {cron: '0 3 * * *', color: red, id: a, ports: [{name: http, port: 80}]}
";

fn defined(server: &Server) {
    server.ok(
        "apply -f -",
        DEFINITION,
        "customresourcedefinition.apiextensions.k8s.io/crontabs.stable.example.com created",
    );
    server.ok(
        "wait --for=condition=Established crd/crontabs.stable.example.com --timeout=30s",
        "",
        "condition met",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_made_kind_is_a_kind_like_others() {
    let server = Server::start().await;
    tokio::task::spawn_blocking(move || {
        defined(&server);
        server.ok("get crd crontabs.stable.example.com -o \
            jsonpath={.status.acceptedNames.listKind}{.status.storedVersions}", "", "CronTabList[\"v1\"]");
        server.ok("api-resources --api-group=stable.example.com", "", "ct");
        server.ok("explain crontab.spec.cron", "", "Five fields as cron has them.");
        server.ok("explain crontab", "", "APIVersion defines");
        server.ok("explain crontab.metadata", "", "CreationTimestamp is a timestamp");
        server.ok("apply -f -", INSTANCE, "crontab.stable.example.com/nightly created");
        server.ok("apply -f -", INSTANCE, "unchanged");
        server.ok("apply -f -", &INSTANCE.replace("red", "blue"), "configured");
        server.ok("get ct", "", "NAME      SCHEDULE    REPLICAS   READY");
        server.ok("get crontabs nightly -o wide", "", "blue");
        server.ok("get ct nightly -o jsonpath={.spec.replicas}{.metadata.generation}", "", "12");
        server.ok("get all", "", "crontab.stable.example.com/nightly");
        server.ok("get ct --field-selector spec.color=blue", "", "nightly");
        server.ok("get ct --field-selector spec.color=red", "", "No resources found");
        server.ok("get ct -l app=web", "", "nightly");
        server.ok("scale ct nightly --replicas=4", "", "scaled");
        server.ok("get ct nightly --subresource=scale -o jsonpath={.spec.replicas}", "", "4");
        server.ok("patch ct nightly --type=merge -p {\"spec\":{\"replicas\":5}}", "", "patched");
        server.ok("patch ct nightly --type=json -p \
            [{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":6}]", "", "patched");
        server.fails("patch ct nightly --type=strategic -p {\"spec\":{\"replicas\":5}}", "",
            "application/strategic-merge-patch+json is not supported");
        let status = "patch ct nightly --subresource=status --type=merge -p \
            {\"status\":{\"replicas\":2,\"conditions\":[{\"type\":\"Ready\",\"status\":\"True\"}]},\"spec\":{\"replicas\":9}}";
        server.ok(status, "", "patched");
        server.ok("get ct nightly -o jsonpath={.spec.replicas}{.status.replicas}", "", "62");
        server.ok("get ct nightly", "", "True");
        server.ok("label ct nightly tier=a", "", "labeled");
        server.ok("describe ct nightly", "", "0 3 * * *");
        let shared = INSTANCE.replace("nightly", "shared");
        server.ok("create -f -", &shared, "created");
        let dns = shared.replace("[{name: http, port: 80}]", "[{name: dns, port: 53}]");
        server.ok("apply --server-side --field-manager=other -f -", &dns, "serverside-applied");
        server.ok("get ct shared -o jsonpath={.spec.ports[*].name}", "", "http dns");
        server.ok("get ct shared -o yaml --show-managed-fields", "", "k:{\"name\":\"dns\"}");
        server.ok("delete ct shared", "", "deleted");
        server.ok("auth can-i create crontabs", "", "yes");
        server.ok("get --raw /openapi/v3/apis/stable.example.com/v1", "", "com.example.stable.v1.CronTab");
        server.ok("delete ct nightly", "", "deleted");
        server.ok("get ct", "", "No resources found");
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_definition_does_not_allow_is_refused_as_upstream_refuses_it() {
    let server = Server::start().await;
    tokio::task::spawn_blocking(move || {
        let create = "create -f -";
        for (right, wrong, message) in [
            ("type: integer, minimum", "type: int, minimum", "Unsupported value: \"int\""),
            ("self.replicas <=", "self.nothing <=", "undefined field 'nothing'"),
        ] {
            server.fails(create, &DEFINITION.replace(right, wrong), message);
        }
        defined(&server);
        refuses_instances(&server);
        server.ok(create, INSTANCE, "created");
        refuses_changes(&server);
        let other = DEFINITION
            .replace("plural: crontabs", "plural: others")
            .replace("name: crontabs", "name: others");
        server.ok(create, &other, "created");
        // A new definition has no conditions, and kubectl does not wait for one of none.
        server.ok(
            "wait --for=jsonpath={.status.conditions} crd/others.stable.example.com",
            "",
            "condition met",
        );
        server.ok(
            "wait --for=condition=NamesAccepted=False crd/others.stable.example.com --timeout=30s",
            "",
            "condition met",
        );
        server.fails("get others", "", "doesn't have a resource type");
    })
    .await
    .unwrap();
}

fn refuses_instances(server: &Server) {
    let misspelt = INSTANCE.replace("color", "colour");
    server.ok(
        "create --validate=warn -f -",
        &misspelt.replace("nightly", "warned"),
        "unknown field \"spec.colour\"",
    );
    for (right, wrong, message) in [
        ("color", "colour", "strict decoding error: unknown field \"spec.colour\""),
        ("0 3 * * *", "soon", "spec.cron: Invalid value: \"soon\": spec.cron in body should match"),
        ("color: red", "replicas: 11", "spec: Invalid value: too many replicas"),
        (
            "color: red",
            "color: green",
            "spec.color: Unsupported value: \"green\": supported values: \"red\", \"blue\"",
        ),
        (
            "{name: http, port: 80}",
            "{name: a}, {name: a}",
            "spec.ports[1]: Duplicate value: {\"name\":\"a\"}",
        ),
    ] {
        server.fails("create -f -", &INSTANCE.replace(right, wrong), message);
    }
}

fn refuses_changes(server: &Server) {
    let whole = r#"{"apiVersion":"stable.example.com/v1","kind":"CronTab","metadata":{"name":"nightly"},
        "spec":{"cron":"0 3 * * *"}}"#;
    server.fails(
        "replace --raw /apis/stable.example.com/v1/namespaces/default/crontabs/nightly -f -",
        whole,
        "metadata.resourceVersion: Invalid value: 0: must be specified for an update",
    );
    server.fails(
        "patch ct nightly --type=merge -p {\"spec\":{\"id\":\"b\"}}",
        "",
        "spec.id: Invalid value: \"b\": id is immutable",
    );
    server.fails(
        "patch crd crontabs.stable.example.com --type=merge -p {\"spec\":{\"scope\":\"Cluster\"}}",
        "",
        "spec.scope: Invalid value: \"Cluster\": field is immutable",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_go_before_their_definition_and_kinds_with_it() {
    let server = Server::start().await;
    tokio::task::spawn_blocking(move || {
        defined(&server);
        server.ok("create -f -", INSTANCE, "created");
        let held = INSTANCE.replace("name: nightly", "name: held, finalizers: [example.com/hold]");
        server.ok("create -f -", &held, "created");
        server.ok("delete crd crontabs.stable.example.com --wait=false", "", "deleted");
        server.ok("wait --for=delete ct/nightly --timeout=30s", "", "");
        server.ok(
            "get crd crontabs.stable.example.com -o jsonpath={.status.conditions[*].type}",
            "",
            "Terminating",
        );
        server.fails(
            "create -f -",
            &INSTANCE.replace("nightly", "late"),
            "create not allowed while custom resource definition is terminating",
        );
        server.ok("patch ct held --type=merge -p {\"metadata\":{\"finalizers\":null}}", "", "patched");
        server.ok("wait --for=delete crd/crontabs.stable.example.com --timeout=30s", "", "");
        server.fails("get ct", "", "could not find the requested resource");
        // The same names again, with nothing left of before.
        defined(&server);
        server.ok("get ct", "", "No resources found");
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stored_version_is_served_as_all_of_them() {
    let server = Server::start().await;
    tokio::task::spawn_blocking(move || {
        let second = "  - {name: v2, served: true, storage: false, deprecated: true, schema: \
            {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}\n";
        server.ok("create -f -", &format!("{DEFINITION}{second}"), "created");
        server.ok(
            "wait --for=condition=Established crd/crontabs.stable.example.com --timeout=30s",
            "",
            "condition met",
        );
        server.ok("create -f -", INSTANCE, "created");
        server.ok(
            "get crontabs.v2.stable.example.com nightly -o jsonpath={.apiVersion}{.spec.cron}",
            "",
            "stable.example.com/v20 3 * * *",
        );
        server.ok("get crontabs.v2.stable.example.com", "", "stable.example.com/v2 CronTab is deprecated");
        server.ok("create -f -", &INSTANCE.replace("/v1", "/v2").replace("nightly", "second"), "created");
        server.ok(
            "get crontabs.v1.stable.example.com second -o jsonpath={.apiVersion}{.spec.color}",
            "",
            "stable.example.com/v1red",
        );
        server.ok(
            "patch crd crontabs.stable.example.com --type=json -p \
            [{\"op\":\"replace\",\"path\":\"/spec/versions/1/served\",\"value\":false}]",
            "",
            "patched",
        );
        server.fails("get crontabs.v2.stable.example.com", "", "could not find the requested resource");
    })
    .await
    .unwrap();
}
