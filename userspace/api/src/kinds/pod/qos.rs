//! The quality-of-service class of a Pod.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::quantity::Quantity;
use crate::resources::quantity;
use crate::value::items;

/// The resources that decide the class.
const COMPUTE: [&str; 2] = ["cpu", "memory"];

/// Sums of compute resources; zero amounts do not count.
type Amounts = BTreeMap<&'static str, Quantity>;

/// `Guaranteed`, `Burstable` or `BestEffort`: from the resources of the pod if it states them, else of its containers.
pub(crate) fn qos_class(spec: &Value) -> &'static str {
    let (mut requests, mut limits, mut is_limited) = (Amounts::new(), Amounts::new(), true);
    let mut add = |resources: &Value| {
        add_to(&mut requests, &resources["requests"]);
        is_limited &= add_to(&mut limits, &resources["limits"]) == COMPUTE.len();
    };
    if spec["resources"].is_object() {
        add(&spec["resources"]);
    } else {
        let containers = items(spec, "containers").chain(items(spec, "initContainers"));
        containers.for_each(|container| add(&container["resources"]));
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if is_limited && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// Returns how many of the compute resources the list has.
fn add_to(sums: &mut Amounts, list: &Value) -> usize {
    let mut found = 0;
    for name in COMPUTE {
        let Some(amount) = quantity(&list[name]).filter(|amount| !amount.is_zero()) else { continue };
        found += 1;
        let sum = sums.get(name).map_or(amount, |sum| sum.saturating_add(amount));
        sums.insert(name, sum);
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_class_is_upstreams() {
        let pod = |containers: Value| json!({"containers": containers});
        let both = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
        let equal = json!({"resources": {"requests": both("1", "1Gi"), "limits": both("1000m", "1024Mi")}});
        let rows = [
            (pod(json!([{}])), "BestEffort"),
            (pod(json!([{"resources": {"requests": {"cpu": "0"}, "limits": {"cpu": "0"}}}])), "BestEffort"),
            (pod(json!([{"resources": {"requests": {"example.com/gpu": "1"}}}])), "BestEffort"),
            (pod(json!([equal])), "Guaranteed"),
            (pod(json!([equal, {}])), "Burstable"),
            (pod(json!([{"resources": {"limits": both("1", "1Gi")}}])), "Burstable"),
            (pod(json!([{"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}}])), "Burstable"),
            (json!({"containers": [{}], "resources": equal["resources"]}), "Guaranteed"),
            (json!({"containers": [equal], "resources": {"requests": {"cpu": "1"}}}), "Burstable"),
        ];
        for (spec, wanted) in rows {
            assert_eq!(qos_class(&spec), wanted, "{spec}");
        }
    }
}
