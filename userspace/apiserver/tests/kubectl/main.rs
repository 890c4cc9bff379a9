//! kubectl, unmodified, against a real server: TLS, client certificate, embedded store.

mod admission;
mod apply;
mod conversion;
mod custom;
mod harness;
mod operator;
mod webhook;

use harness::Server;

const DEPLOYMENT: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: 'web:1', ports: [{containerPort: 80}]}]}
";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_finds_everything_where_it_expects_it() {
    let server = Server::start().await;
    tokio::task::spawn_blocking(move || {
        server.ok("version", "", "Server Version: v1.36.0");
        server.ok("api-resources", "", "deployments");
        server.ok("get namespaces", "", "kube-system");
        server.ok("get service kubernetes", "", "10.96.0.1");
        server.ok("apply -f -", DEPLOYMENT, "deployment.apps/web created");
        server.ok(
            "apply -f -",
            &DEPLOYMENT.replace("replicas: 2", "replicas: 3"),
            "deployment.apps/web configured",
        );
        server.ok(
            "apply -f -",
            &DEPLOYMENT.replace("replicas: 2", "replicas: 3"),
            "deployment.apps/web unchanged",
        );
        server.ok("get deployments -o wide", "", "web:1");
        server.ok("get deploy web -o yaml", "", "revisionHistoryLimit: 10");
        server.ok("get deploy web -o jsonpath={.metadata.generation}", "", "2");
        server.ok("label deploy web tier=a", "", "labeled");
        server.ok("get deploy -l tier=a", "", "web");
        server.ok("get deploy -l tier=b", "", "No resources found");
        server.ok("annotate deploy web note=x", "", "annotated");
        server.ok("patch deploy web -p {\"spec\":{\"paused\":true}}", "", "patched");
        server.ok(
            "patch deploy web --type=json -p [{\"op\":\"remove\",\"path\":\"/spec/paused\"}]",
            "",
            "patched",
        );
        server.ok("patch deploy web --type=merge -p {\"spec\":{\"minReadySeconds\":1}}", "", "patched");
        server.ok("scale deploy web --replicas=4", "", "scaled");
        server.ok("edit deploy web", "", "edited");
        server.ok("get deploy web -o jsonpath={.spec.replicas}", "", "5");
        server.ok("set image deploy/web c=web:2", "", "image updated");
        server.ok("set env deploy/web A=1", "", "env updated");
        server.ok("describe deploy web", "", "A:           1");
        server.ok("explain deployment.spec.strategy", "", "rollingUpdate");
        server.ok("expose deploy web --port=80", "", "exposed");
        server.ok("describe service web", "", "IP:");
        server.ok("create configmap cm --from-literal=a=b", "", "created");
        server.ok("get cm cm -o jsonpath={.data.a}", "", "b");
        server.ok("create secret generic s --from-literal=a=b", "", "created");
        server.ok("get secret s -o jsonpath={.data.a}", "", "Yg==");
        server.ok("auth can-i create pods", "", "yes");
        server.ok("auth whoami", "", "admin");
        server.ok("create namespace other", "", "created");
        server.ok("create deployment hello --image=hello --replicas=2 -n other", "", "created");
        server.ok("get all -A", "", "deployment.apps/hello");
        server.ok("create role r --verb=get --resource=pods", "", "created");
        server.ok("create serviceaccount default", "", "created");
        server.ok("create token default", "", "ey");
        server.ok("delete deploy web", "", "deleted");
        server.fails("get deploy web", "", "deployments.apps \"web\" not found");
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_the_answer_that_a_kubernetes_user_expects() {
    let server = Server::start().await;
    tokio::task::spawn_blocking(move || {
        server.fails("create -f -", &DEPLOYMENT.replace("replicas", "replcas"), "unknown field \"spec.replcas\"");
        server.fails("create -f -", &DEPLOYMENT.replace("replicas: 2", "replicas: two"), "cannot unmarshal string");
        server.fails("create -f -", &DEPLOYMENT.replace("replicas: 2", "replicas: -1"), "must be greater than or equal to 0");
        server.fails("create -f -", &DEPLOYMENT.replace("labels: {app: web}}\n    spec", "labels: {app: x}}\n    spec"), "does not match template `labels`");
        server.fails("create -f -", &DEPLOYMENT.replace("name: web", "name: Web_"), "a lowercase RFC 1123 subdomain");
        server.ok("create -f -", DEPLOYMENT, "created");
        server.fails("create -f -", DEPLOYMENT, "already exists");
        server.fails("create -f - --raw /api/v1/namespaces/default/configmaps", "{\"a\":", "unrecognized");
        let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/99}}]}]}\n";
        server.fails("create -f -", policy, "must be a valid CIDR value");
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: 1.2.3.4, ports: [{port: 80}]}\n";
        server.fails("create -f -", service, "the provided network does not match the current range");
        server.fails("get nonsense", "", "doesn't have a resource type");
        server.fails("delete namespace kube-system", "", "may not be deleted");
        let large = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: big}}\ndata: {{a: '{}'}}\n", "x".repeat(4 << 20));
        server.fails("create -f -", &large, "Request entity too large");
        let long = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: big}}\ndata: {{a: '{}'}}\n", "x".repeat(2 << 20));
        server.fails("create -f -", &long, "Too long");
    })
    .await
    .unwrap();
}
