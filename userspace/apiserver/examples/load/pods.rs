//! Pods that a node runs: from the create to Ready, and from the delete until they are gone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::connection::{Connection, Target};
use crate::samples::Samples;
use crate::{Failure, NAMESPACE, watch};

/// The time that a pod may take.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Deserialize)]
struct Event {
    r#type: String,
    object: Pod,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

impl Event {
    fn is_ready(&self) -> bool {
        self.object.status.conditions.iter().any(|it| it.r#type == "Ready" && it.status == "True")
    }

    fn is_gone(&self) -> bool {
        self.r#type == "DELETED"
    }
}

/// The namespace's pods, followed by a watch and changed over a connection of their own.
struct Pods {
    lines: watch::Lines,
    connection: Connection,
    path: String,
    template: String,
}

impl Pods {
    async fn new(target: &Target, template: String) -> Result<Pods, Failure> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
        let revision = watch::revision(target, &path).await?;
        let watched = watch::watch(watch::connect(target).await?, &target.address, &path, &revision).await?;
        let connection = Connection::open(target).await?;
        Ok(Pods { lines: watch::Lines::new(watched), connection, path, template })
    }

    async fn create(&mut self, name: &str) -> Result<(), Failure> {
        let body = self.template.replace("@NAME", name);
        self.connection.expect(&[201], "POST", &self.path, &body).await.map(drop)
    }

    async fn delete(&mut self, name: &str) -> Result<(), Failure> {
        let path = format!("{}/{name}", self.path);
        let now = r#"{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0}"#;
        self.connection.expect(&[200], "DELETE", &path, now).await.map(drop)
    }

    /// Until each of the pods had such an event.
    async fn until(&mut self, names: &[String], is_so: fn(&Event) -> bool) -> Result<(), Failure> {
        let mut missing: HashSet<&str> = names.iter().map(String::as_str).collect();
        while !missing.is_empty() {
            let line = tokio::time::timeout(PATIENCE, self.lines.next()).await;
            let line = line.map_err(|_| format!("still waited for: {missing:?}"))??;
            let event: Event = serde_json::from_str(line)?;
            if is_so(&event) {
                missing.remove(event.object.metadata.name.as_str());
            }
        }
        Ok(())
    }
}

/// Each pod is created and deleted before the next one.
pub(crate) async fn one_at_a_time(
    target: Arc<Target>,
    count: usize,
    template: String,
) -> Result<Value, Failure> {
    let mut pods = Pods::new(&target, template).await?;
    let (mut ready, mut gone, start) = (Samples::default(), Samples::default(), Instant::now());
    for at in 0..count {
        let name = format!("one-{at}");
        let created = Instant::now();
        pods.create(&name).await?;
        pods.until(std::slice::from_ref(&name), Event::is_ready).await?;
        ready.add(created.elapsed());
        let deleted = Instant::now();
        pods.delete(&name).await?;
        pods.until(std::slice::from_ref(&name), Event::is_gone).await?;
        gone.add(deleted.elapsed());
    }
    let took = start.elapsed();
    Ok(json!({"ready": ready.report(took), "gone": gone.report(took)}))
}

/// All pods are created at once; they stay.
pub(crate) async fn together(target: Arc<Target>, count: usize, template: String) -> Result<Value, Failure> {
    let mut pods = Pods::new(&target, template).await?;
    let names: Vec<String> = (0..count).map(|at| format!("together-{at}")).collect();
    let start = Instant::now();
    for name in &names {
        pods.create(name).await?;
    }
    pods.until(&names, Event::is_ready).await?;
    Ok(json!({"seconds": start.elapsed().as_secs_f64()}))
}
