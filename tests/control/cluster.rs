//! The test API server, and the parts of `skep_control` that run against it.

use std::time::Duration;

use kube::Client;
use serde::de::DeserializeOwned;
use serde_json::Value;
use skep_tests::api_server::{Requests, TestApiServer};
use tokio::task::JoinHandle;

const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Long enough for a busy machine; a passing test does not wait for it.
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) server: TestApiServer,
}

/// Parts at work; they stop on drop.
pub(crate) struct Running {
    task: JoinHandle<()>,
    requests: Requests,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    /// Method and path of every request so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.all()
    }
}

/// Settings for nodes without agents: they must not be declared dead while a test runs.
pub(crate) fn config() -> skep_control::Config {
    skep_control::Config {
        root_ca_pem: "PEM".into(),
        node_startup_grace: Duration::from_secs(3600),
        ..Default::default()
    }
}

/// A cluster with all parts.
pub(crate) async fn cluster() -> (Cluster, Running) {
    let cluster = Cluster::new().await;
    let running = cluster.run(config());
    (cluster, running)
}

impl Cluster {
    /// A server without controllers and scheduler.
    pub(crate) async fn new() -> Cluster {
        let server = TestApiServer::start().await.unwrap();
        Cluster { client: server.client(), server }
    }

    /// Starts the parts that the configuration selects.
    pub(crate) fn run(&self, config: skep_control::Config) -> Running {
        let (clients, requests) = self.server.clients_by_user();
        let clients = skep_control::Clients::new(clients);
        let task = tokio::spawn(async move { drop(skep_control::run(clients, config).await) });
        Running { task, requests }
    }
}

pub(crate) fn parsed<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// Waits for a future until the deadline.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(DEADLINE, future).await;
    done.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
}

/// Polls a condition until it holds or the deadline passes.
pub(crate) async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    soon(what, async {
        while !condition().await {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    })
    .await;
}
