//! Resource lists and the resources of a pod as a whole. In: `limits`, `requests` and the like as JSON. PURE.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::quantity::Quantity;
use crate::value::items;

/// Amounts by resource name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources(pub BTreeMap<String, Quantity>);

/// Whether a pod may request the resource itself, in place of its containers (KEP-2837).
pub(crate) fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

impl Resources {
    /// Reads a resource list. Malformed amounts are left out; validation refuses them.
    pub fn of(list: &Value) -> Resources {
        let all = list.as_object().into_iter().flatten();
        Resources(all.filter_map(|(name, value)| Some((name.clone(), quantity(value)?))).collect())
    }

    /// The resource list as JSON.
    pub fn to_value(&self) -> Value {
        let pairs = self.0.iter().map(|(name, amount)| (name.clone(), amount.to_string().into()));
        Value::Object(pairs.collect::<Map<_, _>>())
    }

    /// The amount of a resource, if it is listed.
    pub fn get(&self, name: &str) -> Option<Quantity> {
        self.0.get(name).copied()
    }

    /// Whether no resource is listed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Replaces the amount of a resource.
    pub fn set(&mut self, name: impl Into<String>, amount: Quantity) {
        self.0.insert(name.into(), amount);
    }

    /// Adds the amounts of another list.
    pub fn add(&mut self, other: &Resources) {
        for (name, amount) in &other.0 {
            let own = self.0.entry(name.clone()).or_default();
            *own = own.saturating_add(*amount);
        }
    }

    /// Subtracts the amounts of another list, down to zero.
    pub fn subtract(&mut self, other: &Resources) {
        for (name, amount) in &mut self.0 {
            let less = amount.saturating_sub(other.get(name).unwrap_or_default());
            *amount = less.max(Quantity::default());
        }
    }

    /// Raises each amount to that of another list if it is greater.
    pub fn raise_to(&mut self, other: &Resources) {
        for (name, amount) in &other.0 {
            let own = self.0.entry(name.clone()).or_insert(*amount);
            *own = (*own).max(*amount);
        }
    }

    /// The resources whose names `keep` accepts.
    pub fn masked(&self, keep: impl Fn(&str) -> bool) -> Resources {
        Resources(self.0.iter().filter(|(name, _)| keep(name)).map(|(n, a)| (n.clone(), *a)).collect())
    }
}

/// `cpu=2,memory=1Gi`, as in messages.
impl std::fmt::Display for Resources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<String> = self.0.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
        f.write_str(&all.join(","))
    }
}

/// A quantity in JSON: a text or a number.
pub fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

/// `requests` or `limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Requests,
    Limits,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::Requests => "requests",
            Side::Limits => "limits",
        }
    }
}

/// The peak demand of a pod specification, without the runtime's overhead.
pub fn of_spec(spec: &Value, side: Side) -> Resources {
    peak(spec, side, |container| Resources::of(&container["resources"][side.name()]))
}

/// The resources that a pod is charged for: its overhead and, during a resize, the resources that its node has allocated
/// are included (KEP-1287).
pub fn of_pod(pod: &Value, side: Side) -> Resources {
    let spec = &pod["spec"];
    let mut total = peak(spec, side, |container| {
        let mut demand = Resources::of(&container["resources"][side.name()]);
        let lists = ["containerStatuses", "initContainerStatuses"];
        let mut statuses = lists.iter().flat_map(|list| items(&pod["status"], list));
        if let Some(status) = statuses.find(|status| status["name"] == container["name"]) {
            demand.raise_to(&Resources::of(&status["resources"][side.name()]));
            if side == Side::Requests {
                demand.raise_to(&Resources::of(&status["allocatedResources"]));
            }
        }
        demand
    });
    let overhead = Resources::of(&spec["overhead"]);
    match side {
        Side::Requests => total.add(&overhead),
        // Overhead does not limit a resource that the containers do not limit.
        Side::Limits => {
            let limited = overhead.masked(|name| total.get(name).is_some_and(|amount| !amount.is_zero()));
            total.add(&limited);
        }
    }
    total
}

/// The peak of a specification: init containers run one by one with the sidecars started so far, then all containers run
/// together (KEP-753).
/// The peak demand of the containers, whatever the pod itself requests.
pub(crate) fn of_containers(spec: &Value, side: Side) -> Resources {
    containers_peak(spec, |container| Resources::of(&container["resources"][side.name()]))
}

fn containers_peak(spec: &Value, of: impl Fn(&Value) -> Resources) -> Resources {
    let mut total = Resources::default();
    items(spec, "containers").for_each(|container| total.add(&of(container)));
    let (mut sidecars, mut init_peak) = (Resources::default(), Resources::default());
    for container in items(spec, "initContainers") {
        let own = of(container);
        let mut step = sidecars.clone();
        step.add(&own);
        if container["restartPolicy"] == "Always" {
            total.add(&own);
            sidecars = step.clone();
        }
        init_peak.raise_to(&step);
    }
    total.raise_to(&init_peak);
    total
}

fn peak(spec: &Value, side: Side, of: impl Fn(&Value) -> Resources) -> Resources {
    let mut total = containers_peak(spec, of);
    for (name, amount) in Resources::of(&spec["resources"][side.name()]).0 {
        if is_pod_level(&name) {
            total.set(name, amount);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container(cpu: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn a_pod_requests_its_peak_demand() {
        let sidecar =
            json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "200m"}}});
        for (spec, wanted) in [
            (json!({"containers": [container("100m"), container("1")]}), "cpu=1100m"),
            (json!({"containers": [container("100m")], "initContainers": [container("1")]}), "cpu=1"),
            (
                json!({"containers": [container("100m")], "initContainers": [sidecar, container("1")]}),
                "cpu=1200m",
            ),
            (json!({"containers": [container("1")], "initContainers": [sidecar]}), "cpu=1200m"),
            (
                json!({"containers": [container("1")], "resources": {"requests": {"cpu": "3", "x": "1"}}}),
                "cpu=3",
            ),
            (json!({}), ""),
        ] {
            assert_eq!(of_spec(&spec, Side::Requests).to_string(), wanted, "{spec}");
        }
    }

    #[test]
    fn overhead_is_charged_and_a_resize_counts_with_its_greater_amount() {
        let pod = json!({
            "spec": {"containers": [container("1")], "overhead": {"cpu": "250m", "memory": "1Mi"}},
            "status": {"containerStatuses": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]},
        });
        assert_eq!(of_pod(&pod, Side::Requests).to_string(), "cpu=2250m,memory=1Mi");
        assert_eq!(of_pod(&pod, Side::Limits).to_string(), "");
    }
}
