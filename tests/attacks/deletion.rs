//! What lives is not deleted: owners, namespaces, quotas, evictions, rollouts.

use std::time::Duration;

use kube::Client;
use serde_json::{Value, json};
use skep_tests::api_server::TestApiServer;
use tokio::task::JoinHandle;

const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Long enough for a busy machine; a passing test does not wait for it.
const DEADLINE: Duration = Duration::from_secs(90);

const MERGE: &str = "application/merge-patch+json";

struct Cluster {
    client: Client,
    _server: TestApiServer,
    controllers: Option<JoinHandle<()>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(controllers) = &self.controllers {
            controllers.abort();
        }
    }
}

impl Cluster {
    async fn with_controllers() -> Cluster {
        let mut cluster = Cluster::without_controllers().await;
        let (clients, _) = cluster._server.clients_by_user();
        let clients = skep_control::Clients::new(clients);
        let config = skep_control::Config {
            root_ca_pem: "PEM".into(),
            node_startup_grace: Duration::from_secs(3600),
            ..Default::default()
        };
        cluster.controllers =
            Some(tokio::spawn(async move { drop(skep_control::run(clients, config).await) }));
        cluster
    }

    async fn without_controllers() -> Cluster {
        let server = TestApiServer::start().await.unwrap();
        Cluster { client: server.client(), _server: server, controllers: None }
    }

    /// A cluster without controllers that takes pods.
    async fn for_pods() -> Cluster {
        let cluster = Cluster::without_controllers().await;
        let account = json!({"metadata": {"name": "default"}});
        cluster.create("/api/v1/namespaces/default/serviceaccounts", account).await;
        cluster
    }

