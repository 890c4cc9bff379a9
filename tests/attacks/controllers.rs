//! Objects that a reconcile cannot handle: they hold up no other object.

#[path = "../control/cluster.rs"]
#[expect(dead_code, reason = "shared with the tests of controllers, which use all of it")]
mod cluster;

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{ListParams, PostParams};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skep_control::Health;
use skep_store::Expect;

use cluster::{Cluster, Running, config, parsed, until};

impl Cluster {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        self.api::<K>().create(&PostParams::default(), &parsed(object)).await.unwrap()
    }

    /// Starts controllers and scheduler, and returns what they say about themselves.
    fn start(&self) -> (Running, Arc<Health>) {
        let health = Arc::new(Health::default());
        (self.run(skep_control::Config { health: health.clone(), ..config() }), health)
    }

    async fn pods(&self, label: &str) -> usize {
        self.api::<Pod>().list_metadata(&ListParams::default().labels(label)).await.unwrap().items.len()
    }

    /// Creates a Deployment and waits until both of its controllers have acted.
    async fn deploys(&self, name: &str) {
        self.create::<Deployment>(json!({"metadata": {"name": name}, "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": name}}, "template": template(name),
        }}))
        .await;
        let label = format!("app={name}");
        until(&format!("pods of {name}"), async || self.pods(&label).await == 2).await;
    }

    /// Writes an object beneath the API server, where nothing checks it.
    async fn store_unchecked(&self, resource: &str, object: &Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        let key = match object["metadata"]["namespace"].as_str() {
            Some(namespace) => format!("/registry/{resource}/{namespace}/{name}"),
            None => format!("/registry/{resource}/{name}"),
        };
        self.server.store().put(&key, object.to_string().into(), Expect::Any).await.unwrap();
    }
}

fn template(app: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Always"},
    })
}

fn job(name: &str, deadline: i64) -> Value {
    let mut template = template(name);
    template["spec"]["restartPolicy"] = json!("Never");
    json!({"metadata": {"name": name}, "spec": {"activeDeadlineSeconds": deadline, "template": template}})
}

