//! Deletes pods that no other part deletes: those of nodes that are gone or out of service, terminating ones that were
//! never bound, and the oldest of too many finished ones. PURE.
//!
//! A node may be registered again soon after its object was deleted, and its pods run on meanwhile: they are deleted only
//! after a quarantine, as upstream's, and after a look at the server.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;
use skep_api::time;

use super::node_conditions::ready_status;
use super::routing::own_key;
use super::{pods, taint_eviction};
use crate::action::{Action, Context, Controller, Delete};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
const MISSING_NODE_QUARANTINE: Duration = Duration::from_secs(40);
/// The key for counting finished pods. No pod has it, since pods have namespaces.
const FINISHED: &str = "finished";

pub struct PodGc {
    pub threshold: usize,
}

impl Controller for PodGc {
    fn name(&self) -> &'static str {
        "pod-gc"
    }

    fn account(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Pod, Kind::Node]
    }

    fn route(&self, change: &Change, view: &View, keys: &mut Vec<Key>) {
        match change.object() {
            Some(Object::Pod(pod)) if change.new.is_some() => {
                let lost = !pods::node_name(pod).is_empty()
                    && view.nodes.get(&Key::cluster(pods::node_name(pod))).is_none();
                if meta::terminating(&pod.metadata) || lost {
                    own_key(change, Kind::Pod, keys);
                }
                if self.threshold > 0 && pods::finished(pod) {
                    keys.push(Key::cluster(FINISHED));
                }
            }
            Some(Object::Node(node)) if change.new.is_none() || out_of_service(node) => {
                keys.extend(view.pods.indexed(meta::name(&node.metadata)).map(|p| Key::of(&p.metadata)));
            }
            _ => {}
        }
    }

    fn reconcile(&self, view: &View, key: &Key, context: Context<'_>) -> Vec<Action> {
        if key.namespace.is_empty() {
            return self.surplus(view);
        }
        let Some(pod) = view.pods.get(key) else { return Vec::new() };
        let node_key = Key::cluster(pods::node_name(pod));
        let terminating = meta::terminating(&pod.metadata);
        if node_key.name.is_empty() {
            return if terminating { fail_and_delete(pod, None, context.now) } else { Vec::new() };
        }
        match view.nodes.get(&node_key) {
            None => {
                let due = quarantine_end(view, &node_key, pod, context);
                if due > context.now {
                    return vec![Action::RequeueAt(due)];
                }
                let mut actions = vec![Action::EnsureMissing { kind: Kind::Node, key: node_key }];
                let why = ("DeletionByPodGC", "PodGC: node no longer exists");
                actions.extend(fail_and_delete(pod, Some(why), context.now));
                actions
            }
            Some(node) if terminating && ready_status(node) != "True" && out_of_service(node) => {
                fail_and_delete(pod, None, context.now)
            }
            Some(_) => Vec::new(),
        }
    }
}

/// When a pod of a missing node may be deleted. The pod may have been bound after the node went.
fn quarantine_end(view: &View, node: &Key, pod: &Pod, context: Context<'_>) -> Timestamp {
    let scheduled = pods::condition(pod, "PodScheduled").and_then(|c| c.last_transition_time.as_ref());
    let bound = scheduled.map_or_else(|| meta::created(&pod.metadata), |time| time.0);
    let missing_since = view.node_missing_since(node).unwrap_or(context.steady);
    let missing_for = time::elapsed(missing_since, context.steady);
    let by_node = time::after(context.now, MISSING_NODE_QUARANTINE.saturating_sub(missing_for));
    time::after(bound.min(context.now), MISSING_NODE_QUARANTINE).max(by_node)
}

impl PodGc {
    fn surplus(&self, view: &View) -> Vec<Action> {
        let mut finished: Vec<&Arc<Pod>> = view
            .pods
            .iter()
            .map(|(_, p)| p)
            .filter(|p| pods::finished(p) && !meta::terminating(&p.metadata))
            .collect();
        let surplus = finished.len().saturating_sub(self.threshold);
        if surplus == 0 {
            return Vec::new();
        }
        // Evicted pods first: nothing counts on them.
        finished.sort_by_key(|p| (!is_evicted(p), meta::created(&p.metadata), p.metadata.name.clone()));
        finished.into_iter().take(surplus).map(force_delete).collect()
    }
}

fn out_of_service(node: &Node) -> bool {
    node.spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|t| t.key == OUT_OF_SERVICE)
}

/// Deletes without grace: no node can terminate the pod's processes.
fn force_delete(pod: &Arc<Pod>) -> Action {
    Action::Delete(Delete {
        kind: Kind::Pod,
        key: Key::of(&pod.metadata),
        uid: pod.metadata.uid.clone(),
        grace_seconds: Some(0),
        propagation: None,
    })
}

fn is_evicted(pod: &Pod) -> bool {
    pod.status
        .as_ref()
        .is_some_and(|s| s.phase.as_deref() == Some("Failed") && s.reason.as_deref() == Some("Evicted"))
}

/// Sets the phase of an unfinished pod to Failed before its deletion, so that its Job counts an outcome.
fn fail_and_delete(pod: &Arc<Pod>, why: Option<(&str, &str)>, now: Timestamp) -> Vec<Action> {
    let mut actions = Vec::new();
    if !pods::finished(pod) {
        let mut status = json!({"phase": "Failed"});
        if let Some((reason, message)) = why {
            status["conditions"] = json!(taint_eviction::disrupted(pod, reason, message, now));
        }
        actions.push(taint_eviction::patch_status(pod, &status));
    }
    actions.push(force_delete(pod));
    actions
}
