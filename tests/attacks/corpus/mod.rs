//! Thousands of hostile requests, generated from the served schemas and by mutation, against a running server.

mod generate;
mod requests;
mod schema;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ReplicationController, ResourceQuota};
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};
use kube::client::Body;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skep_tests::server_process::ServerProcess;
use tokio::task::JoinHandle;

use requests::Hostile;
use schema::Schemas;

const NAMESPACE: &str = "hostile";
const MIN_REQUESTS: usize = 2_000;
const CONCURRENCY: usize = 16;
/// Every hostile request is answered within this time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests of others are answered within this time meanwhile: a second, and two more for a debug build on a slow machine.
const OTHERS_TIMEOUT: Duration = Duration::from_secs(3);
const PROBE_INTERVAL: Duration = Duration::from_millis(20);
/// Bounded by what is kept by design: history, and the heaps of the threads that work on large bodies.
const MAX_GROWTH: u64 = 160 << 20;
/// In the message about an applied object that has a wrong type.
const UNTYPED: &str = "failed to create typed patch object";
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn the_server_outlives_hostile_requests_and_answers_others_meanwhile() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut server = ServerProcess::start(folder.path(), &[]).await?;
    let client = server.client().await?;
    prepare(&client).await?;
    let openapi: Value = client.request(http::Request::get("/openapi/v2").body(Vec::new())?).await?;
    let requests = requests::all(&Schemas::of(&openapi), NAMESPACE);
    ensure!(requests.len() >= MIN_REQUESTS, "only {} requests", requests.len());
    let before = server.resident()?;
    let probe = Probe::start(&client);
    let mut faults = Vec::new();
    for request in &requests {
        faults.extend(play(&client, request).await.err());
        server.check_alive().with_context(|| format!("after {request}"))?;
    }
    let answers = futures::stream::iter(requests.iter().map(|request| play(&client, request)));
    let all: Vec<Result<()>> = answers.buffer_unordered(CONCURRENCY).collect().await;
    faults.extend(all.into_iter().filter_map(Result::err));
    let slowest = probe.stop().await?;
    server.check_alive()?;
    let growth = settled_growth(&server, before).await?;
    let listed: Vec<String> = faults.iter().map(|fault| format!("{fault:#}")).collect();
    ensure!(listed.is_empty(), "{} of {}:\n{}", listed.len(), requests.len(), listed.join("\n"));
    ensure!(slowest < OTHERS_TIMEOUT, "another client waited {slowest:?}");
    ensure!(growth < MAX_GROWTH, "memory grew by {} MiB", growth >> 20);
    // What was stored must not stop the next start, nor the controllers after it.
    server.kill()?;
    let server = ServerProcess::start(folder.path(), &[]).await?;
    reconciles(&server.client().await?).await
}

