//! All controllers at work: watches, writes, garbage collection, namespaces, leadership.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skep_control::{Config, LeaderElection, Parts};
use tokio::time::{Instant, sleep};

use crate::cluster::{self, Cluster, parsed, until};

/// What a second without requests is measured in.
const QUIET_TIME: Duration = Duration::from_secs(1);

fn config() -> Config {
    Config { parts: Parts::Controllers, ..cluster::config() }
}

impl Cluster {
    fn in_ns<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "ns")
    }

    async fn create_ns(&self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = parsed(json!({"metadata": {"name": "ns"}}));
        namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    }

    async fn create<K>(&self, object: Value)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        self.in_ns::<K>().create(&PostParams::default(), &parsed(object)).await.unwrap();
    }

    async fn list<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
    {
        self.in_ns::<K>().list(&ListParams::default()).await.unwrap().items
    }

    async fn count<K>(&self) -> usize
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
    {
        self.list::<K>().await.len()
    }

    async fn delete_web(&self, params: DeleteParams) {
        self.in_ns::<Deployment>().delete("web", &params).await.unwrap();
    }
}

fn deployment(replicas: u32) -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "web:1"}]},
            },
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_gets_its_pods_and_takes_them_along() {
    let cluster = Cluster::new().await;
    cluster.create_ns().await;
    cluster.create::<Deployment>(deployment(3)).await;
    let _running = cluster.run(config());
    until("three pods", async || cluster.count::<Pod>().await == 3).await;
    let updated = |d: &Deployment| d.status.as_ref().and_then(|status| status.updated_replicas);
    until("status", async || updated(&cluster.list().await[0]) == Some(3)).await;
    cluster.delete_web(DeleteParams::background()).await;
    until("no pods", async || cluster.count::<Pod>().await == 0 && cluster.count::<ReplicaSet>().await == 0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cron_job_starts_jobs_and_says_which() {
    let cluster = Cluster::new().await;
    cluster.create_ns().await;
    let pod = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}});
    let spec = json!({"schedule": "@every 1s", "jobTemplate": {"spec": {"template": pod}}});
    cluster.create::<CronJob>(json!({"metadata": {"name": "tick"}, "spec": spec})).await;
    let _running = cluster.run(config());
    until("a Job that is active in the status", async || {
        let jobs = cluster.list::<Job>().await;
        let cron = cluster.list::<CronJob>().await.remove(0);
        let status = cron.status.unwrap_or_default();
        let active = status.active.unwrap_or_default();
        status.last_schedule_time.is_some()
            && jobs.iter().any(|job| active.iter().any(|one| one.uid == job.metadata.uid))
    })
    .await;
    until("a pod of the Job", async || cluster.count::<Pod>().await > 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreground_deletion_ends_with_the_owner() {
    let cluster = Cluster::new().await;
    cluster.create_ns().await;
    cluster.create::<Deployment>(deployment(2)).await;
    let _running = cluster.run(config());
    until("two pods", async || cluster.count::<Pod>().await == 2).await;
    cluster.delete_web(DeleteParams::foreground()).await;
    until("the deployment is gone", async || cluster.count::<Deployment>().await == 0).await;
    assert_eq!((cluster.count::<ReplicaSet>().await, cluster.count::<Pod>().await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_outlive_their_owner() {
    let cluster = Cluster::new().await;
    cluster.create_ns().await;
    cluster.create::<Deployment>(deployment(2)).await;
    let _running = cluster.run(config());
    until("two pods", async || cluster.count::<Pod>().await == 2).await;
    cluster.delete_web(DeleteParams::orphan()).await;
    until("the deployment is gone", async || cluster.count::<Deployment>().await == 0).await;
    let owners = cluster.list::<ReplicaSet>().await[0].metadata.owner_references.clone();
    assert!(owners.iter().flatten().next().is_none(), "{owners:?}");
    assert_eq!(cluster.count::<Pod>().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_whose_owner_never_existed_is_collected_and_others_stay() {
    let cluster = Cluster::new().await;
    cluster.create_ns().await;
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "gone", "uid": "uid-of-old"});
    cluster.create::<Secret>(json!({"metadata": {"name": "lost", "ownerReferences": [owner]}})).await;
    cluster.create::<Secret>(json!({"metadata": {"name": "own"}})).await;
    let _running = cluster.run(config());
    until("collected", async || cluster.count::<Secret>().await == 1).await;
    assert_eq!(cluster.list::<Secret>().await[0].metadata.name.as_deref(), Some("own"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_furnished_and_at_its_end_emptied() {
    let cluster = Cluster::new().await;
    let _running = cluster.run(config());
    cluster.create_ns().await;
    until("account", async || cluster.count::<ServiceAccount>().await == 1).await;
    until("root CA", async || cluster.count::<ConfigMap>().await == 1).await;
    assert_eq!(cluster.list::<ConfigMap>().await[0].data.as_ref().unwrap()["ca.crt"], "PEM");
    cluster.create::<Secret>(json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}})).await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    namespaces.delete("ns", &DeleteParams::background()).await.unwrap();
    until("the condition names what remains", async || {
        let namespace = namespaces.get("ns").await.unwrap();
        let mut conditions = namespace.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.any(|c| c.type_ == "NamespaceFinalizersRemaining" && c.status == "True")
    })
    .await;
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    cluster.in_ns::<Secret>().patch("held", &PatchParams::default(), &patch).await.unwrap();
    until("the namespace is gone", async || namespaces.get_opt("ns").await.unwrap().is_none()).await;
    assert_eq!((cluster.count::<Secret>().await, cluster.count::<ConfigMap>().await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_an_ending_namespace_go_before_what_they_use() {
    let cluster = Cluster::new().await;
    let _running = cluster.run(config());
    cluster.create_ns().await;
    until("account", async || cluster.count::<ServiceAccount>().await == 1).await;
    cluster.create::<Secret>(json!({"metadata": {"name": "used"}})).await;
    let spec = json!({"containers": [{"name": "c", "image": "i"}]});
    let held = json!({"metadata": {"name": "p", "finalizers": ["example.com/hold"]}, "spec": spec});
    cluster.create::<Pod>(held).await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    namespaces.delete("ns", &DeleteParams::background()).await.unwrap();
    until("the condition names the pod", async || {
        let namespace = namespaces.get("ns").await.unwrap();
        let mut conditions = namespace.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let names = |message: &str| message == "Some resources are remaining: pods. has 1 resource instances";
        conditions.any(|c| c.type_ == "NamespaceContentRemaining" && c.message.as_deref().is_some_and(names))
    })
    .await;
    assert_eq!(cluster.count::<Secret>().await, 1, "while a pod remains, nothing else is deleted");
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    cluster.in_ns::<Pod>().patch("p", &PatchParams::default(), &patch).await.unwrap();
    until("the namespace is gone", async || namespaces.get_opt("ns").await.unwrap().is_none()).await;
    assert_eq!(cluster.count::<Secret>().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_candidates_leads_and_the_other_follows_when_it_ends() {
    let cluster = Cluster::new().await;
    let candidate = |name: &str| Config {
        leader_election: Some(LeaderElection {
            lease_duration: Duration::from_secs(1),
            renew_deadline: Duration::from_millis(600),
            retry_period: Duration::from_millis(100),
            ..LeaderElection::new(name)
        }),
        ..config()
    };
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kube-system");
    let leads = async |name: &str| {
        let lease = leases.get_opt("skep-controller-manager").await.unwrap();
        lease.and_then(|lease| lease.spec?.holder_identity).as_deref() == Some(name)
    };
    let first = cluster.run(candidate("first"));
    until("a leader", async || leads("first").await).await;
    let _second = cluster.run(candidate("second"));
    drop(first);
    until("the other leads", async || leads("second").await).await;
    cluster.create_ns().await;
    until("it works", async || cluster.count::<ServiceAccount>().await == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_rest_nothing_is_asked_of_the_server() {
    let cluster = Cluster::new().await;
    cluster.create_ns().await;
    cluster.create::<Deployment>(deployment(2)).await;
    let running = cluster.run(config());
    until("two pods", async || cluster.count::<Pod>().await == 2).await;
    until("furnished", async || cluster.count::<ConfigMap>().await == 1).await;
    // The last writes may still cause others: rest is when a whole second brings none.
    until("a second without requests", async || {
        let (before, start) = (running.requests().len(), Instant::now());
        while running.requests().len() == before {
            if start.elapsed() >= QUIET_TIME {
                return true;
            }
            sleep(Duration::from_millis(50)).await;
        }
        false
    })
    .await;
}
