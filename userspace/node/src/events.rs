//! Events about pods and the node.
//!
//! In: [`Report`]s from every part of the agent. Out: Events in the API; a repeated event raises the count of the first
//! one.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::sync::mpsc;

use crate::names;
use crate::plan::status::seconds;

const COMPONENT: &str = "kubelet";
/// How many different events are kept for counting, and how many objects' budgets before old ones are dropped.
const MAX_REMEMBERED: usize = 512;
/// An event that was not repeated for this long starts a new count.
const COUNT_WINDOW: SignedDuration = SignedDuration::from_mins(10);
/// One object may send this many events at once, and then one every [`REFILL_SECONDS`].
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;
/// Events that wait for the API server; further ones are lost.
const QUEUE_LENGTH: usize = 512;
const MIN_RETRY_DELAY: Duration = Duration::from_millis(500);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(30);

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub object: ObjectReference,
    pub warning: bool,
    pub reason: String,
    pub message: String,
}

/// Accepts reports; cheap to clone, never waits.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Report>,
}

impl Recorder {
    /// The recorder, and the task that writes. The task ends when every clone of the recorder is dropped.
    pub fn new(client: Client, node: &str) -> (Recorder, impl Future<Output = ()> + Send + use<>) {
        let (queue, reports) = mpsc::channel(QUEUE_LENGTH);
        let writer = Writer {
            client,
            node: node.to_owned(),
            sent: HashMap::new(),
            order: VecDeque::new(),
            budgets: HashMap::new(),
        };
        (Recorder { queue }, writer.run(reports))
    }

    pub fn report(&self, report: Report) {
        // The queue is full when the API server is away for long: then events are lost.
        let _ = self.queue.try_send(report);
    }

    /// Reports on a pod, or on one of its containers.
    pub fn pod(
        &self,
        pod: &Pod,
        container: Option<&str>,
        warning: bool,
        reason: &str,
        message: impl Into<String>,
    ) {
        let (name, namespace, uid) = names::of(pod);
        let spec = pod.spec.as_ref();
        let field_path = container.map(|container| {
            let init = spec.and_then(|s| s.init_containers.as_ref());
            let ephemeral = spec.and_then(|s| s.ephemeral_containers.as_ref());
            let list = if init.is_some_and(|l| l.iter().any(|c| c.name == container)) {
                "initContainers"
            } else if ephemeral.is_some_and(|l| l.iter().any(|c| c.name == container)) {
                "ephemeralContainers"
            } else {
                "containers"
            };
            format!("spec.{list}{{{container}}}")
        });
        self.report(Report {
            object: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(name),
                namespace: Some(namespace),
                uid: Some(uid),
                resource_version: pod.metadata.resource_version.clone(),
                field_path,
            },
            warning,
            reason: reason.to_owned(),
            message: message.into(),
        });
    }

    pub fn node(&self, node: &str, warning: bool, reason: &str, message: impl Into<String>) {
        self.report(Report {
            object: ObjectReference {
                kind: Some("Node".into()),
                name: Some(node.to_owned()),
                uid: Some(node.to_owned()),
                ..Default::default()
            },
            warning,
            reason: reason.to_owned(),
            message: message.into(),
        });
    }
}

type Identity = (String, Option<String>, bool, String, String);

struct Sent {
    name: String,
    namespace: String,
    count: i32,
    last: Timestamp,
}

struct Writer {
    client: Client,
    node: String,
    sent: HashMap<Identity, Sent>,
    order: VecDeque<Identity>,
    budgets: HashMap<String, (f64, Timestamp)>,
}

impl Writer {
    async fn run(mut self, mut reports: mpsc::Receiver<Report>) {
        while let Some(report) = reports.recv().await {
            let now = Timestamp::now();
            if !self.allowed(&report, now) {
                continue;
            }
            let mut delay = MIN_RETRY_DELAY;
            while let Err(error) = self.write(&report, now).await {
                // The API server would reject the event again; an event that did not reach it is repeated.
                if matches!(error, kube::Error::Api(_)) {
                    tracing::debug!(%error, reason = report.reason, "write event failed");
                    break;
                }
                if reports.is_closed() {
                    return;
                }
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(MAX_RETRY_DELAY);
            }
        }
    }

    fn allowed(&mut self, report: &Report, now: Timestamp) -> bool {
        if self.budgets.len() > MAX_REMEMBERED {
            self.budgets.retain(|_, (_, last)| now.duration_since(*last) < SignedDuration::from_hours(2));
        }
        let key = report.object.uid.clone().unwrap_or_default();
        let (budget, last) = self.budgets.entry(key).or_insert((BURST, now));
        *budget = (*budget + now.duration_since(*last).as_secs_f64() / REFILL_SECONDS).min(BURST);
        *last = now;
        if *budget < 1.0 {
            return false;
        }
        *budget -= 1.0;
        true
    }

    async fn write(&mut self, report: &Report, now: Timestamp) -> Result<(), kube::Error> {
        let identity: Identity = (
            report.object.uid.clone().unwrap_or_default(),
            report.object.field_path.clone(),
            report.warning,
            report.reason.clone(),
            report.message.clone(),
        );
        let namespace = report.object.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        if let Some(sent) = self.sent.get_mut(&identity)
            && now.duration_since(sent.last) < COUNT_WINDOW
        {
            let count = sent.count.saturating_add(1);
            let body = serde_json::json!({"count": count, "lastTimestamp": seconds(now)});
            match api.patch(&sent.name, &PatchParams::default(), &Patch::Merge(body)).await {
                Ok(_) => {
                    sent.count = count;
                    sent.last = now;
                    return Ok(());
                }
                // The event has expired at the server: write a new one.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let event = self.event(report, namespace.clone(), now);
        let name = event.metadata.name.clone().unwrap_or_default();
        api.create(&PostParams::default(), &event).await?;
        self.remember(identity, Sent { name, namespace, count: 1, last: now });
        Ok(())
    }

    fn event(&self, report: &Report, namespace: String, now: Timestamp) -> Event {
        let object = report.object.name.clone().unwrap_or_default();
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{object}.{:x}", now.as_nanosecond())),
                namespace: Some(namespace),
                ..Default::default()
            },
            involved_object: report.object.clone(),
            type_: Some(if report.warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(report.reason.clone()),
            message: Some(report.message.chars().take(1024).collect()),
            count: Some(1),
            first_timestamp: Some(seconds(now)),
            last_timestamp: Some(seconds(now)),
            source: Some(EventSource { component: Some(COMPONENT.into()), host: Some(self.node.clone()) }),
            reporting_component: Some(COMPONENT.to_owned()),
            reporting_instance: Some(self.node.clone()),
            ..Default::default()
        }
    }

    fn remember(&mut self, identity: Identity, sent: Sent) {
        tracing::trace!(event = sent.name, namespace = sent.namespace, "event written");
        if self.sent.insert(identity.clone(), sent).is_none() {
            self.order.push_back(identity);
        }
        while self.order.len() > MAX_REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.sent.remove(&oldest);
            }
        }
    }
}
