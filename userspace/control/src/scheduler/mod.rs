//! The scheduler: finds nodes for pods. Deciding is pure ([`decide`], over an incremental [`snapshot`]); this file binds.
//!
//! In: the runner's changes of pods, nodes and namespaces. Out: bindings; for pods that fit nowhere the condition
//! `PodScheduled` and an event. A decided pod holds its room from the decision on, while the binding is on its way.

pub mod affinity;
pub mod decide;
pub mod filter;
pub mod queue;
pub mod resources;
pub mod score;
pub mod snapshot;
pub mod spread;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::action::Record;
use crate::controllers::pods::{condition, finished, node_name};
use crate::meta;
use crate::runner::events::Recorder;
use crate::runner::{Heard, wake_at};
use crate::view::{Change, Key, Kind, Object};
use queue::Queue;
use snapshot::Snapshot;

const NAME: &str = "default-scheduler";
/// Bindings under way at once.
const MOST_AT_WORK: usize = 64;

/// What the scheduler decided about a pod.
#[derive(Debug)]
enum Decision {
    Bind { pod: Arc<Pod>, node: Arc<str> },
    Refuse { pod: Arc<Pod>, reason: &'static str, message: String },
}

/// The scheduler's mind. PURE.
#[derive(Default)]
struct Mind {
    snapshot: Snapshot,
    queue: Queue,
    /// Pods that are for this scheduler to place.
    pods: HashMap<Key, Arc<Pod>>,
    decided: u64,
}

impl Mind {
    fn apply(&mut self, change: &Change) {
        self.snapshot.apply(change);
        match (&change.old, &change.new) {
            (_, Some(Object::Pod(pod))) => self.put_pod(pod),
            (Some(Object::Pod(pod)), None) => {
                self.forget(&Key::of(&pod.metadata));
                // It may have left room, or an anti-affinity, behind.
                self.queue.something_changed();
            }
            (old, Some(Object::Node(node))) => {
                let same = matches!(old, Some(Object::Node(old)) if helps_alike(old, node));
                if !same {
                    self.queue.something_changed();
                }
            }
            _ => {}
        }
    }

    fn put_pod(&mut self, pod: &Arc<Pod>) {
        let key = Key::of(&pod.metadata);
        if !is_ours(pod) {
            let waited = self.pods.contains_key(&key);
            self.forget(&key);
            // A pod that was placed may be whom others want to be near to; one that finished has left room.
            if waited || finished(pod) {
                self.queue.something_changed();
            }
            return;
        }
        let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        let same = self
            .pods
            .get(&key)
            .is_some_and(|old| old.spec == pod.spec && old.metadata.labels == pod.metadata.labels);
        self.pods.insert(key.clone(), pod.clone());
        // Our own status writes come back too; they change nothing that matters here.
        if !same {
            self.queue.put(key, priority);
        }
    }

    fn forget(&mut self, key: &Key) {
        self.pods.remove(key);
        self.queue.remove(key);
    }

    fn next(&mut self, now: Timestamp, seed: u64) -> Option<Decision> {
        loop {
            let key = self.queue.take(now)?;
            let Some(pod) = self.pods.get(&key).cloned() else {
                self.queue.remove(&key);
                continue;
            };
            let Some(spec) = &pod.spec else { continue };
            if spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
                self.queue.failed(&key, now, false);
                let message = "Scheduling is blocked due to non-empty scheduling gates".to_owned();
                return Some(Decision::Refuse { pod, reason: "SchedulingGated", message });
            }
            self.decided += 1;
            return Some(match decide::choose(&self.snapshot, &pod, spec, seed.wrapping_add(self.decided)) {
                Ok(node) => {
                    self.snapshot.assume(&pod, &node);
                    Decision::Bind { pod, node }
                }
                Err(why) => {
                    self.queue.failed(&key, now, false);
                    Decision::Refuse { pod, reason: "Unschedulable", message: why.to_string() }
                }
            });
        }
    }

    /// The server did not take the binding: the room is free again, unless the pod is there by another way.
    fn not_bound(&mut self, key: &Key, now: Timestamp) {
        if self.pods.contains_key(key) {
            self.snapshot.delete_pod(key);
            self.queue.failed(key, now, true);
        }
    }
}

fn is_ours(pod: &Pod) -> bool {
    let name = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or(NAME);
    (name == NAME || name.is_empty())
        && node_name(pod).is_empty()
        && !finished(pod)
        && !meta::terminating(&pod.metadata)
}

