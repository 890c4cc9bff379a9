//! Lists of resources, and what a pod asks for as a whole. In: `limits`, `requests` and the like as JSON. PURE.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::quantity::Quantity;
use crate::value::items;

/// Amounts by the resource's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources(pub BTreeMap<String, Quantity>);

/// Resources that a pod may ask for itself, in place of its containers (KEP-2837).
fn is_of_pods(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

impl Resources {
    /// Amounts that are none are left out: they were refused, or will be.
    pub fn of(list: &Value) -> Resources {
        let all = list.as_object().into_iter().flatten();
        Resources(all.filter_map(|(name, value)| Some((name.clone(), quantity(value)?))).collect())
    }

    pub fn to_value(&self) -> Value {
        let pairs = self.0.iter().map(|(name, amount)| (name.clone(), amount.to_string().into()));
        Value::Object(pairs.collect::<Map<_, _>>())
    }

    pub fn get(&self, name: &str) -> Option<Quantity> {
        self.0.get(name).copied()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn set(&mut self, name: impl Into<String>, amount: Quantity) {
        self.0.insert(name.into(), amount);
    }

    pub fn add(&mut self, other: &Resources) {
        for (name, amount) in &other.0 {
            let own = self.0.entry(name.clone()).or_default();
            *own = own.saturating_add(*amount);
        }
    }

    /// Takes away, but never below nothing.
    pub fn subtract(&mut self, other: &Resources) {
        for (name, amount) in &mut self.0 {
            let less = amount.saturating_sub(other.get(name).unwrap_or_default());
            *amount = less.max(Quantity::default());
        }
    }

    pub fn raise_to(&mut self, other: &Resources) {
        for (name, amount) in &other.0 {
            let own = self.0.entry(name.clone()).or_insert(*amount);
            *own = (*own).max(*amount);
        }
    }

    /// Only the resources of these names.
    pub fn masked(&self, keep: impl Fn(&str) -> bool) -> Resources {
        Resources(self.0.iter().filter(|(name, _)| keep(name)).map(|(n, a)| (n.clone(), *a)).collect())
    }
}

/// `cpu=2,memory=1Gi`, as messages have it.
impl std::fmt::Display for Resources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<String> = self.0.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
        f.write_str(&all.join(","))
    }
}

/// A quantity as JSON may write it.
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

/// What the specification asks for at its neediest moment, without the runtime's overhead.
pub fn of_spec(spec: &Value, side: Side) -> Resources {
    sum(spec, side, |container| Resources::of(&container["resources"][side.name()]))
}

/// What a pod is charged for: overhead and, while it is resized, what its node gives it count (KEP-1287).
pub fn of_pod(pod: &Value, side: Side) -> Resources {
    let spec = &pod["spec"];
    let mut total = sum(spec, side, |container| {
        let mut wanted = Resources::of(&container["resources"][side.name()]);
        let lists = ["containerStatuses", "initContainerStatuses"];
        let mut statuses = lists.iter().flat_map(|list| items(&pod["status"], list));
        if let Some(status) = statuses.find(|status| status["name"] == container["name"]) {
            wanted.raise_to(&Resources::of(&status["resources"][side.name()]));
            if side == Side::Requests {
                wanted.raise_to(&Resources::of(&status["allocatedResources"]));
            }
        }
        wanted
    });
    let overhead = Resources::of(&spec["overhead"]);
    match side {
        Side::Requests => total.add(&overhead),
        // What is not limited is not limited by its overhead.
        Side::Limits => {
            let limited = overhead.masked(|name| total.get(name).is_some_and(|amount| !amount.is_zero()));
            total.add(&limited);
        }
    }
    total
}

/// Containers run together; before them, one by one, the init containers, beside the sidecars started so far (KEP-753).
fn sum(spec: &Value, side: Side, of: impl Fn(&Value) -> Resources) -> Resources {
    let mut total = Resources::default();
    items(spec, "containers").for_each(|container| total.add(&of(container)));
    let (mut sidecars, mut neediest) = (Resources::default(), Resources::default());
    for container in items(spec, "initContainers") {
        let own = of(container);
        let mut moment = sidecars.clone();
        moment.add(&own);
        if container["restartPolicy"] == "Always" {
            total.add(&own);
            sidecars = moment.clone();
        }
        neediest.raise_to(&moment);
    }
    total.raise_to(&neediest);
    for (name, amount) in Resources::of(&spec["resources"][side.name()]).0 {
        if is_of_pods(&name) {
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
    fn a_pod_asks_for_its_neediest_moment() {
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
    fn overhead_is_charged_and_a_resize_counts_at_its_greater_side() {
        let pod = json!({
            "spec": {"containers": [container("1")], "overhead": {"cpu": "250m", "memory": "1Mi"}},
            "status": {"containerStatuses": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]},
        });
        assert_eq!(of_pod(&pod, Side::Requests).to_string(), "cpu=2250m,memory=1Mi");
        assert_eq!(of_pod(&pod, Side::Limits).to_string(), "");
    }
}
