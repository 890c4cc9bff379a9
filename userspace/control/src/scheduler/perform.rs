//! Writes decisions: bindings, conditions, events, and the removal of pods that make room.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::core::{Decision, FAULT};
use super::name::SCHEDULER_NAME;
use super::preempt::{Plan, TARGET_REASON};
use super::volumes::VolumePlan;
use crate::action::Record;
use crate::cache::{Key, Kind, Object};
use crate::controllers::pods::{condition, node_name};
use crate::events::Recorder;
use crate::guard::caught_async;
use crate::meta;
use crate::requests;

const MIN_CHECK_RETRY: Duration = Duration::from_millis(100);
const MAX_CHECK_RETRY: Duration = Duration::from_secs(10);

/// How the writes of one decision ended.
pub(super) enum WriteResult {
    Written,
    /// The pod has no node: its room is free again.
    BindingFailed {
        key: Key,
        uid: String,
    },
    /// The binder has what it needs for the pod's volumes.
    VolumesWritten {
        key: Key,
        uid: String,
        written: Vec<Object>,
    },
    /// Not everything could be written.
    VolumesFailed {
        key: Key,
        uid: String,
        written: Vec<Object>,
    },
    /// Not every victim could be removed.
    PreemptionFailed {
        key: Key,
        uid: String,
    },
}

/// Writes a decision. A panic on the way counts as a failed write.
pub(super) async fn perform(client: Client, recorder: Arc<Recorder>, decision: Decision) -> WriteResult {
    let (pod, failed) = match &decision {
        Decision::Bind { pod, .. } => (pod.clone(), Undone::Binding),
        Decision::PrepareVolumes { pod, .. } => (pod.clone(), Undone::Volumes),
        Decision::Refuse { pod, plan: Some(_), .. } => (pod.clone(), Undone::Preemption),
        Decision::Refuse { pod, .. } => (pod.clone(), Undone::Report),
    };
    caught_async(write(client, recorder, decision)).await.unwrap_or_else(|error| {
        let (key, uid) = (Key::of(&pod.metadata), meta::uid(&pod.metadata).to_owned());
        tracing::error!(pod = %key, %error, "write decision failed");
        match failed {
            Undone::Binding => WriteResult::BindingFailed { key, uid },
            Undone::Volumes => WriteResult::VolumesFailed { key, uid, written: Vec::new() },
            Undone::Preemption => WriteResult::PreemptionFailed { key, uid },
            Undone::Report => WriteResult::Written,
        }
    })
}

/// What a panic on the way leaves undone.
enum Undone {
    Binding,
    Volumes,
    Preemption,
    Report,
}

async fn write(client: Client, recorder: Arc<Recorder>, decision: Decision) -> WriteResult {
    let id = |pod: &Pod| (Key::of(&pod.metadata), meta::uid(&pod.metadata).to_owned());
    match decision {
        Decision::Bind { pod, node } => match bind(&client, &recorder, &pod, &node).await {
            true => WriteResult::Written,
            false => {
                let (key, uid) = id(&pod);
                WriteResult::BindingFailed { key, uid }
            }
        },
        Decision::PrepareVolumes { pod, plan, .. } => {
            let (key, uid) = id(&pod);
            let (written, complete) = prepare_volumes(&client, &key, plan).await;
            match complete {
                true => WriteResult::VolumesWritten { key, uid, written },
                false => WriteResult::VolumesFailed { key, uid, written },
            }
        }
        Decision::Refuse { pod, reason, message, plan, nominated } => {
            let preempted = match &plan {
                Some(plan) => preempt(&client, &recorder, &pod, plan).await,
                None => true,
            };
            refuse(&client, &recorder, &pod, reason, message, nominated.as_deref()).await;
            if preempted {
                return WriteResult::Written;
            }
            let (key, uid) = id(&pod);
            WriteResult::PreemptionFailed { key, uid }
        }
    }
}

/// Binds the pod; whether it has a node afterwards.
async fn bind(client: &Client, recorder: &Recorder, pod: &Pod, node: &str) -> bool {
    let key = Key::of(&pod.metadata);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
    let binding = Binding {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            // Binds this pod, not a later one of the same name.
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
            recorder.record(client, SCHEDULER_NAME, &record(pod, false, "Scheduled", message)).await;
            true
        }
        Err(kube::Error::Api(status)) if (400..500).contains(&status.code) && status.code != 409 => {
            tracing::info!(pod = %key, node, %status, "bind pod failed");
            false
        }
        // A conflict may come from our own earlier request whose answer was lost.
        Err(error) => {
            tracing::info!(pod = %key, node, %error, "bind pod failed; checking whether it is bound");
            has_node(&pods, &key, meta::uid(&pod.metadata)).await
        }
    }
}

