//! The API against unmodified clients: kubectl, the Rust and the Python client, webhooks and aggregated servers.
//!
//! Each test starts a server of its own: TLS, client certificate, embedded store.

mod admission;
mod aggregation;
mod answers;
mod apply;
mod conformance;
mod conversion;
mod custom;
mod fidelity;
mod harness;

mod normal;
mod operator;
mod policies;
mod python_client;
mod read_your_writes;
mod rust_client;
mod services;
mod story;
mod tools;
mod tunnels;
mod upstream;
mod webhook;
mod write_back;

use harness::Server;

/// A test for each story.
macro_rules! stories {
    ($kubectls:expr => $($name:ident)+) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            story::play(stringify!($name), $kubectls).await;
        }
    )+};
}

mod stories {
    use super::{story, tools};

    stories! { tools::all() => access apply discovery get nodes }
    // What differs between versions is in the others; this keeps the time in bounds.
    stories! { tools::of_server() => change create delete describe workloads }
}

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
async fn bad_input_gets_the_answer_that_a_kubernetes_user_expects() {
    let server = Server::start().await;
    tokio::task::spawn_blocking(move || {
        server.fails(
            "create -f -",
            &DEPLOYMENT.replace("replicas", "replcas"),
            "unknown field \"spec.replcas\"",
        );
        server.fails(
            "create -f -",
            &DEPLOYMENT.replace("replicas: 2", "replicas: two"),
            "cannot unmarshal string",
        );
        server.fails(
            "create -f -",
            &DEPLOYMENT.replace("replicas: 2", "replicas: -1"),
            "must be greater than or equal to 0",
        );
        server.fails(
            "create -f -",
            &DEPLOYMENT.replace("labels: {app: web}}\n    spec", "labels: {app: x}}\n    spec"),
            "does not match template `labels`",
        );
        server.fails(
            "create -f -",
            &DEPLOYMENT.replace("name: web", "name: Web_"),
            "a lowercase RFC 1123 subdomain",
        );
        server.ok("create -f -", DEPLOYMENT, "created");
        server.fails("create -f -", DEPLOYMENT, "already exists");
        server.fails("create -f - --raw /api/v1/namespaces/default/configmaps", "{\"a\":", "unrecognized");
        let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: \
            {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/99}}]}]}\n";
        server.fails("create -f -", policy, "must be a valid CIDR value");
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: 1.2.3.4, ports: \
            [{port: 80}]}\n";
        server.fails("create -f -", service, "the provided network does not match the current range");
        server.fails("get nonsense", "", "doesn't have a resource type");
        server.fails("delete namespace kube-system", "", "may not be deleted");
        let large = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: big}}\ndata: {{a: '{}'}}\n",
            "x".repeat(4 << 20)
        );
        server.fails("create -f -", &large, "Request entity too large");
        let long = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: big}}\ndata: {{a: '{}'}}\n",
            "x".repeat(2 << 20)
        );
        server.fails("create -f -", &long, "Too long");
        server.ok("create configmap small --from-literal=a=b", "", "created");
        let patch = "patch configmap small --type=json --patch-file=/dev/stdin";
        let many = format!("[{}]", [r#"{"op":"test","path":"/data/a","value":"b"}"#; 10_001].join(","));
        server.fails(patch, &many, "The allowed maximum operations in a JSON patch is 10000, got 10001");
        let double = |n: u32| format!(r#"{{"op":"copy","from":"/data","path":"/data/x{n}"}}"#);
        let growing = format!("[{}]", (0..40).map(double).collect::<Vec<_>>().join(","));
        server.fails(patch, &growing, "the accumulated size increase of copy is");
    })
    .await
    .unwrap();
}

const AUTOSCALER: &str = "apiVersion: autoscaling/v1
kind: HorizontalPodAutoscaler
metadata: {name: old}
spec: {maxReplicas: 3, targetCPUUtilizationPercentage: 70, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}
";

