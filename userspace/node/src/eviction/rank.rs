//! PURE. Which pod goes first when the node runs short, and what its status says.

use std::cmp::Reverse;

use k8s_openapi::api::core::v1::Pod;
use skep_api::fit;

use super::pressure::Observations;
use super::signals::{Signal, Threshold};
use crate::static_pods::is_static;

/// Pods with at least this priority belong to the cluster.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// What a pod uses of the resource that runs short.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub pod: Pod,
    /// By container; for disks also volumes, without a name.
    pub usage: Vec<(String, i64)>,
}

impl Candidate {
    fn used(&self) -> i64 {
        self.usage.iter().fold(0, |sum: i64, (_, used)| sum.saturating_add(*used))
    }

    fn over_request(&self, signal: Signal) -> i64 {
        self.used().saturating_sub(requested(&self.pod, signal))
    }
}

/// Whether the node never evicts the pod for a shortage: static pods, and pods that the cluster itself needs.
pub fn is_critical(pod: &Pod) -> bool {
    let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
    priority >= CRITICAL_PRIORITY || is_static(pod)
}

fn requested(pod: &Pod, signal: Signal) -> i64 {
    let requested = fit::requested(&Pod { spec: pod.spec.clone(), ..Pod::default() });
    match signal {
        Signal::Memory => requested.memory,
        Signal::NodeFs | Signal::ImageFs => requested.storage,
        _ => 0,
    }
}

/// The pod to evict: one that uses more than it requested before others, then the lowest priority, then the one that is
/// furthest above its request.
pub fn victim(candidates: Vec<Candidate>, signal: Signal) -> Option<Candidate> {
    let priority = |c: &Candidate| c.pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
    let viable = candidates.into_iter().filter(|c| !is_critical(&c.pod));
    viable.min_by_key(|c| {
        let over = c.over_request(signal);
        let counts_requests = matches!(signal, Signal::Memory | Signal::NodeFs | Signal::ImageFs);
        (counts_requests && over <= 0, priority(c), Reverse(over))
    })
}

/// The message of an eviction.
pub fn message(victim: &Candidate, threshold: &Threshold, observations: &Observations) -> String {
    let signal = threshold.signal;
    let resource = signal.resource();
    let mut message = format!("The node was low on resource: {resource}. ");
    if let Some(observed) = observations.get(&signal) {
        let (level, available) = (amount(threshold.level.of(observed.capacity)), amount(observed.available));
        message.push_str(&format!("Threshold quantity: {level}, available: {available}. "));
    }
    if !matches!(signal, Signal::Memory | Signal::NodeFs | Signal::ImageFs) {
        return message;
    }
    let containers = victim.pod.spec.iter().flat_map(|s| &s.containers);
    for container in containers {
        let Some((_, used)) = victim.usage.iter().find(|(name, _)| *name == container.name) else { continue };
        let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        let request = requests.and_then(|r| r.get(resource)).and_then(crate::resources::units).unwrap_or(0);
        if *used > request {
            message.push_str(&format!(
                "Container {} was using {}, request is {}, has larger consumption of {resource}. ",
                container.name,
                amount(*used),
                amount(request)
            ));
        }
    }
    message
}

/// As a quantity in binary units.
fn amount(amount: i64) -> String {
    crate::resources::bytes(amount).0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::eviction::signals::{Observation, parse};

    fn candidate(name: &str, priority: i32, request: i64, used: i64) -> Candidate {
        let resources = json!({"requests": {"memory": request.to_string()}});
        let pod = json!({"metadata": {"name": name}, "spec": {"priority": priority,
            "containers": [{"name": "c", "resources": resources}]}});
        let pod = serde_json::from_value(pod).expect("a pod");
        Candidate { pod, usage: vec![("c".into(), used)] }
    }

    #[test]
    fn pods_over_their_request_go_before_pods_of_low_priority() {
        let name = |found: Option<Candidate>| found.and_then(|c| c.pod.metadata.name).unwrap_or_default();
        let all = || {
            vec![
                candidate("modest", -5, 100, 100),
                candidate("critical", CRITICAL_PRIORITY, 0, 10_000),
                candidate("important", 10, 0, 900),
                candidate("over", 0, 50, 90),
                candidate("far-over", 0, 50, 500),
            ]
        };
        let mut left = all();
        let mut order = Vec::new();
        while let Some(next) = victim(left.clone(), Signal::Memory) {
            left.retain(|c| *c != next);
            order.push(name(Some(next)));
        }
        assert_eq!(order, ["far-over", "over", "important", "modest"]);
        assert_eq!(name(victim(all(), Signal::Pids)), "modest", "nothing requests processes");
    }

    #[test]
    fn the_message_is_upstreams() {
        let threshold = parse("memory.available<100Mi").expect("a threshold");
        let observations =
            Observations::from([(Signal::Memory, Observation { available: 90 << 20, capacity: 1 << 30 })]);
        let victim = candidate("p", 0, 1 << 10, 3 << 20);
        assert_eq!(
            message(&victim, &threshold, &observations),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi. \
             Container c was using 3Mi, request is 1Ki, has larger consumption of memory. "
        );
    }
}