/// Bytes that the server holds beyond those of its start, once its allocator has given back what is free.
async fn settled_growth(server: &ServerProcess, before: u64) -> Result<u64> {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let growth = server.resident()?.saturating_sub(before);
        if growth < MAX_GROWTH || Instant::now() > deadline {
            return Ok(growth);
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

fn parsed<K: DeserializeOwned>(value: Value) -> Result<K> {
    Ok(serde_json::from_value(value)?)
}

/// A namespace in which hostile objects may lead to few others: a ReplicaSet of two thousand million pods is legal.
async fn prepare(client: &Client) -> Result<()> {
    let params = PostParams::default();
    let namespace = parsed(json!({"metadata": {"name": NAMESPACE}}))?;
    Api::<Namespace>::all(client.clone()).create(&params, &namespace).await?;
    let quota = parsed(json!({
        "metadata": {"name": "few"},
        "spec": {"hard": {"count/pods": "20", "count/replicasets.apps": "20", "count/jobs.batch": "20"}},
    }))?;
    Api::<ResourceQuota>::namespaced(client.clone(), NAMESPACE).create(&params, &quota).await?;
    for namespace in [NAMESPACE, "default"] {
        let probe = parsed(json!({"metadata": {"name": "probe"}, "data": {"a": "b"}}))?;
        Api::<ConfigMap>::namespaced(client.clone(), namespace).create(&params, &probe).await?;
    }
    Ok(())
}

/// Sends a request and takes back what it stored. An error is a fault of the server.
async fn play(client: &Client, request: &Hostile) -> Result<()> {
    let sent = async {
        let answer = client.send(request.http()?).await?;
        let status = answer.status();
        let body = if request.endless {
            Vec::new()
        } else {
            answer.into_body().collect().await?.to_bytes().to_vec()
        };
        Ok::<_, anyhow::Error>((status, body))
    };
    let answered = tokio::time::timeout(ANSWER_TIMEOUT, sent).await;
    let (status, body) = match answered {
        Err(_) => bail!("no answer within {ANSWER_TIMEOUT:?}: {request}"),
        Ok(answer) => answer.with_context(|| format!("no answer: {request}"))?,
    };
    // 501 and 504 are answers of their own; 500 is a fault that the server did not foresee, or upstream's answer to an
    // applied object with a wrong type.
    let text = String::from_utf8_lossy(&body);
    ensure!(
        status != http::StatusCode::INTERNAL_SERVER_ERROR || text.contains(UNTYPED),
        "500: {request}: {text}"
    );
    if status == http::StatusCode::CREATED
        && let Some(collection) = &request.collection
        && let Ok(object) = serde_json::from_slice::<Value>(&body)
        && let Some(name) = object["metadata"]["name"].as_str()
    {
        let path = format!("{collection}/{name}?gracePeriodSeconds=0");
        let delete = http::Request::delete(path).body(Body::empty())?;
        client.send(delete).await.with_context(|| format!("delete after {request}"))?;
    }
    Ok(())
}

/// A client that asks for one object all the time.
struct Probe {
    stopped: Arc<AtomicBool>,
    task: JoinHandle<Result<Duration>>,
}

impl Probe {
    fn start(client: &Client) -> Probe {
        let stopped = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(Probe::run(client.clone(), stopped.clone()));
        Probe { stopped, task }
    }

    async fn run(client: Client, stopped: Arc<AtomicBool>) -> Result<Duration> {
        let maps: Api<ConfigMap> = Api::namespaced(client, "default");
        let mut slowest = Duration::ZERO;
        while !stopped.load(Ordering::Relaxed) {
            let start = Instant::now();
            maps.get("probe").await?;
            slowest = slowest.max(start.elapsed());
            tokio::time::sleep(PROBE_INTERVAL).await;
        }
        Ok(slowest)
    }

    /// The longest time of an answer.
    async fn stop(self) -> Result<Duration> {
        self.stopped.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

/// Controllers still work: a Deployment leads to a ReplicaSet, a ReplicationController to a pod.
async fn reconciles(client: &Client) -> Result<()> {
    let labels = json!({"app": "after"});
    let template =
        json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let params = PostParams::default();
    let deployment = json!({
        "metadata": {"name": "after"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
    });
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    deployments.create(&params, &parsed(deployment)?).await?;
    let controller = json!({"metadata": {"name": "old"}, "spec": {"replicas": 1, "selector": labels, "template": template}});
    let controllers: Api<ReplicationController> = Api::namespaced(client.clone(), "default");
    controllers.create(&params, &parsed(controller)?).await?;
    let deadline = Instant::now() + RECONCILE_TIMEOUT;
    loop {
        let replicas = deployments.get("after").await?.status.and_then(|status| status.replicas);
        let old = controllers.get("old").await?.status.map(|status| status.replicas);
        if replicas == Some(1) && old == Some(1) {
            break;
        }
        ensure!(Instant::now() < deadline, "not reconciled: {replicas:?}, {old:?}");
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
    drop(deployments.delete("after", &DeleteParams::default()).await?);
    Ok(())
}
