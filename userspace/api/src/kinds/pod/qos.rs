//! The quality-of-service class of a Pod.

use serde_json::Value;

use crate::resources::quantity;
use crate::value::items;

/// `Guaranteed`, `Burstable` or `BestEffort`, from the resources of the containers.
pub(crate) fn qos_class(spec: &Value) -> &'static str {
    let containers: Vec<&Value> = items(spec, "containers").chain(items(spec, "initContainers")).collect();
    let set = |container: &Value, list: &str| {
        ["cpu", "memory"].iter().any(|name| !container["resources"][list][*name].is_null())
    };
    if !containers.iter().any(|c| set(c, "requests") || set(c, "limits")) {
        return "BestEffort";
    }
    let guaranteed = |container: &Value| {
        ["cpu", "memory"].iter().all(|name| {
            let amount = |list: &str| quantity(&container["resources"][list][*name]);
            matches!((amount("limits"), amount("requests")), (Some(limit), Some(request)) if limit == request)
        })
    };
    if containers.iter().all(|c| guaranteed(c)) { "Guaranteed" } else { "Burstable" }
}
