//! Facts about pods that several controllers use. PURE.

use std::cmp::Ordering;
use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;
use skep_api::time;

use crate::action::Action;
use crate::cache::{Key, Kind};
use crate::meta;

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

pub fn finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither finished nor terminating.
pub fn active(pod: &Pod) -> bool {
    !finished(pod) && !meta::terminating(&pod.metadata)
}

pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

pub fn ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready").filter(|c| c.status == "True")?.last_transition_time.as_ref().map(|t| t.0)
}

/// When a pod counts as available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    Now,
    At(Timestamp),
    /// Not before its conditions change.
    Unready,
}

pub fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    if !ready(pod) {
        return Availability::Unready;
    }
    let available_at = |since| time::after_seconds(since, min_ready_seconds);
    match ready_since(pod) {
        _ if min_ready_seconds <= 0 => Availability::Now,
        Some(since) if available_at(since) <= now => Availability::Now,
        Some(since) => Availability::At(available_at(since)),
        None => Availability::Unready,
    }
}

pub fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

pub fn restarts(pod: &Pod) -> i32 {
    pod.status
        .iter()
        .flat_map(|s| s.container_statuses.iter().flatten())
        .map(|c| c.restart_count)
        .max()
        .unwrap_or(0)
}

/// A new pod from a template, controlled by its owner.
pub fn from_template(template: &PodTemplateSpec, owner_kind: Kind, owner: &ObjectMeta, name: String) -> Pod {
    let from = template.metadata.as_ref();
    Pod {
        metadata: ObjectMeta {
            name: Some(name),
            generate_name: Some(format!("{}-", meta::name(owner))),
            namespace: owner.namespace.clone(),
            labels: from.and_then(|m| m.labels.clone()),
            annotations: from.and_then(|m| m.annotations.clone()),
            finalizers: from.and_then(|m| m.finalizers.clone()),
            owner_references: Some(vec![meta::controlled_by(owner_kind, owner)]),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The number of pods of a template that may be in memory for one reconcile.
pub fn burst(template: &PodTemplateSpec) -> usize {
    const MAX_BYTES: usize = 16 << 20;
    let size = serde_json::to_vec(template).map_or(MAX_BYTES, |bytes| bytes.len());
    (MAX_BYTES / size.max(1)).max(1)
}

/// The order in which surplus pods are deleted: first those whose loss costs least.
/// Each pod comes with the number of related pods on its node.
pub fn deletion_order(a: (&Pod, usize), b: (&Pod, usize), now: Timestamp) -> Ordering {
    let ((a, a_rank), (b, b_rank)) = (a, b);
    let assigned = |p: &Pod| !node_name(p).is_empty();
    let progress = |p: &Pod| match phase(p) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    // Ages are compared by their power of two, so that the deleted pods are spread over ages.
    let age =
        |since: Option<Timestamp>| since.map_or(0, |t| time::elapsed(t, now).as_secs().max(1).ilog2() + 1);
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| progress(a).cmp(&progress(b)))
        .then_with(|| ready(a).cmp(&ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| b_rank.cmp(&a_rank))
        .then_with(|| age(ready_since(a)).cmp(&age(ready_since(b))))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| age(Some(meta::created(&a.metadata))).cmp(&age(Some(meta::created(&b.metadata)))))
        .then_with(|| meta::uid(&a.metadata).cmp(meta::uid(&b.metadata)))
}

fn deletion_cost(pod: &Pod) -> i32 {
    meta::annotation(&pod.metadata, "controller.kubernetes.io/pod-deletion-cost")
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}

/// The number of active pods on each node.
pub fn per_node<'a>(pods: impl Iterator<Item = &'a Pod>) -> HashMap<String, usize> {
    let mut nodes = HashMap::new();
    for pod in pods.filter(|p| active(p) && !node_name(p).is_empty()) {
        *nodes.entry(node_name(pod).to_owned()).or_insert(0) += 1;
    }
    nodes
}

/// The relation of an object to an owner that selects by labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    Mine,
    /// Matches and has no controller.
    Adopt,
    /// Is controlled by the owner, but no longer matches.
    Release,
    Foreign,
}

pub fn claim(object: &ObjectMeta, owner: &ObjectMeta, selector: &LabelSelector) -> Claim {
    let matches = meta::selects(selector, object.labels.as_ref());
    match meta::controller_of(object) {
        Some(o) if o.uid == meta::uid(owner) && matches => Claim::Mine,
        Some(o) if o.uid == meta::uid(owner) && !meta::terminating(owner) => Claim::Release,
        None if matches && !meta::terminating(owner) && !meta::terminating(object) => Claim::Adopt,
        _ => Claim::Foreign,
    }
}

/// The patch that adds the controller reference `owner` and removes the one with the uid `former`; it applies only to this
/// version of the object.
pub fn set_controller(
    kind: Kind,
    object: &ObjectMeta,
    owner: Option<OwnerReference>,
    former: &str,
) -> Action {
    let mut references: Vec<_> = object.owner_references.clone().unwrap_or_default();
    references.retain(|o| o.uid != former);
    references.extend(owner);
    Action::Patch {
        kind,
        key: Key::of(object),
        patch: json!({"metadata": {
            "uid": object.uid, "resourceVersion": object.resource_version, "ownerReferences": references,
        }}),
        subresource: "",
    }
}

/// A count, or a percentage of `total`.
pub fn scaled(value: &IntOrString, total: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(n) => *n,
        IntOrString::String(s) => {
            let percent: i64 = s.trim_end_matches('%').parse().unwrap_or(0);
            let parts = percent.saturating_mul(i64::from(total));
            let whole =
                if round_up { parts.saturating_add(99).div_euclid(100) } else { parts.div_euclid(100) };
            i32::try_from(whole).unwrap_or(if whole < 0 { i32::MIN } else { i32::MAX })
        }
    }
}