#[tokio::test(flavor = "multi_thread")]
async fn an_autoscaler_is_one_object_in_two_versions() {
    let server = Server::start().await;
    tokio::task::spawn_blocking(move || {
        server.ok("create -f -", AUTOSCALER, "created");
        server.ok("get horizontalpodautoscalers.v2.autoscaling old -o jsonpath={.spec.metrics}", "", "\"averageUtilization\":70");
        server.ok("get horizontalpodautoscalers.v1.autoscaling old -o jsonpath={.apiVersion}{.spec}", "",
            "autoscaling/v1{\"maxReplicas\":3");
        server.ok("get horizontalpodautoscalers.v1.autoscaling old", "", "<unknown>/70%");
        // What v1 cannot say stands in annotations, and is not lost by who writes v1.
        let metrics = "{\"spec\":{\"metrics\":[{\"type\":\"Pods\",\"pods\":{\"metric\":{\"name\":\"rps\"},\"target\":{\"type\":\"AverageValue\",\"averageValue\":\"10\"}}}]}}";
        server.ok(&format!("patch horizontalpodautoscalers.v2.autoscaling old --type=merge -p {metrics}"), "", "patched");
        server.ok("get horizontalpodautoscalers.v1.autoscaling old -o jsonpath={.metadata.annotations}", "",
            "autoscaling.alpha.kubernetes.io/metrics");
        let more = "{\"spec\":{\"maxReplicas\":9,\"targetCPUUtilizationPercentage\":50}}";
        server.ok(&format!("patch horizontalpodautoscalers.v1.autoscaling old --type=merge -p {more}"), "", "patched");
        let both = server.ok("get horizontalpodautoscalers.v2.autoscaling old -o \
            jsonpath={.spec}{.metadata.annotations}", "", "\"maxReplicas\":9");
        assert!(both.contains("\"rps\"") && both.contains("\"averageUtilization\":50") && !both.contains("alpha"), "{both}");
        server.ok("apply --server-side --force-conflicts -f -", &AUTOSCALER.replace("3", "4"), "serverside-applied");
        server.ok("get hpa old -o jsonpath={.spec.maxReplicas}", "", "4");
        server.fails("create -f -", &AUTOSCALER.replace("old", "bad").replace("3", "0"), "spec.maxReplicas: Invalid value: 0");
        server.ok("delete horizontalpodautoscalers.v1.autoscaling old", "", "deleted");
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_the_names_that_dashboards_use() {
    let server = Server::start().await;
    tokio::task::spawn_blocking(move || {
        server.ok("create configmap a", "", "created");
        server.ok("get configmaps -n default", "", "a ");
        let metrics = server.ok("get --raw /metrics", "", "");
        for line in [
            "# TYPE apiserver_request_total counter",
            "apiserver_request_total{code=\"201\",verb=\"POST\",group=\"\",version=\"v1\",resource=\"configmaps\",subresource=\"\",scope=\"namespace\",component=\"apiserver\"} \
                1",
            "apiserver_request_duration_seconds_count{verb=\"LIST\",group=\"\",version=\"v1\",resource=\"configmaps\",subresource=\"\",scope=\"namespace\",component=\"apiserver\"} \
                1",
            "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 1",
            "apiserver_current_inflight_requests{request_kind=\"mutating\"} 0",
            "apiserver_resource_objects{group=\"\",resource=\"configmaps\"} 4",
            "apiserver_watch_cache_events_received_total{group=\"\",resource=\"configmaps\"} 4",
        ] {
            assert!(metrics.lines().any(|found| found == line), "no {line} in\n{metrics}");
        }
        for name in ["process_cpu_seconds_total ", "process_resident_memory_bytes ",
            "apiserver_storage_objects{resource=\"namespaces\"} 4"] {
            assert!(metrics.contains(name), "no {name} in\n{metrics}");
        }
        server.ok("get --raw /metrics/slis", "", "kubernetes_healthcheck{name=\"etcd\",type=\"readyz\"} 1");
        // The definitions of made kinds are in the document that older clients ask for, too.
        server.ok("create -f -", custom::DEFINITION, "created");
        server.ok("wait --for=condition=Established crd/crontabs.stable.example.com --timeout=30s", "", "condition met");
        server.ok("get --raw /openapi/v2", "", "com.example.stable.v1.CronTab");
    })
    .await
    .unwrap();
}