    /// The answer, or the Status of the failure.
    async fn send(&self, method: &str, path: &str, kind: &str, body: &Value) -> Result<Value, kube::Error> {
        let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).unwrap() };
        let request =
            http::Request::builder().method(method).uri(path).header("Content-Type", kind).body(bytes);
        self.client.request(request.unwrap()).await
    }

    /// Creates an object; returns it.
    async fn create(&self, path: &str, body: Value) -> Value {
        let made = self.send("POST", path, "application/json", &body).await;
        made.unwrap_or_else(|error| panic!("create at {path}: {error}"))
    }

    async fn patch(&self, path: &str, body: Value) -> Value {
        let patched = self.send("PATCH", path, MERGE, &body).await;
        patched.unwrap_or_else(|error| panic!("patch {path}: {error}"))
    }

    async fn delete(&self, path: &str) {
        let deleted = self.send("DELETE", path, "application/json", &Value::Null).await;
        deleted.unwrap_or_else(|error| panic!("delete {path}: {error}"));
    }

    /// The object, if it exists.
    async fn get(&self, path: &str) -> Option<Value> {
        match self.send("GET", path, "application/json", &Value::Null).await {
            Ok(object) => Some(object),
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(error) => panic!("get {path}: {error}"),
        }
    }

    async fn lives(&self, path: &str) -> bool {
        self.get(path).await.is_some_and(|object| object["metadata"]["deletionTimestamp"].is_null())
    }

    async fn gone(&self, path: &str) {
        until(&format!("{path} is gone"), async || self.get(path).await.is_none()).await;
    }

    async fn namespace(&self, name: &str) {
        self.create("/api/v1/namespaces", json!({"metadata": {"name": name}})).await;
    }

    /// Creates a ConfigMap with an owner that never existed and waits for its collection: by then the collector has
    /// decided about what was created before it.
    async fn collector_passes(&self, namespace: &str, name: &str) {
        let owner =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "never", "uid": format!("never-{name}")});
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        self.create(&path, json!({"metadata": {"name": name, "ownerReferences": [owner]}})).await;
        self.gone(&format!("{path}/{name}")).await;
    }

    /// Names of the objects that Events with this reason are about.
    async fn reported(&self, reason: &str) -> Vec<String> {
        let events = self.get("/api/v1/events").await.unwrap();
        let events = events["items"].as_array().unwrap().iter();
        let of_reason = events.filter(|event| event["reason"] == reason && event["type"] == "Warning");
        of_reason.map(|event| event["involvedObject"]["name"].as_str().unwrap().to_owned()).collect()
    }

    /// A group whose kinds have one version each: (kind, plural, version).
    async fn define(&self, group: &str, kinds: &[(&str, &str, &str)]) {
        for (kind, plural, version) in kinds {
            let definition = json!({
                "metadata": {"name": format!("{plural}.{group}")},
                "spec": {
                    "group": group, "scope": "Namespaced", "names": {"plural": plural, "kind": kind},
                    "versions": [{"name": version, "served": true, "storage": true, "schema": {
                        "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    }}],
                },
            });
            self.create(DEFINITIONS, definition).await;
            let served = format!("/apis/{group}/{version}/{plural}");
            until(&format!("{served} is served"), async || self.get(&served).await.is_some()).await;
        }
    }
}

impl Cluster {
    /// Serves the kind of a definition, or not; `object` is an object of the kind.
    async fn serve(&self, definition: &str, object: &str, served: bool) {
        let path = format!("{DEFINITIONS}/{definition}");
        let mut versions = self.get(&path).await.unwrap()["spec"]["versions"].clone();
        versions[0]["served"] = served.into();
        self.patch(&path, json!({"spec": {"versions": versions}})).await;
        until("served or not", async || self.get(object).await.is_some() == served).await;
    }
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Polls a condition until it holds or the deadline passes.
async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let holds = async {
        while !condition().await {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    tokio::time::timeout(DEADLINE, holds).await.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"));
}

fn reference(owner: &Value, api_version: &str, kind: &str) -> Value {
    let metadata = &owner["metadata"];
    json!({"apiVersion": api_version, "kind": kind, "name": metadata["name"], "uid": metadata["uid"]})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_in_a_namespace_never_costs_a_cluster_wide_object() {
    let cluster = Cluster::with_controllers().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let owner = cluster.create(maps, json!({"metadata": {"name": "live"}})).await;
    let refs = json!([reference(&owner, "v1", "ConfigMap")]);
    let owned = |name: &str| json!({"metadata": {"name": name, "ownerReferences": refs}});
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    cluster.create(roles, owned("owned-role")).await;
    cluster.create("/api/v1/namespaces", owned("owned-namespace")).await;
    cluster
        .create("/api/v1/namespaces/owned-namespace/configmaps", json!({"metadata": {"name": "content"}}))
        .await;
    let reported = async || {
        let reported = cluster.reported("OwnerRefInvalidNamespace").await;
        ["owned-role", "owned-namespace"].iter().all(|name| reported.iter().any(|r| r == name))
    };
    until("events about both objects", reported).await;
    cluster.collector_passes("default", "first").await;
    let all_live = async || {
        cluster.lives(&format!("{roles}/owned-role")).await
            && cluster.lives("/api/v1/namespaces/owned-namespace").await
            && cluster.lives("/api/v1/namespaces/owned-namespace/configmaps/content").await
    };
    assert!(all_live().await, "the owner lives");
    cluster.delete(&format!("{maps}/live")).await;
    cluster.collector_passes("default", "second").await;
    assert!(all_live().await, "such a reference never says that an owner is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_uid_under_another_name_kind_or_namespace_is_no_owner() {
    let cluster = Cluster::with_controllers().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let owner = cluster.create(maps, json!({"metadata": {"name": "owner"}})).await;
    cluster.namespace("elsewhere").await;
    let uid = &owner["metadata"]["uid"];
    let rows = [
        (
            "right",
            "default",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}),
            true,
        ),
        (
            "name",
            "default",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "other", "uid": uid}),
            false,
        ),
        (
            "kind",
            "default",
            json!({"apiVersion": "v1", "kind": "Secret", "name": "owner", "uid": uid}),
            false,
        ),
        (
            "place",
            "elsewhere",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}),
            false,
        ),
    ];
    for (name, namespace, owner, _) in &rows {
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        cluster.create(&path, json!({"metadata": {"name": name, "ownerReferences": [owner]}})).await;
    }
    cluster.collector_passes("default", "passes").await;
    for (name, namespace, _, lives) in &rows {
        let path = format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
        match lives {
            true => assert!(cluster.lives(&path).await, "{name}"),
            false => cluster.gone(&path).await,
        }
    }
    until("an event about the other namespace", async || {
        cluster.reported("OwnerRefInvalidNamespace").await == ["place"]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dependent_outlives_the_time_in_which_its_owners_kind_is_not_served() {
    let cluster = Cluster::with_controllers().await;
    cluster.define("unserved.io", &[("Thing", "things", "v1")]).await;
    let things = "/apis/unserved.io/v1/namespaces/default/things";
    let new = json!({"apiVersion": "unserved.io/v1", "kind": "Thing", "metadata": {"name": "owner"}});
    let owner = cluster.create(things, new).await;
    let refs = json!([reference(&owner, "unserved.io/v1", "Thing")]);
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = |name: &str| json!({"metadata": {"name": name, "ownerReferences": refs}});
    cluster.create(secrets, secret("before")).await;
    cluster.collector_passes("default", "first").await;
    let serve = async |served| cluster.serve("things.unserved.io", &format!("{things}/owner"), served).await;
    serve(false).await;
    // At once, while the collector still believes that the kind is served, and when it knows better.
    cluster.create(secrets, secret("at-once")).await;
    cluster.collector_passes("default", "second").await;
    cluster.define("other.io", &[("Other", "others", "v1")]).await;
    cluster.create(secrets, secret("later")).await;
    cluster.collector_passes("default", "third").await;
    for name in ["before", "at-once", "later"] {
        assert!(cluster.lives(&format!("{secrets}/{name}")).await, "{name}: its owner is stored");
    }
    serve(true).await;
    cluster.collector_passes("default", "fourth").await;
    for name in ["before", "at-once", "later"] {
        assert!(cluster.lives(&format!("{secrets}/{name}")).await, "{name}: its owner is served again");
    }
    cluster.delete(&format!("{things}/owner")).await;
    for name in ["before", "at-once", "later"] {
        cluster.gone(&format!("{secrets}/{name}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphaning_owner_waits_for_dependents_whose_kind_is_not_served() {
    let cluster = Cluster::with_controllers().await;
    cluster.define("orphans.io", &[("Thing", "things", "v1")]).await;
    let owner = "/api/v1/namespaces/default/configmaps/owner";
    let made =
        cluster.create("/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "owner"}})).await;
    let refs = json!([reference(&made, "v1", "ConfigMap")]);
    let things = "/apis/orphans.io/v1/namespaces/default/things";
    let metadata = json!({"name": "dependent", "ownerReferences": refs});
    let dependent = json!({"apiVersion": "orphans.io/v1", "kind": "Thing", "metadata": metadata});
    cluster.create(things, dependent).await;
    // The collector knows the kind when it has collected one of its objects.
    let never = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "never", "uid": "never"}]);
    let metadata = json!({"name": "probe", "ownerReferences": never});
    cluster
        .create(things, json!({"apiVersion": "orphans.io/v1", "kind": "Thing", "metadata": metadata}))
        .await;
    cluster.gone(&format!("{things}/probe")).await;
    let path = format!("{things}/dependent");
    cluster.serve("things.orphans.io", &path, false).await;
    cluster.delete(&format!("{owner}?propagationPolicy=Orphan")).await;
    cluster.collector_passes("default", "second").await;
    assert!(cluster.get(owner).await.is_some(), "its dependent cannot be freed now");
    cluster.serve("things.orphans.io", &path, true).await;
    cluster.gone(owner).await;
    let freed = cluster.get(&path).await.expect("it was orphaned");
    assert!(freed["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty));
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_of_a_version_that_is_not_preferred_are_collected_counted_and_emptied() {
    let cluster = Cluster::with_controllers().await;
    cluster.define("mixed.io", &[("Beta", "betas", "v1"), ("Alpha", "alphas", "v1alpha1")]).await;
    cluster.namespace("mixed").await;
    let alphas = "/apis/mixed.io/v1alpha1/namespaces/mixed/alphas";
    let alpha = |name: &str, owners: Value| json!({"apiVersion": "mixed.io/v1alpha1", "kind": "Alpha", "metadata": {"name": name, "ownerReferences": owners}});
    cluster.create(alphas, alpha("left", json!([]))).await;
    let maps = "/api/v1/namespaces/mixed/configmaps";
    let owner = cluster.create(maps, json!({"metadata": {"name": "owner"}})).await;
    cluster.create(alphas, alpha("dependent", json!([reference(&owner, "v1", "ConfigMap")]))).await;
    cluster.delete(&format!("{maps}/owner")).await;
    cluster.gone(&format!("{alphas}/dependent")).await;
    let quotas = "/api/v1/namespaces/mixed/resourcequotas";
    let hard = json!({"count/alphas.mixed.io": "2"});
    cluster.create(quotas, json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await;
    until("one counts", async || {
        cluster.get(&format!("{quotas}/q")).await.unwrap()["status"]["used"]["count/alphas.mixed.io"] == "1"
    })
    .await;
    cluster.create(alphas, alpha("second", json!([]))).await;
    let third = cluster.send("POST", alphas, "application/json", &alpha("third", json!([]))).await;
    let error = third.unwrap_err().to_string();
    assert!(error.contains("exceeded quota: q"), "{error}");
    cluster.delete("/api/v1/namespaces/mixed").await;
    cluster.gone("/api/v1/namespaces/mixed").await;
    let left = cluster.get("/apis/mixed.io/v1alpha1/alphas").await.unwrap();
    assert_eq!(left["items"], json!([]), "nothing stays behind in a namespace that does not exist");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_stays_until_every_api_that_may_have_objects_in_it_answers() {
    let cluster = Cluster::with_controllers().await;
    let service = json!({
        "metadata": {"name": "v1.down.io"},
        "spec": {
            "group": "down.io", "version": "v1", "insecureSkipTLSVerify": true, "groupPriorityMinimum": 100,
            "versionPriority": 100, "service": {"name": "none", "namespace": "default"},
        },
    });
    let services = "/apis/apiregistration.k8s.io/v1/apiservices";
    cluster.create(services, service).await;
    until("the API is known to be down", async || {
        let found = cluster.get(&format!("{services}/v1.down.io")).await.unwrap();
        found["status"]["conditions"][0]["status"] == "False"
    })
    .await;
    cluster.namespace("held").await;
    cluster.create("/api/v1/namespaces/held/configmaps", json!({"metadata": {"name": "content"}})).await;
    cluster.delete("/api/v1/namespaces/held").await;
    until("the condition", async || {
        let held = cluster.get("/api/v1/namespaces/held").await.expect("the namespace stays");
        let conditions = held["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let message = "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: \
                       down.io/v1: stale GroupVersion discovery: down.io/v1";
        conditions.iter().any(|c| {
            c["type"] == "NamespaceDeletionDiscoveryFailure" && c["status"] == "True" && c["message"] == message
        })
    })
    .await;
    cluster.gone("/api/v1/namespaces/held/configmaps/content").await;
    // The collector works on while the API is down.
    cluster.collector_passes("default", "first").await;
    assert!(cluster.get("/api/v1/namespaces/held").await.is_some());
    cluster.delete(&format!("{services}/v1.down.io")).await;
    cluster.gone("/api/v1/namespaces/held").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_never_deleted_before_its_content() {
    let cluster = Cluster::with_controllers().await;
    let named = json!({"metadata": {"name": "ns"}, "spec": {"finalizers": ["x.io/y"]}});
    let made = cluster.create("/api/v1/namespaces", named).await;
    assert_eq!(made["spec"]["finalizers"], json!(["x.io/y", "kubernetes"]));
    let path = "/api/v1/namespaces/ns";
    let config = "/api/v1/namespaces/ns/configmaps";
    let held = json!({"metadata": {"name": "content", "finalizers": ["example.com/hold"]}});
    cluster.create(config, held).await;
    let patched = cluster.patch(path, json!({"spec": {"finalizers": []}})).await;
    assert_eq!(patched["spec"], made["spec"]);
    let mut replaced = patched.clone();
    replaced["spec"] = json!({});
    let replaced = cluster.send("PUT", path, "application/json", &replaced).await.unwrap();
    assert_eq!(replaced["spec"], made["spec"]);
    cluster.delete(path).await;
    cluster.patch(path, json!({"spec": {"finalizers": []}})).await;
    until("its content is waited for", async || {
        let namespace = cluster.get(path).await.expect("the namespace stays");
        let conditions = namespace["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "NamespaceFinalizersRemaining" && c["status"] == "True")
    })
    .await;
    assert!(cluster.get(&format!("{config}/content")).await.is_some());
    cluster.patch(&format!("{config}/content"), json!({"metadata": {"finalizers": []}})).await;
    until("the server's finalizer goes with the content", async || {
        cluster.get(path).await.unwrap()["spec"]["finalizers"] == json!(["x.io/y"])
    })
    .await;
    let mut last = cluster.get(path).await.unwrap();
    last["spec"]["finalizers"] = json!([]);
    cluster.send("PUT", &format!("{path}/finalize"), "application/json", &last).await.unwrap();
    cluster.gone(path).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_namespaces_of_every_cluster_are_made_again() {
    let cluster = Cluster::with_controllers().await;
    let path = "/api/v1/namespaces/kube-node-lease";
    let first = cluster.get(path).await.unwrap()["metadata"]["uid"].clone();
    cluster.delete(path).await;
    until("a new namespace", async || {
        cluster.get(path).await.is_some_and(|found| found["metadata"]["uid"] != first)
    })
    .await;
}

const PODS: &str = "/api/v1/namespaces/default/pods";
const BUDGET: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/budget";

impl Cluster {
    async fn running_pod(&self, name: &str) {
        let spec = json!({"nodeName": "node", "containers": [{"name": "c", "image": "i"}]});
        self.create(PODS, json!({"metadata": {"name": name, "labels": {"app": "x"}}, "spec": spec})).await;
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let status = json!({"phase": "Running", "conditions": [ready]});
        self.patch(&format!("{PODS}/{name}/status"), json!({"status": status})).await;
    }

    async fn budget(&self, allowed: i64) {
        let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}});
        let path = BUDGET.trim_end_matches("/budget");
        let made = self.create(path, json!({"metadata": {"name": "budget"}, "spec": spec})).await;
        let status = json!({
            "observedGeneration": made["metadata"]["generation"], "disruptionsAllowed": allowed,
            "currentHealthy": 3, "desiredHealthy": 1, "expectedPods": 3,
        });
        self.patch(&format!("{BUDGET}/status"), json!({"status": status})).await;
    }

    async fn evict(&self, pod: &str, options: Value) -> Result<Value, kube::Error> {
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}, "deleteOptions": options,
        });
        self.send("POST", &format!("{PODS}/{pod}/eviction"), "application/json", &eviction).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_of_an_eviction_spends_no_budget() {
    let cluster = Cluster::for_pods().await;
    for pod in ["p0", "p1", "p2"] {
        cluster.running_pod(pod).await;
    }
    cluster.budget(1).await;
    let before = cluster.get(BUDGET).await.unwrap();
    for pod in ["p0", "p1", "p2"] {
        cluster.evict(pod, json!({"dryRun": ["All"]})).await.unwrap();
        let path = format!("{PODS}/{pod}/eviction?dryRun=All");
        let eviction = json!({"metadata": {"name": pod}});
        cluster.send("POST", &path, "application/json", &eviction).await.unwrap();
    }
    assert_eq!(cluster.get(BUDGET).await.unwrap(), before);
    assert!(
        cluster.get(&format!("{PODS}/p0")).await.unwrap()["status"]["conditions"].as_array().unwrap().len()
            == 1
    );
    cluster.evict("p0", Value::Null).await.unwrap();
    let after = cluster.get(BUDGET).await.unwrap();
    assert_eq!(after["status"]["disruptionsAllowed"], 0);
    assert!(after["status"]["disruptedPods"]["p0"].is_string());
    for options in [Value::Null, json!({"dryRun": ["All"]})] {
        let refused = cluster.evict("p1", options).await.unwrap_err();
        assert!(matches!(refused, kube::Error::Api(status) if status.code == 429));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_pod_says_so() {
    let cluster = Cluster::for_pods().await;
    cluster.running_pod("p0").await;
    cluster.evict("p0", Value::Null).await.unwrap();
    let pod = cluster.get(&format!("{PODS}/p0")).await.unwrap();
    assert!(pod["metadata"]["deletionTimestamp"].is_string());
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    let target = conditions.iter().find(|c| c["type"] == "DisruptionTarget").expect("the condition");
    assert_eq!((&target["status"], &target["reason"]), (&json!("True"), &json!("EvictionByEvictionAPI")));
    assert_eq!(target["message"], "Eviction API: evicting");
}

#[tokio::test(flavor = "multi_thread")]
async fn evictions_at_the_same_time_spend_each_disruption_once() {
    let cluster = Cluster::for_pods().await;
    let names: Vec<String> = (0..12).map(|n| format!("p{n}")).collect();
    for pod in &names {
        cluster.running_pod(pod).await;
    }
    cluster.budget(8).await;
    let done = futures::future::join_all(names.iter().map(|pod| cluster.evict(pod, Value::Null))).await;
    let code = |result: &Result<Value, kube::Error>| match result {
        Ok(_) => 201,
        Err(kube::Error::Api(status)) => status.code,
        Err(error) => panic!("{error}"),
    };
    let mut codes: Vec<u16> = done.iter().map(code).collect();
    codes.sort_unstable();
    assert_eq!(codes, [vec![201; 8], vec![429; 4]].concat(), "a conflict is no answer");
    let budget = cluster.get(BUDGET).await.unwrap();
    assert_eq!(budget["status"]["disruptedPods"].as_object().unwrap().len(), 8);
}
