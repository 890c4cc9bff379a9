//! All controllers at work through a real client: watches, writes, garbage collection, namespaces, leadership.

mod server;

use std::time::Duration;

use serde_json::{Value, json};
use server::Server;
use skep_control::{Config, LeaderElection};
use tokio::task::JoinHandle;

/// Stops its controllers when it goes.
struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn config() -> Config {
    Config { root_ca_pem: "PEM".into(), parts: skep_control::Parts::Controllers, ..Default::default() }
}

fn start(server: &Server, config: Config) -> Running {
    let client = server.client();
    Running(tokio::spawn(async move { drop(skep_control::run(client, config).await) }))
}

fn namespace(server: &Server, name: &str) {
    server.create("namespaces", json!({"metadata": {"name": name}}));
}

fn deployment(namespace: &str, replicas: u32) -> Value {
    json!({
        "metadata": {"name": "web", "namespace": namespace},
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

async fn delete(server: &Server, path: &str, propagation: &str) {
    let body = json!({"propagationPolicy": propagation}).to_string().into_bytes();
    let request = http::Request::delete(path).body(body).unwrap();
    server.client().request_text(request).await.unwrap();
}

#[tokio::test]
async fn a_deployment_gets_its_pods_and_takes_them_along() {
    let server = Server::new();
    namespace(&server, "ns");
    server.create("deployments", deployment("ns", 3));
    let _running = start(&server, config());
    server.until("three pods", |s| s.list("pods").len() == 3).await;
    server.until("status", |s| s.list("deployments")[0]["status"]["updatedReplicas"] == json!(3)).await;
    delete(&server, "/apis/apps/v1/namespaces/ns/deployments/web", "Background").await;
    server.until("no pods", |s| s.list("pods").is_empty() && s.list("replicasets").is_empty()).await;
}

#[tokio::test]
async fn a_foreground_deletion_ends_with_the_owner() {
    let server = Server::new();
    namespace(&server, "ns");
    server.create("deployments", deployment("ns", 2));
    let _running = start(&server, config());
    server.until("two pods", |s| s.list("pods").len() == 2).await;
    delete(&server, "/apis/apps/v1/namespaces/ns/deployments/web", "Foreground").await;
    server.until("the deployment is gone", |s| s.list("deployments").is_empty()).await;
    assert_eq!((server.list("replicasets").len(), server.list("pods").len()), (0, 0));
}

#[tokio::test]
async fn orphans_outlive_their_owner() {
    let server = Server::new();
    namespace(&server, "ns");
    server.create("deployments", deployment("ns", 2));
    let _running = start(&server, config());
    server.until("two pods", |s| s.list("pods").len() == 2).await;
    delete(&server, "/apis/apps/v1/namespaces/ns/deployments/web", "Orphan").await;
    server.until("the deployment is gone", |s| s.list("deployments").is_empty()).await;
    let owners = server.list("replicasets")[0]["metadata"]["ownerReferences"].clone();
    assert!(owners.as_array().is_none_or(Vec::is_empty), "{owners}");
    assert_eq!(server.list("pods").len(), 2);
}

#[tokio::test]
async fn an_object_whose_owner_never_was_is_collected_and_others_stay() {
    let server = Server::new();
    namespace(&server, "ns");
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "gone", "uid": "uid-of-old"});
    server.create(
        "secrets",
        json!({"metadata": {"name": "lost", "namespace": "ns", "ownerReferences": [owner]}}),
    );
    server.create("secrets", json!({"metadata": {"name": "own", "namespace": "ns"}}));
    let _running = start(&server, config());
    server.until("collected", |s| s.list("secrets").len() == 1).await;
    assert_eq!(server.list("secrets")[0]["metadata"]["name"], json!("own"));
}

#[tokio::test]
async fn a_namespace_is_furnished_and_at_its_end_emptied() {
    let server = Server::new();
    let _running = start(&server, config());
    namespace(&server, "ns");
    server.until("account", |s| s.list("serviceaccounts").len() == 1).await;
    server.until("root CA", |s| s.list("configmaps").len() == 1).await;
    assert_eq!(server.list("configmaps")[0]["data"]["ca.crt"], json!("PEM"));
    let held = json!({"metadata": {"name": "held", "namespace": "ns", "finalizers": ["example.com/hold"]}});
    server.create("secrets", held);
    delete(&server, "/api/v1/namespaces/ns", "Background").await;
    server
        .until("what remains is told", |s| {
            let conditions = s.list("namespaces")[0]["status"]["conditions"].clone();
            conditions.as_array().is_some_and(|c| {
                c.iter().any(|c| c["type"] == "NamespaceFinalizersRemaining" && c["status"] == "True")
            })
        })
        .await;
    let free = json!({"metadata": {"finalizers": null}}).to_string().into_bytes();
    let request = http::Request::patch("/api/v1/namespaces/ns/secrets/held")
        .header("content-type", "application/merge-patch+json")
        .body(free)
        .unwrap();
    server.client().request_text(request).await.unwrap();
    server.until("the namespace is gone", |s| s.list("namespaces").is_empty()).await;
    assert_eq!((server.list("secrets").len(), server.list("configmaps").len()), (0, 0));
}

#[tokio::test]
async fn one_of_two_candidates_leads_and_the_other_follows_when_it_ends() {
    let server = Server::new();
    let candidate = |name: &str| Config {
        leader_election: Some(LeaderElection {
            lease_duration: Duration::from_secs(1),
            renew_deadline: Duration::from_millis(600),
            retry_period: Duration::from_millis(100),
            ..LeaderElection::new(name)
        }),
        ..config()
    };
    let holder = |s: &Server| s.list("leases").first().map(|l| l["spec"]["holderIdentity"].clone());
    let first = start(&server, candidate("first"));
    server.until("a leader", |s| holder(s) == Some(json!("first"))).await;
    let _second = start(&server, candidate("second"));
    drop(first);
    server.until("the other leads", |s| holder(s) == Some(json!("second"))).await;
    namespace(&server, "ns");
    server.until("it works", |s| s.list("serviceaccounts").len() == 1).await;
}

#[tokio::test]
async fn at_rest_nothing_is_asked_of_the_server() {
    let server = Server::new();
    namespace(&server, "ns");
    server.create("deployments", deployment("ns", 2));
    let _running = start(&server, config());
    server.until("two pods", |s| s.list("pods").len() == 2).await;
    server.until("furnished", |s| s.list("configmaps").len() == 1).await;
    // The last writes may still bring others about: rest is when a whole second brings none.
    let mut before = server.requests();
    let quiet = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = server.requests();
            if now == before {
                return;
            }
            before = now;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), quiet).await.is_ok(), "{before} requests and more");
}