/// Resident memory of this process in MiB.
fn resident_mib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_deadline_is_beyond_all_times_runs_like_others() {
    let cluster = Cluster::new().await;
    let (_running, health) = cluster.start();
    for (name, deadline) in [("far", 300_000_000_000), ("last", i64::MAX), ("near", 60)] {
        cluster.create::<Job>(job(name, deadline)).await;
    }
    for name in ["far", "last", "near"] {
        let label = format!("job-name={name}");
        until(&format!("pod of {name}"), async || cluster.pods(&label).await == 1).await;
    }
    assert!(!health.metrics().contains("panics"), "{}", health.metrics());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_tolerates_a_taint_for_longer_than_time_stays() {
    let cluster = Cluster::new().await;
    let (_running, health) = cluster.start();
    cluster.deploys("first").await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let taint = json!({"key": "k", "effect": "NoExecute", "timeAdded": "9999-12-30T21:59:59Z"});
    let node = parsed(json!({"metadata": {"name": "n"}, "spec": {"taints": [taint]}}));
    nodes.create(&PostParams::default(), &node).await.unwrap();
    for (name, tolerations) in [
        (
            "long",
            json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 9_000_000_000_000_i64}]),
        ),
        ("longest", json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": i64::MAX}])),
        ("intolerant", json!([])),
    ] {
        cluster
            .create::<Pod>(json!({"metadata": {"name": name}, "spec": {
                "nodeName": "n", "tolerations": tolerations, "containers": [{"name": "c", "image": "i"}],
            }}))
            .await;
    }
    let going = async |name: &str| {
        let pod = cluster.api::<Pod>().get_opt(name).await.unwrap();
        pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())
    };
    until("the pod without a toleration goes", async || going("intolerant").await).await;
    cluster.deploys("web").await;
    assert!(!going("long").await && !going("longest").await);
    assert!(!health.metrics().contains("panics"), "{}", health.metrics());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_of_two_billion_pods_is_made_in_bounded_steps() {
    let cluster = Cluster::new().await;
    cluster
        .create::<StatefulSet>(json!({"metadata": {"name": "huge"}, "spec": {
            "replicas": i32::MAX, "podManagementPolicy": "Parallel", "serviceName": "huge",
            "selector": {"matchLabels": {"app": "huge"}}, "template": template("huge"),
        }}))
        .await;
    let mut indexed = job("indexed", 600);
    indexed["spec"]["completionMode"] = json!("Indexed");
    (indexed["spec"]["completions"], indexed["spec"]["parallelism"]) = (json!(i32::MAX), json!(10));
    cluster.create::<Job>(indexed).await;
    let (_running, _) = cluster.start();
    until("the first pods", async || cluster.pods("app=huge").await > 0).await;
    cluster.deploys("web").await;
    until("a second step", async || cluster.pods("app=huge").await > 520).await;
    until("indexed pods", async || cluster.pods("job-name=indexed").await == 10).await;
    assert!(resident_mib() < 700, "{} MiB", resident_mib());
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_objects_that_do_not_decode_hold_up_no_other_object() {
    let cluster = Cluster::new().await;
    let uid = |n: u8| format!("00000000-0000-0000-0000-00000000000{n}");
    let pod = |grace: Value| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "bad", "namespace": "default", "uid": uid(1)},
            "spec": {"containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": grace}})
    };
    cluster.store_unchecked("pods", &pod(json!(30.0))).await;
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "bad", "namespace": "default", "uid": uid(2), "generation": 1.0},
        "spec": {"ports": [{"port": 1}]}});
    cluster.store_unchecked("services", &service).await;
    let request = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "bad", "uid": uid(3)},
        "spec": {"request": "YWJj\nZGVm", "signerName": "a.b/c", "usages": ["client auth"]}});
    cluster.store_unchecked("certificates.k8s.io/certificatesigningrequests", &request).await;
    let node =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "bad", "uid": uid(4)}, "spec": 7});
    cluster.store_unchecked("nodes", &node).await;

    for round in ["first", "second"] {
        let (running, health) = cluster.start();
        cluster.deploys(round).await;
        until("every object is named", async || {
            let named =
                ["Pod default/bad", "Service default/bad", "CertificateSigningRequest bad", "Node bad"];
            let metrics = health.metrics();
            named.iter().all(|name| metrics.contains(&format!("skep_unreadable_object{{object=\"{name}\"}}")))
        })
        .await;
        assert!(health.ready() && !health.metrics().contains("skep_part_unsynced"), "{}", health.metrics());
        drop(running);
    }
    let about_pod = async || {
        let events = cluster.api::<Event>().list(&ListParams::default()).await.unwrap();
        events.items.into_iter().any(|event| {
            event.reason.as_deref() == Some("Unreadable")
                && event.involved_object.uid.as_deref() == Some(&*uid(1))
        })
    };
    until("an Event about the pod", about_pod).await;

    // It becomes unreadable and readable again while the controllers run.
    let (_running, health) = cluster.start();
    let named = "skep_unreadable_object{object=\"Pod default/bad\"}";
    until("the pod is named", async || health.metrics().contains(named)).await;
    cluster.store_unchecked("pods", &pod(json!(30))).await;
    until("the pod is read again", async || !health.metrics().contains(named)).await;
    cluster.store_unchecked("pods", &pod(json!(1e300))).await;
    until("the pod is named again", async || health.metrics().contains(named)).await;
    cluster.deploys("third").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_keeps_a_pod_whose_new_version_does_not_decode() {
    let cluster = Cluster::new().await;
    let (_running, health) = cluster.start();
    cluster
        .create::<ReplicaSet>(json!({"metadata": {"name": "one"}, "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "one"}}, "template": template("one"),
        }}))
        .await;
    until("its pod", async || cluster.pods("app=one").await == 1).await;
    let list = cluster.api::<Pod>().list(&ListParams::default().labels("app=one")).await.unwrap();
    let mut pod = serde_json::to_value(list.items.first().unwrap()).unwrap();
    pod["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    (pod["apiVersion"], pod["kind"]) = (json!("v1"), json!("Pod"));
    pod["spec"]["terminationGracePeriodSeconds"] = json!(30.5);
    cluster.store_unchecked("pods", &pod).await;
    until("the pod is named", async || health.metrics().contains("skep_unreadable_objects{kind=\"Pod\"} 1"))
        .await;
    cluster.deploys("web").await;
    assert_eq!(cluster.pods("app=one").await, 1, "no second pod is made");
}