/// Whether two versions of a node are the same to every pod.
fn helps_alike(a: &k8s_openapi::api::core::v1::Node, b: &k8s_openapi::api::core::v1::Node) -> bool {
    let allocatable = |node: &k8s_openapi::api::core::v1::Node| {
        node.status.as_ref().and_then(|status| status.allocatable.clone())
    };
    a.spec == b.spec && a.metadata.labels == b.metadata.labels && allocatable(a) == allocatable(b)
}

/// How a binding or a refusal went: the pod, and whether it must be tried again.
type Done = (Key, bool);

/// Schedules until the future is dropped, or the sender is gone.
pub(crate) async fn run(client: Client, mut heard: mpsc::UnboundedReceiver<Heard>) {
    let recorder = Arc::new(Recorder::default());
    let seed: u64 = rand::random();
    let mut mind = Mind::default();
    let mut jobs: JoinSet<Done> = JoinSet::new();
    let mut synced = false;
    loop {
        while synced && jobs.len() < MOST_AT_WORK {
            let Some(decision) = mind.next(Timestamp::now(), seed) else { break };
            jobs.spawn(perform(client.clone(), recorder.clone(), decision));
        }
        let due = mind.queue.next_due().filter(|_| synced && jobs.len() < MOST_AT_WORK);
        tokio::select! {
            told = heard.recv() => {
                let Some(told) = told else { return };
                synced |= take(&mut mind, told);
                // Take in all that has come: a decision is as good as what is known.
                while let Ok(told) = heard.try_recv() {
                    synced |= take(&mut mind, told);
                }
            }
            Some(done) = jobs.join_next() => match done {
                Ok((key, true)) => mind.not_bound(&key, Timestamp::now()),
                Ok((_, false)) => {}
                Err(error) => tracing::error!(%error, "a binding ended without an answer"),
            },
            () = wake_at(due) => {}
        }
    }
}

/// Whether it was the news that everything has been listed.
fn take(mind: &mut Mind, heard: Heard) -> bool {
    match heard {
        Heard::Change(change) => mind.apply(&change),
        Heard::Synced => return true,
    }
    false
}

async fn perform(client: Client, recorder: Arc<Recorder>, decision: Decision) -> Done {
    match decision {
        Decision::Bind { pod, node } => bind(&client, &recorder, &pod, &node).await,
        Decision::Refuse { pod, reason, message } => {
            refuse(&client, &recorder, &pod, reason, message).await;
            (Key::of(&pod.metadata), false)
        }
    }
}

async fn bind(client: &Client, recorder: &Recorder, pod: &Pod, node: &str) -> Done {
    let key = Key::of(&pod.metadata);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
    let binding = Binding {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            // Of this pod, not of a later one with its name.
            uid: pod.metadata.uid.clone(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let bound =
        pods.create_subresource::<_, Status>("binding", &key.name, &PostParams::default(), &binding).await;
    match bound {
        Ok(_) => {
            let message = format!("Successfully assigned {key} to {node}");
            recorder.record(client, &record(pod, false, "Scheduled", message)).await;
            (key, false)
        }
        // Deleted in the meantime.
        Err(kube::Error::Api(status)) if status.code == 404 => (key, true),
        Err(error) => {
            tracing::info!(pod = %key, node, %error, "not bound, will try again");
            (key, true)
        }
    }
}

async fn refuse(client: &Client, recorder: &Recorder, pod: &Pod, reason: &'static str, message: String) {
    let key = Key::of(&pod.metadata);
    let old = condition(pod, "PodScheduled");
    let told = old
        .is_some_and(|old| old.reason.as_deref() == Some(reason) && old.message.as_deref() == Some(&message));
    if !told {
        let pods: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
        let now = meta::time(Timestamp::now());
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message, "lastTransitionTime": now,
        });
        let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
        if let Err(error) = pods.patch_status(&key.name, &PatchParams::default(), &patch).await {
            tracing::debug!(pod = %key, %error, "condition not written");
        }
    }
    if reason == "Unschedulable" {
        recorder.record(client, &record(pod, true, "FailedScheduling", message)).await;
    }
}

fn record(pod: &Pod, warning: bool, reason: &'static str, message: String) -> Record {
    let uid = meta::uid(&pod.metadata).to_owned();
    Record { kind: Kind::Pod, key: Key::of(&pod.metadata), uid, warning, reason, message }
}
