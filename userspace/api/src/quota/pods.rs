//! What a pod counts for: itself, and the resources that it asks for while it lives.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::one;
use crate::resources::{self, Resources, Side};
use crate::value::items;

const COMPUTE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
const DEVICE_CLASS: &str = "deviceclass.resource.kubernetes.io/";
/// Where one of these is limited, each container must say what it asks for. Upstream calls that a mistake and keeps it.
const TO_BE_STATED: [&str; 6] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

pub(super) fn counts(name: &str) -> bool {
    let base = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    let extended = name.strip_prefix("requests.").is_some_and(is_extended);
    let huge = name.starts_with("hugepages-") || name.starts_with("requests.hugepages-");
    name == "pods" || COMPUTE.contains(&base) || huge || extended
}

/// A resource of a device: neither Kubernetes' own nor without a domain.
fn is_extended(name: &str) -> bool {
    name.starts_with(DEVICE_CLASS) || name.contains('/') && !name.contains("kubernetes.io/")
}

pub(super) fn usage(pod: &Value, now: Timestamp, usage: &mut Resources) {
    if is_over(pod, now) {
        return;
    }
    usage.set("pods", one());
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

/// Ended, or past the time that it had to end: it must not keep others from starting.
fn is_over(pod: &Value, now: Timestamp) -> bool {
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

/// Refuses containers that do not say what a quota counts.
pub(super) fn check_stated(pod: &Value, counted: &[&str]) -> Result<(), String> {
    let own = &pod["spec"]["resources"];
    if own["requests"].is_object() || own["limits"].is_object() {
        return Ok(());
    }
    let wanted: Vec<&str> = TO_BE_STATED.into_iter().filter(|name| counted.contains(name)).collect();
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in items(&pod["spec"], "containers").chain(items(&pod["spec"], "initContainers")) {
        let list = |side: &str| Resources::of(&container["resources"][side]);
        let mut stated = Resources::default();
        compute(&list("requests"), &list("limits"), &mut stated);
        for name in wanted.iter().filter(|name| stated.get(name).is_none()) {
            missing.entry(name).or_default().insert(container["name"].as_str().unwrap_or_default());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let told = missing.into_iter().map(|(name, containers)| {
        format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
    });
    Err(format!("must specify {}", told.collect::<Vec<_>>().join("; ")))
}
