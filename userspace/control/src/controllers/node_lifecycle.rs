//! Nodes whose Lease is not renewed: conditions become Unknown, taints follow the conditions, their pods become unready.
//! PURE. The age of a Lease counts from when this process received its change, on the steady clock: neither
//! clocks of nodes nor steps of this machine's clock make a node unreachable.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use serde_json::json;
use skep_api::time;

use super::node_conditions::{NOT_READY, UNREACHABLE, condition_status, conditions, ready_status};
use super::node_zones::{Eviction, eviction, eviction_taint};
use super::pods;
use super::routing::own_key;
use crate::action::{Action, Context, Controller};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;

pub const LEASES: &str = "kube-node-lease";

pub struct NodeLifecycle {
    pub grace: Duration,
    pub startup_grace: Duration,
}

impl Controller for NodeLifecycle {
    fn name(&self) -> &'static str {
        "node-lifecycle"
    }

    fn account(&self) -> &'static str {
        "node-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Node, Kind::Lease, Kind::Pod]
    }

    fn route(&self, change: &Change, view: &View, keys: &mut Vec<Key>) {
        own_key(change, Kind::Node, keys);
        match change.object() {
            // A renewal needs no reconcile: the deadline is computed again when it is reached.
            Some(Object::Lease(lease)) if change.old.is_none() || change.new.is_none() => {
                keys.push(Key::cluster(meta::name(&lease.metadata)));
            }
            Some(Object::Node(_)) if readiness(change.old.as_ref()) != readiness(change.new.as_ref()) => {
                // The pace of evictions depends on the number of ready nodes.
                keys.extend(
                    view.nodes.iter().filter(|(_, n)| ready_status(n) != "True").map(|(k, _)| k.clone()),
                );
            }
            Some(Object::Pod(pod)) if pods::ready(pod) => {
                let node = Key::cluster(pods::node_name(pod));
                if view.nodes.get(&node).is_some_and(|n| ready_status(n) == "Unknown") {
                    keys.push(node);
                }
            }
            _ => {}
        }
    }

    fn reconcile(&self, view: &View, key: &Key, context: Context<'_>) -> Vec<Action> {
        let Some(node) = view.nodes.get(key).filter(|n| !meta::terminating(&n.metadata)) else {
            return Vec::new();
        };
        let mut actions = Vec::new();
        let deadline = self.deadline(view, key);
        if deadline > context.steady {
            actions
                .push(Action::RequeueAt(time::after(context.now, time::elapsed(context.steady, deadline))));
        } else if let Some(patch) = unreachable(node, context.now) {
            actions.push(patch);
            let object = Object::Node(node.clone());
            let message = format!("Node {} status is now: NodeNotReady", key.name);
            actions.push(Action::record(&object, false, "NodeNotReady", message));
            // Taints are decided on the answer to this patch.
            return actions;
        }
        let evicted = is_evicted(view, key, node, context.now, &mut actions);
        actions.extend(taints(node, evicted, context.now));
        if ready_status(node) == "Unknown" {
            actions.extend(view.pods.indexed(&key.name).filter_map(|pod| unready(pod, context.now)));
        }
        actions
    }
}

impl NodeLifecycle {
    /// When the node counts as unreachable on the steady clock, unless its Lease is renewed before. A node without a Lease
    /// counts from its last change.
    fn deadline(&self, view: &View, key: &Key) -> Timestamp {
        let changed = || view.nodes.changed_at(key).unwrap_or(Timestamp::MIN);
        match view.leases.changed_at(&Key::new(LEASES, &key.name)) {
            Some(renewed) => time::after(renewed, self.grace),
            None => time::after(changed(), self.startup_grace),
        }
    }
}

fn readiness(object: Option<&Object>) -> Option<&str> {
    match object {
        Some(Object::Node(node)) => Some(ready_status(node)),
        _ => None,
    }
}

