//! Pods that wait behind a scheduling gate, are let go, and are bound by the server's scheduler.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::connection::Target;
use crate::{Failure, NAMESPACE, Request, objects, repeat, watch};

/// Pods of one application.
const REPLICAS: usize = 50;
/// The time without any binding after which the rest is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Nodes that are ready.
pub(crate) async fn nodes(target: Arc<Target>, count: usize) -> Result<Value, Failure> {
    let next = Arc::new(AtomicUsize::new(0));
    repeat(target, move || {
        let at = next.fetch_add(1, Ordering::Relaxed);
        (at < count).then(|| Request::post("/api/v1/nodes".to_owned(), objects::node(at)))
    })
    .await
}

/// Pods of the template; `@NAME` and `@APP` in it become names.
pub(crate) async fn create(
    target: Arc<Target>,
    count: usize,
    template: String,
    is_gated: bool,
) -> Result<Value, Failure> {
    let mut template: Value = serde_json::from_str(&template)?;
    if is_gated {
        template["spec"]["schedulingGates"] = json!([{"name": "bench.example/start"}]);
    }
    let (template, next) = (template.to_string(), AtomicUsize::new(0));
    repeat(target, move || {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let app = format!("app-{}", at / REPLICAS);
        let body = || template.replace("@NAME", &pod_name(at)).replace("@APP", &app);
        (at < count).then(|| Request::post(format!("/api/v1/namespaces/{NAMESPACE}/pods"), body()))
    })
    .await
}

/// Creates pods without a gate; ends when all are bound.
pub(crate) async fn create_and_bind(
    target: Arc<Target>,
    count: usize,
    template: String,
) -> Result<Value, Failure> {
    let bindings = watched(&target).await?;
    let (start, bindings) = (Instant::now(), tokio::spawn(follow(bindings, count)));
    let created = create(target, count, template, false).await?;
    report(bindings.await??, start, "created", created)
}

/// Removes the gates of all; ends when all are bound.
pub(crate) async fn open(target: Arc<Target>, count: usize) -> Result<Value, Failure> {
    let bindings = watched(&target).await?;
    let (start, bindings) = (Instant::now(), tokio::spawn(follow(bindings, count)));
    let next = AtomicUsize::new(0);
    let opened = repeat(target, move || {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let path = || format!("/api/v1/namespaces/{NAMESPACE}/pods/{}", pod_name(at));
        (at < count).then(|| Request::merge_patch(path(), r#"{"spec":{"schedulingGates":null}}"#.to_owned()))
    })
    .await?;
    report(bindings.await??, start, "opened", opened)
}

fn pod_name(at: usize) -> String {
    format!("pod-{at:06}")
}

fn report(bound: usize, start: Instant, what: &str, writes: Value) -> Result<Value, Failure> {
    let seconds = start.elapsed().as_secs_f64();
    Ok(json!({"bound": bound, "seconds": seconds, "rate": bound as f64 / seconds, what: writes}))
}

async fn watched(target: &Target) -> Result<Incoming, Failure> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let revision = watch::revision(target, &path).await?;
    watch::watch(watch::connect(target).await?, &target.address, &path, &revision).await
}

#[derive(Deserialize)]
struct Event {
    object: Pod,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
}

/// Reads until so many pods have a node.
async fn follow(body: Incoming, count: usize) -> Result<usize, Failure> {
    let (mut lines, mut bound) = (watch::Lines::new(body), HashSet::new());
    while bound.len() < count {
        let line = tokio::time::timeout(PATIENCE, lines.next()).await;
        let line = line.map_err(|_| format!("{} of {count} pods were bound", bound.len()))??;
        // Most lines are of pods without a node: they are not parsed.
        if !line.contains("\"nodeName\":") {
            continue;
        }
        let event: Event = serde_json::from_str(line)?;
        if event.object.spec.node_name.is_some() {
            bound.insert(event.object.metadata.name);
        }
    }
    Ok(bound.len())
}
