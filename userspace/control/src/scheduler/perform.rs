//! Writes what was decided: bindings, conditions, events, and the removal of pods that make room.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::NAME;
use super::mind::Decision;
use super::preempt::{Plan, TARGET_REASON};
use crate::action::Record;
use crate::controllers::pods::{condition, node_name};
use crate::meta;
use crate::runner::events::Recorder;
use crate::view::{Key, Kind};

/// How the writing went.
pub(super) enum Done {
    Told,
    /// The pod has no node: its room is free again.
    NotBound {
        key: Key,
        uid: String,
    },
    /// Not every pod that is in the way could be removed.
    NotMade {
        key: Key,
        uid: String,
    },
}

pub(super) async fn perform(client: Client, recorder: Arc<Recorder>, decision: Decision) -> Done {
    let id = |pod: &Pod| (Key::of(&pod.metadata), meta::uid(&pod.metadata).to_owned());
    match decision {
        Decision::Bind { pod, node } => match bind(&client, &recorder, &pod, &node).await {
            true => Done::Told,
            false => {
                let (key, uid) = id(&pod);
                Done::NotBound { key, uid }
            }
        },
        Decision::Refuse { pod, reason, message, plan } => {
            let made = match &plan {
                Some(plan) => make_room(&client, &recorder, &pod, plan).await,
                None => true,
            };
            refuse(&client, &recorder, &pod, reason, message, plan.as_ref()).await;
            if made {
                return Done::Told;
            }
            let (key, uid) = id(&pod);
            Done::NotMade { key, uid }
        }
    }
}

/// Whether the pod has a node now.
async fn bind(client: &Client, recorder: &Recorder, pod: &Pod, node: &str) -> bool {
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
            true
        }
        Err(kube::Error::Api(status)) if (400..500).contains(&status.code) && status.code != 409 => {
            tracing::info!(pod = %key, node, %status, "not bound");
            false
        }
        // A conflict may be with what came of an earlier try.
        Err(error) => {
            tracing::info!(pod = %key, node, %error, "may be bound or not");
            has_node(&pods, &key, meta::uid(&pod.metadata)).await
        }
    }
}

/// Asks until the server says whether the pod has a node: before that its room may not be given away.
async fn has_node(pods: &Api<Pod>, key: &Key, uid: &str) -> bool {
    const LONGEST: Duration = Duration::from_secs(10);
    let mut pause = Duration::from_millis(100);
    loop {
        match pods.get_opt(&key.name).await {
            Ok(pod) => {
                return pod.is_some_and(|p| meta::uid(&p.metadata) == uid && !node_name(&p).is_empty());
            }
            Err(error) => tracing::debug!(pod = %key, %error, "asked in vain"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    }
}

async fn refuse(
    client: &Client,
    recorder: &Recorder,
    pod: &Pod,
    reason: &'static str,
    message: String,
    plan: Option<&Plan>,
) {
    let old = condition(pod, "PodScheduled");
    let told = old
        .is_some_and(|old| old.reason.as_deref() == Some(reason) && old.message.as_deref() == Some(&message));
    if !told || plan.is_some() {
        let since = old.filter(|old| old.status == "False").and_then(|old| old.last_transition_time.clone());
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "lastTransitionTime": since.unwrap_or_else(|| meta::time(Timestamp::now())),
        });
        let mut status = json!({"conditions": [condition]});
        if let (Some(plan), Some(status)) = (plan, status.as_object_mut()) {
            status.insert("nominatedNodeName".to_owned(), Value::from(&*plan.node));
        }
        patch_status(client, pod, status).await;
    }
    if reason == "Unschedulable" {
        recorder.record(client, &record(pod, true, "FailedScheduling", message)).await;
    }
}

/// Removes the victims, each by its own grace period; whether all of them go.
async fn make_room(client: &Client, recorder: &Recorder, pod: &Pod, plan: &Plan) -> bool {
    let removals = plan.victims.iter().map(|victim| remove(client, recorder, pod, victim, &plan.node));
    futures::future::join_all(removals).await.into_iter().all(|gone| gone)
}

async fn remove(client: &Client, recorder: &Recorder, pod: &Pod, victim: &Pod, node: &str) -> bool {
    if meta::terminating(&victim.metadata) {
        return true;
    }
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": TARGET_REASON,
        "message": format!("{NAME}: preempting to accommodate a higher priority pod"),
        "lastTransitionTime": meta::time(Timestamp::now()),
    });
    patch_status(client, victim, json!({"conditions": [condition]})).await;
    let key = Key::of(&victim.metadata);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
    let uid = victim.metadata.uid.clone();
    let preconditions = Some(Preconditions { uid, ..Preconditions::default() });
    match pods.delete(&key.name, &DeleteParams { preconditions, ..DeleteParams::default() }).await {
        Ok(_) => {
            let message = format!("Preempted by pod {} on node {node}", meta::uid(&pod.metadata));
            recorder.record(client, &record(victim, false, "Preempted", message)).await;
            true
        }
        // Gone already, or another pod by its name.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => true,
        Err(error) => {
            tracing::info!(pod = %key, %error, "not removed");
            false
        }
    }
}

async fn patch_status(client: &Client, pod: &Pod, status: Value) {
    let key = Key::of(&pod.metadata);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
    // The uid keeps the patch from a later pod by the same name.
    let patch = Patch::Strategic(json!({"metadata": {"uid": pod.metadata.uid}, "status": status}));
    if let Err(error) = pods.patch_status(&key.name, &PatchParams::default(), &patch).await {
        tracing::debug!(pod = %key, %error, "status not written");
    }
}

fn record(pod: &Pod, warning: bool, reason: &'static str, message: String) -> Record {
    let uid = meta::uid(&pod.metadata).to_owned();
    Record { kind: Kind::Pod, key: Key::of(&pod.metadata), uid, warning, reason, message }
}
