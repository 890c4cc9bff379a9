//! Pods on nodes with NoExecute taints: deleted at once, after their tolerationSeconds, or never. PURE.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use skep_api::fit::tolerates;
use skep_api::time;

use super::pods;
use super::routing::own_key;
use crate::action::{Action, Context, Controller};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;

pub(super) const DISRUPTION_TARGET: &str = "DisruptionTarget";

pub struct TaintEviction;

impl Controller for TaintEviction {
    fn name(&self) -> &'static str {
        "taint-eviction"
    }

    fn account(&self) -> &'static str {
        "node-controller"
    }

    fn event_source(&self) -> &'static str {
        "taint-eviction-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Pod, Kind::Node]
    }

    fn route(&self, change: &Change, view: &View, keys: &mut Vec<Key>) {
        match change.object() {
            Some(Object::Pod(pod)) if !pods::node_name(pod).is_empty() => own_key(change, Kind::Pod, keys),
            Some(Object::Node(node)) if taints(change.old.as_ref()) != taints(change.new.as_ref()) => {
                keys.extend(view.pods.indexed(meta::name(&node.metadata)).map(|p| Key::of(&p.metadata)));
            }
            _ => {}
        }
    }

    fn reconcile(&self, view: &View, key: &Key, context: Context<'_>) -> Vec<Action> {
        let Some(pod) = view.pods.get(key).filter(|p| !meta::terminating(&p.metadata)) else {
            return Vec::new();
        };
        let Some(node) = view.nodes.get(&Key::cluster(pods::node_name(pod))) else { return Vec::new() };
        let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
        match eviction_time(pod, taints, context.now) {
            None => Vec::new(),
            Some(at) if at > context.now => vec![Action::RequeueAt(at)],
            Some(_) => {
                let object = Object::Pod(pod.clone());
                let message = format!("Marking for deletion Pod {key}");
                let why = "Taint manager: deleting due to NoExecute taint";
                let conditions = disrupted(pod, "DeletionByTaintManager", why, context.now);
                vec![
                    patch_status(pod, &json!({"conditions": conditions})),
                    Action::record(&object, false, "TaintManagerEviction", message),
                    Action::delete(object),
                ]
            }
        }
    }
}

/// The pod's conditions with DisruptionTarget, which says why the pod is deleted.
pub(super) fn disrupted(pod: &Pod, reason: &str, message: &str, now: Timestamp) -> Vec<PodCondition> {
    let mut conditions = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let old = conditions.iter().find(|c| c.type_ == DISRUPTION_TARGET && c.status == "True");
    let since = old.and_then(|c| c.last_transition_time.clone());
    conditions.retain(|c| c.type_ != DISRUPTION_TARGET);
    conditions.push(PodCondition {
        type_: DISRUPTION_TARGET.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: since.or_else(|| Some(meta::time(now))),
        observed_generation: pod.metadata.generation,
        ..Default::default()
    });
    conditions
}

/// Patches fields of the pod's status. The version guards the lists in it against a report of the node at the same time.
pub(super) fn patch_status(pod: &Pod, status: &Value) -> Action {
    let ObjectMeta { uid, resource_version, .. } = &pod.metadata;
    Action::Patch {
        kind: Kind::Pod,
        key: Key::of(&pod.metadata),
        patch: json!({"metadata": {"uid": uid, "resourceVersion": resource_version}, "status": status}),
        subresource: "status",
    }
}

fn taints(object: Option<&Object>) -> Vec<&Taint> {
    match object {
        Some(Object::Node(node)) => {
            no_execute(node.spec.iter().flat_map(|s| s.taints.iter().flatten())).collect()
        }
        _ => Vec::new(),
    }
}

fn no_execute<'a>(taints: impl Iterator<Item = &'a Taint>) -> impl Iterator<Item = &'a Taint> {
    taints.filter(|t| t.effect == "NoExecute")
}

/// When the pod is evicted; `None` if it tolerates every taint for ever.
pub fn eviction_time(pod: &Pod, taints: &[Taint], now: Timestamp) -> Option<Timestamp> {
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    no_execute(taints.iter())
        .filter_map(|taint| {
            let from = taint.time_added.as_ref().map_or(now, |t| t.0);
            let mut seconds: Option<i64> = None;
            let mut tolerated = false;
            for toleration in tolerations.iter().filter(|t| tolerates(t, taint)) {
                tolerated = true;
                if let Some(s) = toleration.toleration_seconds {
                    seconds = Some(seconds.map_or(s, |shortest| shortest.min(s)));
                }
            }
            match (tolerated, seconds) {
                (false, _) => Some(now),
                (true, None) => None,
                (true, Some(s)) => Some(time::after_seconds(from, s)),
            }
        })
        .min()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PodSpec, Toleration};

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn taint() -> Taint {
        Taint {
            key: "node.kubernetes.io/unreachable".into(),
            effect: "NoExecute".into(),
            time_added: Some(meta::time(at(0))),
            value: None,
        }
    }

    fn pod(tolerations: Vec<Toleration>) -> Pod {
        Pod {
            spec: Some(PodSpec { tolerations: Some(tolerations), ..Default::default() }),
            ..Default::default()
        }
    }

    fn exists(key: &str, seconds: Option<i64>) -> Toleration {
        Toleration {
            key: Some(key.into()).filter(|k: &String| !k.is_empty()),
            operator: Some("Exists".into()),
            toleration_seconds: seconds,
            ..Default::default()
        }
    }

    #[test]
    fn an_untolerated_taint_evicts_at_once() {
        assert_eq!(eviction_time(&pod(vec![]), &[taint()], at(9)), Some(at(9)));
    }

    #[test]
    fn the_shortest_toleration_counts_from_the_time_of_the_taint() {
        let p = pod(vec![exists("node.kubernetes.io/unreachable", Some(300)), exists("", Some(30))]);
        assert_eq!(eviction_time(&p, &[taint()], at(9)), Some(at(30)));
    }

    #[test]
    fn tolerating_everything_for_ever_never_evicts() {
        assert_eq!(eviction_time(&pod(vec![exists("", None)]), &[taint()], at(9)), None);
    }

    #[test]
    fn other_effects_do_not_evict() {
        let t = Taint { effect: "NoSchedule".into(), ..taint() };
        assert_eq!(eviction_time(&pod(vec![]), &[t], at(9)), None);
    }
}
