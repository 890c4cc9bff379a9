//! DefaultTolerationSeconds: how long a pod stays on a node that is not ready or not reachable.

use serde_json::{Value, json};

use super::request::{Operation, Request};

const SECONDS: i64 = 300;

pub(super) fn admit(request: &Request<'_>, pod: &mut Value) {
    if request.is("", "pods") && request.operation != Operation::Delete {
        set(pod);
    }
}

fn set(pod: &mut Value) {
    let present = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerates = present.iter().any(|toleration| {
            let effect = &toleration["effect"];
            (toleration["key"] == key || toleration["key"].as_str().is_none_or(str::is_empty))
                && (effect.is_null() || effect == "" || effect == "NoExecute")
        });
        if tolerates {
            continue;
        }
        if !pod["spec"]["tolerations"].is_array() {
            pod["spec"]["tolerations"] = json!([]);
        }
        if let Some(list) = pod["spec"]["tolerations"].as_array_mut() {
            list.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pod_tolerates_already_stays() {
        for (tolerations, wanted) in [
            (json!(null), 2),
            (json!([{"operator": "Exists"}]), 0),
            (json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]), 1),
            (
                json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoSchedule"}]),
                2,
            ),
        ] {
            let mut pod = json!({"spec": {"tolerations": tolerations}});
            let before = tolerations.as_array().map_or(0, Vec::len);
            set(&mut pod);
            let after = pod["spec"]["tolerations"].as_array().map_or(0, Vec::len);
            assert_eq!(after - before, wanted, "{tolerations}");
        }
    }
}