/// Reserves volumes and selects the node of claims, each guarded by its version: the versions written, and whether all are.
async fn prepare_volumes(client: &Client, pod: &Key, plan: VolumePlan) -> (Vec<Object>, bool) {
    let volumes = plan.volumes.into_iter().map(Object::from);
    let mut written = Vec::new();
    for object in volumes.chain(plan.claims.into_iter().map(Object::from)) {
        match requests::update(client, &object, "").await {
            Ok(object) => written.push(object),
            Err(error) => {
                let object = Key::of(object.meta());
                tracing::info!(%pod, %object, %error, "prepare volume failed; the pod is tried again");
                return (written, false);
            }
        }
    }
    (written, true)
}

/// Asks until the server answers whether the pod has a node: before that its room may not be given to another pod.
async fn has_node(pods: &Api<Pod>, key: &Key, uid: &str) -> bool {
    let mut pause = MIN_CHECK_RETRY;
    loop {
        match pods.get_opt(&key.name).await {
            Ok(pod) => {
                return pod.is_some_and(|p| meta::uid(&p.metadata) == uid && !node_name(&p).is_empty());
            }
            Err(error) => {
                tracing::debug!(pod = %key, %error, "get pod to check its binding failed; it is retried")
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_CHECK_RETRY);
    }
}

async fn refuse(
    client: &Client,
    recorder: &Recorder,
    pod: &Pod,
    reason: &'static str,
    message: String,
    nominated: Option<&str>,
) {
    let old = condition(pod, "PodScheduled");
    let is_known = old
        .is_some_and(|old| old.reason.as_deref() == Some(reason) && old.message.as_deref() == Some(&message));
    let known_node = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
    if !is_known || known_node.filter(|name| !name.is_empty()) != nominated {
        let since = old.filter(|old| old.status == "False").and_then(|old| old.last_transition_time.clone());
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "observedGeneration": pod.metadata.generation,
            "lastTransitionTime": since.unwrap_or_else(|| meta::time(Timestamp::now())),
        });
        // A patch with null removes the name of a node that reserves nothing any more.
        let status = json!({"conditions": [condition], "nominatedNodeName": nominated});
        patch_status(client, pod, status).await;
    }
    if matches!(reason, "Unschedulable" | FAULT) {
        recorder.record(client, SCHEDULER_NAME, &record(pod, true, "FailedScheduling", message)).await;
    }
}

/// Deletes the victims, each with its own grace period; whether all deletes succeeded.
async fn preempt(client: &Client, recorder: &Recorder, pod: &Pod, plan: &Plan) -> bool {
    let removals = plan.victims.iter().map(|victim| remove(client, recorder, pod, victim, &plan.node));
    join_all(removals).await.into_iter().all(|removed| removed)
}

async fn remove(client: &Client, recorder: &Recorder, pod: &Pod, victim: &Pod, node: &str) -> bool {
    if meta::terminating(&victim.metadata) {
        return true;
    }
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": TARGET_REASON,
        "message": format!("{SCHEDULER_NAME}: preempting to accommodate a higher priority pod"),
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
            recorder.record(client, SCHEDULER_NAME, &record(victim, false, "Preempted", message)).await;
            true
        }
        // Already gone, or another pod of the same name.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => true,
        Err(error) => {
            tracing::info!(pod = %key, %error, "delete preempted pod failed");
            false
        }
    }
}

async fn patch_status(client: &Client, pod: &Pod, status: Value) {
    let key = Key::of(&pod.metadata);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
    // With the uid the patch cannot reach a later pod of the same name.
    let patch = Patch::Strategic(json!({"metadata": {"uid": pod.metadata.uid}, "status": status}));
    if let Err(error) = pods.patch_status(&key.name, &PatchParams::default(), &patch).await {
        tracing::debug!(pod = %key, %error, "patch pod status failed");
    }
}

fn record(pod: &Pod, warning: bool, reason: &'static str, message: String) -> Record {
    let uid = meta::uid(&pod.metadata).to_owned();
    Record { kind: Kind::Pod, key: Key::of(&pod.metadata), uid, warning, reason, message }
}