/// Sets the conditions that only the kubelet reports to Unknown; `None` if they are already.
fn unreachable(node: &Node, now: Timestamp) -> Option<Action> {
    const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
    if REPORTED.iter().all(|kind| condition_status(node, kind) == "Unknown") {
        return None;
    }
    let mut all = conditions(node).to_vec();
    for kind in REPORTED {
        match all.iter_mut().find(|c| c.type_ == kind) {
            Some(c) if c.status == "Unknown" => {}
            Some(c) => {
                c.status = "Unknown".into();
                c.reason = Some("NodeStatusUnknown".into());
                c.message = Some("Kubelet stopped posting node status.".into());
                c.last_transition_time = Some(meta::time(now));
            }
            None => all.push(NodeCondition {
                type_: kind.into(),
                status: "Unknown".into(),
                reason: Some("NodeStatusNeverUpdated".into()),
                message: Some("Kubelet never posted node status.".into()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(meta::time(now)),
            }),
        }
    }
    Some(Action::Patch {
        kind: Kind::Node,
        key: Key::of(&node.metadata),
        // The version guards against a report of the node at the same time.
        patch: json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "status": {"conditions": all},
        }),
        subresource: "status",
    })
}

/// Taints that follow from conditions: (condition, status) to key.
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Whether the node has, or gets, the taint that evicts its pods.
fn is_evicted(view: &View, key: &Key, node: &Node, now: Timestamp, actions: &mut Vec<Action>) -> bool {
    if !matches!(ready_status(node), "False" | "Unknown") {
        return false;
    }
    let tainted = eviction_taint(node).is_some();
    match eviction(view, key, node, now) {
        Eviction::Undone => false,
        Eviction::Now => true,
        Eviction::Held => tainted,
        Eviction::At(at) => {
            if !tainted {
                actions.push(Action::RequeueAt(at));
            }
            tainted
        }
    }
}

/// The patch that makes the taints follow the conditions, if they do not.
fn taints(node: &Arc<Node>, evicted: bool, now: Timestamp) -> Option<Action> {
    let spec = node.spec.as_ref();
    let current = spec.and_then(|s| s.taints.clone()).unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (condition, status, key) in BY_CONDITION {
        if condition_status(node, condition) == status
            || (status == "False" && ready_status(node).is_empty() && condition == "Ready")
        {
            wanted.push((key, "NoSchedule"));
            if condition == "Ready" && evicted {
                wanted.push((key, "NoExecute"));
            }
        }
    }
    if spec.is_some_and(|s| s.unschedulable == Some(true)) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let managed = |t: &Taint| t.key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, key)| *key == t.key);
    let mut new: Vec<Taint> = current
        .iter()
        .filter(|t| !managed(t) || wanted.contains(&(t.key.as_str(), t.effect.as_str())))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !new.iter().any(|t| t.key == key && t.effect == effect) {
            new.push(Taint { key: key.into(), effect: effect.into(), ..Default::default() });
        }
    }
    for taint in new.iter_mut().filter(|t| t.effect == "NoExecute") {
        // Tolerations count from this time, also after a change of leadership.
        taint.time_added.get_or_insert_with(|| meta::time(now));
    }
    (new != current).then(|| Action::Patch {
        kind: Kind::Node,
        key: Key::of(&node.metadata),
        patch: json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": new},
        }),
        subresource: "",
    })
}

/// Marks a pod of an unreachable node unready, so that no Service sends to it.
fn unready(pod: &Arc<Pod>, now: Timestamp) -> Option<Action> {
    if !pods::ready(pod) {
        return None;
    }
    let mut conditions = pod.status.as_ref()?.conditions.clone()?;
    let ready = conditions.iter_mut().find(|c| c.type_ == "Ready")?;
    ready.status = "False".into();
    ready.reason = Some("NodeNotReady".into());
    ready.message = Some("Node is not ready".into());
    ready.last_transition_time = Some(meta::time(now));
    Some(Action::Patch {
        kind: Kind::Pod,
        key: Key::of(&pod.metadata),
        patch: json!({
            "metadata": {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version},
            "status": {"conditions": conditions},
        }),
        subresource: "status",
    })
}
