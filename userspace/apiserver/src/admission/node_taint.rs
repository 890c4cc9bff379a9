//! TaintNodesByCondition: a new node takes no pods until its conditions are known. The node lifecycle controller removes the taint.

use serde_json::{Value, json};

use super::request::{Operation, Request};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) fn admit(request: &Request<'_>, node: &mut Value) {
    if request.operation == Operation::Create && request.is("", "nodes") {
        taint(node);
    }
}

fn taint(node: &mut Value) {
    let Some(spec) = node["spec"].as_object_mut() else { return };
    let taints = spec.entry("taints").or_insert_with(|| json!([]));
    let Some(taints) = taints.as_array_mut() else { return };
    if !taints.iter().any(|taint| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule") {
        taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_gets_the_taint_once_beside_its_own() {
        let mut node = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
        taint(&mut node);
        let wanted =
            json!([{"key": "a", "effect": "NoSchedule"}, {"key": NOT_READY, "effect": "NoSchedule"}]);
        assert_eq!(node["spec"]["taints"], wanted);
        taint(&mut node);
        assert_eq!(node["spec"]["taints"], wanted);
    }
}
