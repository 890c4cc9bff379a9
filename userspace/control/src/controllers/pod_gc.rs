//! Deletes pods that no other part deletes: those of nodes that are gone or out of service, terminating ones that were
//! never bound, and the oldest of too many finished ones. PURE.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;

use super::node_lifecycle::ready_status;
use super::routing::own_key;
use super::{pods, taint_eviction};
use crate::action::{Action, Context, Controller, Delete};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// The key for counting finished pods. No pod has it, since pods have namespaces.
const FINISHED: &str = "finished";

pub struct PodGc {
    pub threshold: usize,
}

impl Controller for PodGc {
    fn name(&self) -> &'static str {
        "pod-gc"
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
            return if terminating { vec![force_delete(pod)] } else { Vec::new() };
        }
        match view.nodes.get(&node_key) {
            None => {
                let mut actions = vec![Action::EnsureMissing { kind: Kind::Node, key: node_key }];
                actions.extend(fail(pod, context.now));
                actions.push(force_delete(pod));
                actions
            }
            Some(node) if terminating && ready_status(node) != "True" && out_of_service(node) => {
                let mut actions = fail(pod, context.now);
                actions.push(force_delete(pod));
                actions
            }
            Some(_) => Vec::new(),
        }
    }
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
        finished.sort_by_key(|p| meta::created(&p.metadata));
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

/// Sets the phase of an unfinished pod to Failed first, so that its Job counts an outcome.
fn fail(pod: &Arc<Pod>, now: Timestamp) -> Vec<Action> {
    if pods::finished(pod) {
        return Vec::new();
    }
    vec![
        taint_eviction::disrupted(pod, "DeletionByPodGC", "PodGC: node no longer exists", now),
        Action::Patch {
            kind: Kind::Pod,
            key: Key::of(&pod.metadata),
            patch: json!({"metadata": {"uid": pod.metadata.uid}, "status": {"phase": "Failed"}}),
            subresource: "status",
        },
    ]
}
