//! The usage of a pod: its count and, until it ends, its requests and limits.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::quantity::Quantity;
use crate::resources::{self, Resources, Side};
use crate::value::items;

const COMPUTE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
const DEVICE_CLASS: &str = "deviceclass.resource.kubernetes.io/";
/// If a quota limits one of these, each container must specify it. Upstream calls that a mistake and keeps it.
const MUST_BE_SPECIFIED: [&str; 6] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

pub(super) fn counts(name: &str) -> bool {
    let base = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    let extended = name.strip_prefix("requests.").is_some_and(is_extended);
    let huge = name.starts_with("hugepages-") || name.starts_with("requests.hugepages-");
    name == "pods" || COMPUTE.contains(&base) || huge || extended
}

/// Whether it is an extended resource: it has a domain other than Kubernetes'.
fn is_extended(name: &str) -> bool {
    name.starts_with(DEVICE_CLASS) || name.contains('/') && !name.contains("kubernetes.io/")
}

pub(super) fn usage(pod: &Value, now: Timestamp, usage: &mut Resources) {
    if has_ended(pod, now) {
        return;
    }
    usage.set("pods", Quantity::from_millis(1000));
    let (requests, limits) = (resources::of_pod(pod, Side::Requests), resources::of_pod(pod, Side::Limits));
    compute(&requests, &limits, usage);
}

fn compute(requests: &Resources, limits: &Resources, usage: &mut Resources) {
    for (name, amount) in &requests.0 {
        if COMPUTE.contains(&name.as_str()) || name.starts_with("hugepages-") {
            usage.set(name.as_str(), *amount);
            usage.set(format!("requests.{name}"), *amount);
        } else if is_extended(name) {
            usage.set(format!("requests.{name}"), *amount);
        }
    }
    for (name, amount) in limits.0.iter().filter(|(name, _)| COMPUTE.contains(&name.as_str())) {
        usage.set(format!("limits.{name}"), *amount);
    }
}

/// Whether the pod ended or its grace period is over; a pod that hangs must not block others.
fn has_ended(pod: &Value, now: Timestamp) -> bool {
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return true;
    }
    let metadata = &pod["metadata"];
    let deleted = metadata["deletionTimestamp"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
    let (Some(deleted), Some(grace)) = (deleted, metadata["deletionGracePeriodSeconds"].as_i64()) else {
        return false;
    };
    let end = deleted.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX);
    now > end
}

/// Refuses containers that do not specify a resource that a quota counts. Err: the API's message.
pub(super) fn check_specified(pod: &Value, counted: &[&str]) -> Result<(), String> {
    let own = &pod["spec"]["resources"];
    if own["requests"].is_object() || own["limits"].is_object() {
        return Ok(());
    }
    let required: Vec<&str> = MUST_BE_SPECIFIED.into_iter().filter(|name| counted.contains(name)).collect();
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in items(&pod["spec"], "containers").chain(items(&pod["spec"], "initContainers")) {
        let list = |side: &str| Resources::of(&container["resources"][side]);
        let mut specified = Resources::default();
        compute(&list("requests"), &list("limits"), &mut specified);
        for name in required.iter().filter(|name| specified.get(name).is_none()) {
            missing.entry(name).or_default().insert(container["name"].as_str().unwrap_or_default());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let messages = missing.into_iter().map(|(name, containers)| {
        format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
    });
    Err(format!("must specify {}", messages.collect::<Vec<_>>().join("; ")))
}
